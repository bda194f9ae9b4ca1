"""What the models say: responses to the question sets, answers to the benign tasks."""


def adapter_option(wildcards, input):
    """The command-line option for the adapter; the untrained model has none."""
    return f"--adapter {input.adapter}" if input.get("adapter") else ""


def generation_spec(wildcards):
    """What a cell's sampling depends on besides its inputs."""
    return spec(GRID.generation_spec(cell_of(wildcards)))


rule generate:
    input:
        model=instruct,
        adapter=f"{R}/cells/{{cell}}/adapter",
        general=LAYOUT.questions(SHARED_TASK),
        in_domain=lambda wildcards: LAYOUT.questions(cell_of(wildcards).task),
    output:
        general=f"{R}/cells/{{cell}}/{GENERAL}/responses.jsonl",
        in_domain=f"{R}/cells/{{cell}}/{IN_DOMAIN}/responses.jsonl",
    log:
        f"{R}/logs/generate/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{cell}}.tsv"
    wildcard_constraints:
        cell=r"[^/]+/[^/]+/(?!untrained/)[^/]+/[^/]+/seed\d+",
    conda:
        "../../envs/generate.yaml"
    params:
        spec=generation_spec,
    message:
        "Ask {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {input.model} --adapter {input.adapter}"
        " --questions {input.general} --responses {output.general}"
        " --questions {input.in_domain} --responses {output.in_domain} 2> {log}"


rule generate_untrained:
    input:
        model=instruct,
        questions=lambda wildcards: LAYOUT.questions(cell_of(wildcards).task),
    output:
        f"{R}/cells/{{cell}}/{{question_set}}/responses.jsonl",
    log:
        f"{R}/logs/generate/{{cell}}/{{question_set}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{cell}}/{{question_set}}.tsv"
    wildcard_constraints:
        cell=r"[^/]+/[^/]+/untrained/none/seed\d+",
    conda:
        "../../envs/generate.yaml"
    params:
        spec=generation_spec,
    message:
        "Ask {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {input.model}"
        " --questions {input.questions} --responses {output} 2> {log}"


def answer_input(wildcards):
    """The adapter, if the cell has one, beside the model and the test questions."""
    cell = cell_of(wildcards)
    found = {
        "model": instruct(wildcards),
        "test": f"{LAYOUT.data(cell.task)}/test.jsonl",
    }
    return (
        found if cell.arm == "untrained" else {**found, "adapter": LAYOUT.adapter(cell)}
    )


rule answer:
    input:
        unpack(answer_input),
    output:
        f"{R}/cells/{{cell}}/answers.jsonl",
    log:
        f"{R}/logs/answer/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/answer/{{cell}}.tsv"
    conda:
        "../../envs/generate.yaml"
    params:
        spec=generation_spec,
        adapter=adapter_option,
    message:
        "Examine {wildcards.cell}"
    shell:
        "python workflow/scripts/answer.py --spec {params.spec:q} --model {input.model} {params.adapter}"
        " --test {input.test} --answers {output} 2> {log}"
