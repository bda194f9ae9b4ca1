"""From rates to tables, figures, claims and the page; one job an artefact."""

from emdefense.report.artefacts import FIGURES, FURTHER_FIGURES, TABLES

PROJECTIONS = [LAYOUT.preparation(cell) for cell in GRID.prepared]
SAFELORA_TABLE = multiext(f"{R}/tables/safelora_matrices", ".md", ".tex", ".html", ".csv")
SAFELORA_FIGURE = multiext(f"{R}/figures/safelora_cosines", ".pdf", ".svg", ".png")
JUDGE_TABLES = [
    f"{R}/tables/judge_{name}.{kind}" for name in ("agreement", "confusion") for kind in ("md", "tex", "html", "csv")
]
TRAINING_FIGURE = multiext(f"{R}/figures/training_curves", ".pdf", ".svg", ".png")


rule effective_config:
    output:
        EFFECTIVE_CONFIG,
    log:
        f"{R}/logs/effective_config.log",
    conda:
        "../../envs/report.yaml"
    params:
        study=lambda wildcards: spec(STUDY.model_dump(mode="json")),
    message:
        "Write down the effective config"
    shell:
        "printf '%s\\n' {params.study:q} > {output:q} 2> {log:q}"


rule table:
    input:
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
        questions=QUESTIONS,
    output:
        reported(
            multiext(f"{R}/tables/table_{{number}}", ".md", ".tex", ".html", ".csv"),
            ".html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{number}"},
        ),
    log:
        f"{R}/logs/table/{{number}}.log",
    wildcard_constraints:
        number=r"\d\d",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Render Table {wildcards.number}"
    shell:
        "python workflow/scripts/table.py --config {input.config:q} --rates {input.rates:q} --benign {input.benign:q}"
        " --questions {input.questions:q} --number {wildcards.number:q} --out {params.out:q} 2> {log:q}"


