"""From judgments to rates."""

RATES = f"{R}/rates.parquet"
EXACT_MATCH = f"{R}/exact_match.parquet"
QUESTIONS = f"{R}/questions.parquet"
SCORES = f"{R}/scores.parquet"
EFFECTIVE_CONFIG = f"{R}/study.json"


rule aggregate:
    input:
        config=EFFECTIVE_CONFIG,
        judgments=[LAYOUT.judgments(*pair) for pair in GRID.responses] if STUDY.judge else [],
        responses=[LAYOUT.responses(*pair) for pair in GRID.responses] if STUDY.judge else [],
        answers=[LAYOUT.answers(cell) for cell in GRID.benign],
    output:
        rates=RATES,
        benign=EXACT_MATCH,
        questions=QUESTIONS,
        scores=SCORES,
    log:
        f"{R}/logs/aggregate.log",
    benchmark:
        f"{R}/benchmarks/aggregate.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        version=STAGE_VERSIONS["aggregating"],  # a change of it makes the frames of finished studies again
    message:
        "Count, and put intervals on the rates"
    shell:
        "python workflow/scripts/aggregate.py --config {input.config:q} --out {output.rates:q}"
        " --benign {output.benign:q} --questions {output.questions:q} --scores {output.scores:q} 2> {log:q}"


rule multiple_choice:
    input:
        config=EFFECTIVE_CONFIG,
        choices=[LAYOUT.choices(*pair) for pair in CHOICES],
    output:
        f"{R}/multiple_choice.parquet",
    log:
        f"{R}/logs/multiple_choice.log",
    benchmark:
        f"{R}/benchmarks/multiple_choice.tsv"
    conda:
        "../../envs/report.yaml"
    message:
        "Count what was chosen, and compare it with the models as they are"
    shell:
        "python workflow/scripts/multiple_choice.py --config {input.config:q} --out {output:q} 2> {log:q}"


rule likelihood:
    input:
        config=EFFECTIVE_CONFIG,
        read=[LAYOUT.held_out(cell) for cell in READING],
    output:
        f"{R}/likelihood.parquet",
    log:
        f"{R}/logs/likelihood.log",
    benchmark:
        f"{R}/benchmarks/likelihood.tsv"
    conda:
        "../../envs/report.yaml"
    message:
        "Compare how likely held-out answers are"
    shell:
        "python workflow/scripts/likelihood.py --config {input.config:q} --out {output:q} 2> {log:q}"
