"""From judgments to rates, and what their statistics say beyond them."""

RATES = f"{R}/rates.parquet"
EXACT_MATCH = f"{R}/exact_match.parquet"
QUESTIONS = f"{R}/questions.parquet"
SCORES = f"{R}/scores.parquet"
EFFECTIVE_CONFIG = f"{R}/study.json"
PAIRED_DIFFERENCES = [
    f"{R}/tables/paired_{name}.{kind}" for name in ("differences", "defences") for kind in ("md", "tex", "html", "csv")
]
VARIANCE_COMPONENTS = multiext(f"{R}/tables/variance_components", ".md", ".tex", ".html", ".csv")


rule aggregate:
    input:
        config=EFFECTIVE_CONFIG,
        judgments=[LAYOUT.judgments(*pair) for pair in GRID.responses],
        responses=[LAYOUT.responses(*pair) for pair in GRID.responses],
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
    message:
        "Count, and put intervals on the rates"
    shell:
        "python workflow/scripts/aggregate.py --config {input.config:q} --out {output.rates:q}"
        " --benign {output.benign:q} --questions {output.questions:q} --scores {output.scores:q} 2> {log:q}"


rule paired_differences:
    input:
        config=EFFECTIVE_CONFIG,
        questions=QUESTIONS,
    output:
        reported(
            PAIRED_DIFFERENCES,
            ".html",
            caption="../report/paired_differences.rst",
            category="Tables",
            labels={"table": "paired differences"},
        ),
    log:
        f"{R}/logs/paired_differences.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Compare each defence with the misaligned arm and with each other, question by question"
    shell:
        "python workflow/scripts/paired_differences.py --config {input.config:q} --questions {input.questions:q}"
        " --out {params.out:q} 2> {log:q}"


rule variance_components:
    input:
        [LAYOUT.judgments(*triple) for triple in GRID.judgments],
        config=EFFECTIVE_CONFIG,
        questions=QUESTIONS,
    output:
        reported(
            VARIANCE_COMPONENTS,
            ".html",
            caption="../report/variance_components.rst",
            category="Tables",
            labels={"table": "variance components"},
        ),
    log:
        f"{R}/logs/variance_components.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=subpath(output[0], parent=True),
    message:
        "Tell what the error of each rate is made of"
    shell:
        "python workflow/scripts/variance_components.py --config {input.config:q} --questions {input.questions:q}"
        " --out {params.out:q} 2> {log:q}"
