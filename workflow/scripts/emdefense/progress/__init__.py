"""What a person sees while Snakemake runs."""
