"""Adapters: trained, or projected by SafeLoRA."""


rule train:
    input:
        model=instruct_input,
        rows=lambda wildcards: GRID.training_rows(cell_of(wildcards), LAYOUT),
        features=lambda wildcards: GRID.features(cell_of(wildcards), LAYOUT) or [],
        checked=ancient(f"{R}/data/.checked"),
        model_checked=ancient(model_checked),
    output:
        adapter=directory(f"{R}/cells/{{cell}}/adapter"),
        log=f"{R}/cells/{{cell}}/train_log.jsonl",
        timing=f"{R}/cells/{{cell}}/train_timing.jsonl",
        provenance=f"{R}/cells/{{cell}}/provenance.json",
    log:
        f"{R}/logs/train/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/train/{{cell}}.tsv"
    wildcard_constraints:
        cell=cells(arm=f"(?!untrained/|safelora/){NAME_REGEX}"),
    conda:
        "../../envs/train.yaml"
    threads: STUDY.training.devices  # one a process
    resources:
        **asks(lambda wildcards: REQUESTS.train(cell_of(wildcards))),
    params:
        spec=lambda wildcards: spec(GRID.training_spec(cell_of(wildcards))),
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        # Checkpoints lie beside the declared outputs, which Snakemake removes when a job fails.
        cell=subpath(output.adapter, parent=True),
        features=lambda wildcards, input: options("--features", input.features),
    message:
        "Train {wildcards.cell}"
    shell:
        "python workflow/scripts/train.py --spec {params.spec:q} --model {params.model:q} --rows {input.rows:q}"
        " {params.features:q} --cell {params.cell:q} 2> {log:q}"


# Only where `training.reference` is `cached`.
rule reference_features:
    input:
        model=lambda wildcards: model_input(instruct_of(features_cell(wildcards).model)),
        rows=lambda wildcards: GRID.training_rows(features_cell(wildcards), LAYOUT),
        checked=ancient(f"{R}/data/.checked"),
        model_checked=ancient(lambda wildcards: LAYOUT.checked(features_cell(wildcards).model)),
    output:
        features=directory(f"{R}/features/{{features}}"),
    log:
        f"{R}/logs/features/{{features}}.log",
    benchmark:
        f"{R}/benchmarks/features/{{features}}.tsv"
    wildcard_constraints:
        features=f"{NAME_REGEX}/{NAME_REGEX}/{NAME_REGEX}",
    conda:
        "../../envs/train.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.train(features_cell(wildcards))),
    params:
        spec=lambda wildcards: spec(GRID.features_spec(features_cell(wildcards))),
        model=lambda wildcards, input: instruct_of(features_cell(wildcards).model),
    message:
        "Cache the reference features {wildcards.features}"
    shell:
        "python workflow/scripts/reference_features.py --spec {params.spec:q} --model {params.model:q}"
        " --rows {input.rows:q} --out {output.features:q} 2> {log:q}"


rule project:
    input:
        adapter=lambda wildcards: LAYOUT.adapter(
            GRID.projected_from(
                Cell(
                    wildcards.model,
                    wildcards.task,
                    "safelora",
                    "none",
                    int(wildcards.seed),
                )
            )
        ),
        base=lambda wildcards: model_input(LAYOUT.file(STUDY.models[wildcards.model].base)),
        instruct=lambda wildcards: model_input(instruct_of(wildcards.model)),
    output:
        projection=directory(f"{R}/cells/{{model}}/{{task}}/safelora/projection/seed{{seed}}"),
    log:
        f"{R}/logs/project/{{model}}/{{task}}/seed{{seed}}.log",
    benchmark:
        f"{R}/benchmarks/project/{{model}}/{{task}}/seed{{seed}}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.project(wildcards.model)),
    params:
        spec=lambda wildcards: spec(
            {
                "version": STAGE_VERSIONS["projection"],
                **STUDY.arms.safelora.model_dump(mode="json"),
            }
        ),
        base=lambda wildcards, input: LAYOUT.file(STUDY.models[wildcards.model].base),
        instruct=lambda wildcards, input: instruct_of(wildcards.model),
    message:
        "Project {wildcards.model}/{wildcards.task} onto the alignment subspace, for every τ"
    shell:
        "python workflow/scripts/project.py --spec {params.spec:q} --adapter {input.adapter:q} --base {params.base:q}"
        " --instruct {params.instruct:q} --out {output.projection:q} 2> {log:q}"


rule threshold:
    input:
        adapter=lambda wildcards: LAYOUT.adapter(projected(wildcards)),
        projection=lambda wildcards: LAYOUT.projection(cell_of(wildcards)),
    output:
        adapter=directory(f"{R}/cells/{{cell}}/adapter"),
        provenance=f"{R}/cells/{{cell}}/provenance.json",
    log:
        f"{R}/logs/threshold/{{cell}}.log",
    wildcard_constraints:
        cell=cells(arm="safelora", setting=f"(?!projection/){SETTING_REGEX}"),
    conda:
        "../../envs/train.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.project(cell_of(wildcards).model)),
    params:
        tau=lambda wildcards: cell_of(wildcards).setting,
        cell=subpath(output.adapter, parent=True),
    message:
        "Replace the matrices below the threshold in {wildcards.cell}"
    shell:
        "python workflow/scripts/threshold.py --tau {params.tau:q} --adapter {input.adapter:q}"
        " --projection {input.projection:q} --cell {params.cell:q} 2> {log:q}"