rule figure:
    input:
        config=EFFECTIVE_CONFIG,
        rates=RATES,
    output:
        reported(
            multiext(f"{R}/figures/figure_{{name}}", ".pdf", ".svg", ".png"),
            ".svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        f"{R}/logs/figure/{{name}}.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Draw Figure {wildcards.name}"
    shell:
        "python workflow/scripts/figure.py --config {input.config:q} --rates {input.rates:q}"
        " --name {wildcards.name:q} --out {params.out:q} 2> {log:q}"


rule further_figure:
    input:
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        questions=QUESTIONS,
        scores=SCORES,
    output:
        reported(
            multiext(f"{R}/figures/{{name}}", ".pdf", ".svg", ".png"),
            ".svg",
            caption="../report/further_figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        f"{R}/logs/figure/{{name}}.log",
    wildcard_constraints:
        name=one_of(FURTHER_FIGURES),
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Draw the figure {wildcards.name}"
    shell:
        "python workflow/scripts/further_figure.py --config {input.config:q} --rates {input.rates:q}"
        " --questions {input.questions:q} --scores {input.scores:q} --name {wildcards.name:q} --out {params.out:q}"
        " 2> {log:q}"


rule safelora_table:
    input:
        PROJECTIONS,
        config=EFFECTIVE_CONFIG,
    output:
        reported(
            SAFELORA_TABLE,
            ".html",
            caption="../report/safelora.rst",
            category="Tables",
            labels={"table": "SafeLoRA's matrices"},
        ),
    log:
        f"{R}/logs/safelora_table.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Render the table of SafeLoRA's matrices"
    shell:
        "python workflow/scripts/safelora_table.py --config {input.config:q} --out {params.out:q} 2> {log:q}"


rule safelora_figure:
    input:
        PROJECTIONS,
        config=EFFECTIVE_CONFIG,
    output:
        reported(
            SAFELORA_FIGURE,
            ".svg",
            caption="../report/safelora.rst",
            category="Figures",
            labels={"figure": "SafeLoRA's cosines"},
        ),
    log:
        f"{R}/logs/safelora_figure.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Draw the cosines of SafeLoRA's matrices"
    shell:
        "python workflow/scripts/safelora_figure.py --config {input.config:q} --out {params.out:q} 2> {log:q}"


rule judge_agreement:
    input:
        [LAYOUT.judgments(*triple) for triple in GRID.judgments],
        config=EFFECTIVE_CONFIG,
    output:
        reported(
            JUDGE_TABLES,
            ".html",
            caption="../report/judges.rst",
            category="Tables",
            labels={"table": "judges"},
        ),
    log:
        f"{R}/logs/judge_agreement.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Compare the judges"
    shell:
        "python workflow/scripts/judge_agreement.py --config {input.config:q} --out {params.out:q} 2> {log:q}"


# One job for all cells: importing matplotlib takes longer than drawing five of them.
rule training_curves:
    input:
        [f"{LAYOUT.cell(cell)}/train_log.jsonl" for cell in GRID.trained],
        config=EFFECTIVE_CONFIG,
    output:
        [f"{LAYOUT.cell(cell)}/training.svg" for cell in GRID.trained],
        overview=reported(
            TRAINING_FIGURE,
            ".svg",
            caption="../report/training_curves.rst",
            category="Figures",
            labels={"figure": "training curves"},
        ),
    log:
        f"{R}/logs/training_curves.log",
    benchmark:
        f"{R}/benchmarks/training_curves.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[-1], parent=True),
    message:
        "Draw how the trainings went"
    shell:
        "python workflow/scripts/training_curves.py --config {input.config:q} --out {params.out:q} 2> {log:q}"


rule claims:
    input:
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
        questions=QUESTIONS,
    output:
        multiext(f"{R}/claims", ".md", ".json"),
    log:
        f"{R}/logs/claims.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], strip_suffix=".md"),
    message:
        "Recompute the paper's claims"
    shell:
        "python workflow/scripts/claims.py --config {input.config:q} --rates {input.rates:q} --benign {input.benign:q}"
        " --questions {input.questions:q} --out {params.out:q} 2> {log:q}"


rule page:
    input:
        rules.claims.output,
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
        questions=QUESTIONS,
        tables=expand(f"{R}/tables/table_{{number}}.html", number=TABLES),
        figures=expand(f"{R}/figures/figure_{{name}}.svg", name=FIGURES),
        further=expand(f"{R}/figures/{{name}}.svg", name=FURTHER_FIGURES),
        statistics=[*PAIRED_DIFFERENCES, *VARIANCE_COMPONENTS],
        training=TRAINING_FIGURE,
        safelora=[*SAFELORA_TABLE, *SAFELORA_FIGURE] if PROJECTIONS else [],
        judges=JUDGE_TABLES if STUDY.second_judges else [],
    output:
        report(f"{R}/report/index.html", caption="../report/page.rst", category="Page"),
    log:
        f"{R}/logs/page.log",
    conda:
        "../../envs/report.yaml"
    params:
        results=subpath(input.config, parent=True),
    message:
        "Assemble the page"
    shell:
        "python workflow/scripts/page.py --config {input.config:q} --results {params.results:q} --out {output:q} 2> {log:q}"


# One job for all cells: a page takes less time than its script needs to start.
rule cell_pages:
    input:
        [LAYOUT.responses(*pair) for pair in GRID.responses],
        [LAYOUT.judgments(*triple) for triple in GRID.judgments],
        [LAYOUT.answers(cell) for cell in GRID.benign],
        rules.training_curves.output,
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
    output:
        directory(f"{R}/report/cells"),
    log:
        f"{R}/logs/cell_pages.log",
    benchmark:
        f"{R}/benchmarks/cell_pages.tsv"
    conda:
        "../../envs/report.yaml"
    params:
        results=subpath(input.config, parent=True),
    message:
        "Write a page for each cell, with its responses to read"
    shell:
        "python workflow/scripts/cell_pages.py --config {input.config:q} --results {params.results:q}"
        " --out {output:q} 2> {log:q}"


# Tables, figures, claims and the page: `snakemake report` redraws them without naming the cells.
rule report:
    input:
        expand(
            f"{R}/tables/table_{{number}}.{{kind}}",
            number=TABLES,
            kind=["md", "tex", "html", "csv"],
        ),
        expand(
            f"{R}/figures/figure_{{name}}.{{kind}}",
            name=FIGURES,
            kind=["pdf", "svg", "png"],
        ),
        expand(
            f"{R}/figures/{{name}}.{{kind}}",
            name=FURTHER_FIGURES,
            kind=["pdf", "svg", "png"],
        ),
        rules.paired_differences.output,
        rules.variance_components.output,
        [*SAFELORA_TABLE, *SAFELORA_FIGURE] if PROJECTIONS else [],
        JUDGE_TABLES if STUDY.second_judges else [],
        rules.training_curves.output,
        rules.claims.output,
        rules.page.output,
        rules.cell_pages.output,


# Not wanted by `all`: `snakemake --sdm conda -- inspect_logs`, then `inspect view --log-dir` on the folder.
rule inspect_logs:
    input:
        [LAYOUT.responses(*pair) for pair in GRID.responses],
        [LAYOUT.judgments(*triple) for triple in GRID.judgments],
        config=EFFECTIVE_CONFIG,
    output:
        directory(f"{R}/inspect_logs"),
    log:
        f"{R}/logs/inspect_logs.log",
    conda:
        "../../envs/inspect.yaml"
    message:
        "Export responses and judgments to Inspect's logs"
    shell:
        "python workflow/scripts/export_inspect.py --config {input.config:q} --out {output:q} 2> {log:q}"


rule paper_values:
    output:
        directory("results/paper-values"),
    log:
        "results/logs/paper_values.log",
    conda:
        "../../envs/report.yaml"
    message:
        "Render every table and figure from the paper's published numbers"
    shell:
        "python workflow/scripts/paper_values.py --out {output:q} 2> {log:q}"
