"""Adapters: trained, or changed by an arm after training."""


rule train:
    input:
        model=instruct_input,
        rows=lambda wildcards: INPUTS.training_rows(cell_of(wildcards)),
        features=lambda wildcards: INPUTS.features(cell_of(wildcards)) or [],
        prepared=lambda wildcards: list(INPUTS.prepared_for(cell_of(wildcards)).values()),
        stream=lambda wildcards: INPUTS.stream(cell_of(wildcards)) or [],
        named=lambda wildcards: INPUTS.option_files(cell_of(wildcards)),
        declaration=declaration,
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
        cell=cells(arm=arms_where(lambda arm: arm.is_trained and not arm.changes_adapter)),
    conda:
        "../../envs/train.yaml"
    threads: threads_of(lambda wildcards: REQUESTS.train(cell_of(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.train(cell_of(wildcards))),
    params:
        spec=lambda wildcards: spec(SPECS.training(cell_of(wildcards))),
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        # Checkpoints lie beside the declared outputs, which Snakemake removes when a job fails.
        cell=subpath(output.adapter, parent=True),
        features=lambda wildcards, input: options("--features", input.features),
        prepared=lambda wildcards, input: options("--prepared", role_options(INPUTS.prepared_for(cell_of(wildcards)))),
        stream=lambda wildcards, input: options("--stream", input.stream),
    message:
        "Train {wildcards.cell}"
    shell:
        "python workflow/scripts/train.py --spec {params.spec:q} --model {params.model:q} --rows {input.rows:q}"
        " {params.features:q} {params.prepared:q} {params.stream:q} --cell {params.cell:q}"
        " --threads {threads:q} 2> {log:q}"


# Only where `training.reference` is `cached`.
rule reference_features:
    input:
        model=lambda wildcards: model_input(instruct_of(features_cell(wildcards).model)),
        rows=lambda wildcards: INPUTS.training_rows(features_cell(wildcards)),
        declaration=lambda wildcards: [str(file) for file in [GRID.arm(features_cell(wildcards)).file] if file],
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
    threads: threads_of(lambda wildcards: REQUESTS.train(features_cell(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.train(features_cell(wildcards))),
    params:
        spec=lambda wildcards: spec(SPECS.features(features_cell(wildcards))),
        model=lambda wildcards, input: instruct_of(features_cell(wildcards).model),
    message:
        "Cache the reference features {wildcards.features}"
    shell:
        "python workflow/scripts/reference_features.py --spec {params.spec:q} --model {params.model:q}"
        " --rows {input.rows:q} --out {output.features:q} --threads {threads:q} 2> {log:q}"


# Once for all settings of an arm that need the same: a projection, say.
rule prepare_arm:
    input:
        unpack(prepared_input),
        named=lambda wildcards: INPUTS.option_files(prepared_cell(wildcards)),
        declaration=declaration,
    output:
        directory(f"{R}/cells/{{model}}/{{task}}/{{arm}}/{{preparation}}/seed{{seed}}"),
    log:
        f"{R}/logs/prepare_arm/{{model}}/{{task}}/{{arm}}/{{preparation}}/seed{{seed}}.log",
    benchmark:
        f"{R}/benchmarks/prepare_arm/{{model}}/{{task}}/{{arm}}/{{preparation}}/seed{{seed}}.tsv"
    wildcard_constraints:
        arm=arms_where(lambda arm: arm.preparation),
        preparation=one_of({arm.arm.preparation for arm in STUDY.every_arm.values()} - {""}),
    conda:
        "../../envs/train.yaml"
    threads: threads_of(lambda wildcards: REQUESTS.prepare(prepared_cell(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.prepare(prepared_cell(wildcards))),
    params:
        spec=lambda wildcards: spec(SPECS.preparation(prepared_cell(wildcards))),
        arm=lambda wildcards, input: arm_options(wildcards.arm),
        materials=lambda wildcards, input: options(
            "--from", role_options(INPUTS.prepared_from(prepared_cell(wildcards)))
        ),
    message:
        "Prepare {wildcards.arm} for {wildcards.model}/{wildcards.task}, for all of its settings"
    shell:
        "python workflow/scripts/prepare_arm.py {params.arm:q} --spec {params.spec:q} {params.materials:q}"
        " --out {output:q} --threads {threads:q} 2> {log:q}"


# Of the pool that some arms choose rows from; once a model, and once for each of its misaligned adapters.
rule pool_losses:
    input:
        unpack(losses_input),
        model=instruct_input,
        pool=LAYOUT.pool or [],
        model_checked=ancient(model_checked),
    output:
        f"{R}/cells/{{cell}}/pool_losses.jsonl",
    log:
        f"{R}/logs/pool_losses/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/pool_losses/{{cell}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: threads_of(lambda wildcards: REQUESTS.losses(cell_of(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.losses(cell_of(wildcards))),
    params:
        spec=lambda wildcards: spec(SPECS.losses(cell_of(wildcards))),
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        adapter=lambda wildcards, input: options("--adapter", input.get("adapter")),
    message:
        "Compute the losses of {wildcards.cell} on the pool"
    shell:
        "python workflow/scripts/pool_losses.py --spec {params.spec:q} --model {params.model:q} {params.adapter:q}"
        " --rows {input.pool:q} --out {output:q} --threads {threads:q} 2> {log:q}"


# Rows that depend on the model, and so on what was prepared with it.
rule cell_rows:
    input:
        rows=lambda wildcards: INPUTS.known_rows(cell_of(wildcards)),
        more=lambda wildcards: list(INPUTS.more_rows(cell_of(wildcards).arm, cell_of(wildcards).task).values()),
        prepared=lambda wildcards: LAYOUT.preparation(GRID.rows_preparation(cell_of(wildcards))),
        declaration=declaration,
    output:
        f"{R}/cells/{{cell}}/rows.jsonl",
    log:
        f"{R}/logs/cell_rows/{{cell}}.log",
    wildcard_constraints:
        cell=cells(arm=arms_where(lambda arm: arm.overrides("rows") and arm.preparation)),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: spec(cell_rows_spec(wildcards)),
        arm=lambda wildcards, input: arm_options(cell_of(wildcards).arm),
        more=lambda wildcards, input: options(
            "--more", role_options(INPUTS.more_rows(cell_of(wildcards).arm, cell_of(wildcards).task))
        ),
    message:
        "Make the rows of {wildcards.cell}"
    shell:
        "python workflow/scripts/arm_rows.py {params.arm:q} --spec {params.spec:q} --rows {input.rows:q} {params.more:q}"
        " --prepared {input.prepared:q} --out {output:q} 2> {log:q}"


rule change_adapter:
    input:
        adapter=lambda wildcards: LAYOUT.adapter(GRID.changed_from(cell_of(wildcards))),
        preparation=preparation,
        declaration=declaration,
    output:
        adapter=directory(f"{R}/cells/{{cell}}/adapter"),
        provenance=f"{R}/cells/{{cell}}/provenance.json",
    log:
        f"{R}/logs/change_adapter/{{cell}}.log",
    wildcard_constraints:
        cell=cells(arm=arms_where(lambda arm: arm.changes_adapter)),
    conda:
        "../../envs/train.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.change(cell_of(wildcards).model)),
    params:
        spec=adapter_spec,
        cell=subpath(output.adapter, parent=True),
        arm=lambda wildcards, input: arm_options(cell_of(wildcards).arm),
        preparation=lambda wildcards, input: options("--preparation", input.preparation),
    message:
        "Change the adapter of {wildcards.cell}"
    shell:
        "python workflow/scripts/change_adapter.py {params.arm:q} --spec {params.spec:q} --adapter {input.adapter:q}"
        " {params.preparation:q} --cell {params.cell:q} 2> {log:q}"
