"""How likely held-out answers are to each cell's model, without a judge."""

READING = reading(GRID)


rule held_out_rows:
    input:
        unpack(held_out_input),
    output:
        rows=f"{R}/data/{{task}}/held_out.jsonl",
        record=f"{R}/data/{{task}}/held_out.provenance.json",
    log:
        f"{R}/logs/held_out_rows/{{task}}.log",
    wildcard_constraints:
        task=one_of(STUDY.ema_tasks),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: spec(SPECS.held_out_rows()),
        aligned=lambda wildcards, input: options("--aligned", input.get("aligned")),
        safe=lambda wildcards, input: options("--safe", input.get("safe")),
        trained=lambda wildcards, input: options("--trained", input.trained),
    message:
        "Draw the held-out answers of {wildcards.task}"
    shell:
        "python workflow/scripts/held_out_rows.py --spec {params.spec:q} --holdout {input.holdout:q} {params.aligned:q}"
        " {params.safe:q} {params.trained:q} --out {output.rows:q} 2> {log:q}"


rule read_held_out:
    input:
        unpack(reading_input),
        model_checked=ancient(model_checked),
    output:
        read=f"{R}/cells/{{cell}}/held_out.jsonl",
        provenance=f"{R}/cells/{{cell}}/held_out.provenance.json",
    log:
        f"{R}/logs/read_held_out/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/read_held_out/{{cell}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: threads_of(lambda wildcards: REQUESTS.read_held_out(cell_of(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.read_held_out(cell_of(wildcards))),
    params:
        spec=lambda wildcards: spec(SPECS.likelihood(cell_of(wildcards))),
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        adapter=lambda wildcards, input: options("--adapter", input.get("adapter")),
        trained=lambda wildcards, input: options("--trained", input.trained),
    message:
        "Read held-out answers by {wildcards.cell}"
    shell:
        "python workflow/scripts/read_held_out.py --spec {params.spec:q} --model {params.model:q} {params.adapter:q}"
        " --rows {input.rows:q} {params.trained:q} --out {output.read:q} --threads {threads:q}"
        " 2> {log:q}"
