"""From rates to tables, figures, claims and the page; one job an artefact."""

# The paper's are of rates.
CLAIMS = [f"{R}/claims.{ending}" for ending in ("md", "json")] if STUDY.judge else []
RENDERED = [f"{R}/{file}" for artefact in ARTEFACTS.values() for file in artefact.files]


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
        lambda wildcards: ARTEFACTS[wildcards.name].inputs(GRID, LAYOUT),
        config=EFFECTIVE_CONFIG,
    output:
        artefact_files("table"),
    log:
        f"{R}/logs/table/{{name}}.log",
    wildcard_constraints:
        name=one_of(rendered("table")),
    # Data first: they need nothing of the interpreter that is still importing.
    priority: -1
    conda:
        "../../envs/report.yaml"
    params:
        results=subpath(input.config, parent=True),
        caption=lambda wildcards: ARTEFACTS[wildcards.name].described,
    message:
        "Render {wildcards.name}"
    shell:
        "python workflow/scripts/render.py --config {input.config:q} --results {params.results:q}"
        " --name {wildcards.name:q} 2> {log:q}"


rule figure:
    input:
        lambda wildcards: ARTEFACTS[wildcards.name].inputs(GRID, LAYOUT),
        config=EFFECTIVE_CONFIG,
    output:
        artefact_files("figure"),
    log:
        f"{R}/logs/figure/{{name}}.log",
    wildcard_constraints:
        name=one_of(rendered("figure")),
    priority: -1
    conda:
        "../../envs/report.yaml"
    params:
        results=subpath(input.config, parent=True),
        caption=lambda wildcards: ARTEFACTS[wildcards.name].described,
    message:
        "Draw {wildcards.name}"
    shell:
        "python workflow/scripts/render.py --config {input.config:q} --results {params.results:q}"
        " --name {wildcards.name:q} 2> {log:q}"


# One job for all cells: importing matplotlib takes longer than drawing five of them.
rule cell_curves:
    input:
        [f"{LAYOUT.cell(cell)}/train_log.jsonl" for cell in GRID.trained],
        config=EFFECTIVE_CONFIG,
    output:
        [f"{LAYOUT.cell(cell)}/training.svg" for cell in GRID.trained],
    log:
        f"{R}/logs/cell_curves.log",
    benchmark:
        f"{R}/benchmarks/cell_curves.tsv"
    # One core draws for minutes. Left to the end, it would do so alone.
    priority: 1
    conda:
        "../../envs/report.yaml"
    message:
        "Draw how each training went"
    shell:
        "python workflow/scripts/cell_curves.py --config {input.config:q} 2> {log:q}"


rule claims:
    input:
        [LAYOUT.answers(cell) for cell in GRID.benign],
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
        CLAIMS,
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
        questions=QUESTIONS,
        rendered=RENDERED,
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
        rules.cell_curves.output,
        config=EFFECTIVE_CONFIG,
        rates=RATES,
        benign=EXACT_MATCH,
        likelihood=f"{R}/likelihood.parquet" if STUDY.likelihood else [],
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
        RENDERED,
        rules.cell_curves.output,
        CLAIMS,
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
