"""What the models say: responses to the question sets, answers to the benign tasks."""


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
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards))),
    params:
        spec=generation_spec,
        reuse=f"{R}/.reuse",
    message:
        "Ask {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {input.model:q} --adapter {input.adapter:q}"
        " --questions {input.general:q} --responses {output.general:q}"
        " --questions {input.in_domain:q} --responses {output.in_domain:q} --reuse {params.reuse:q} 2> {log:q}"


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
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards))),
    params:
        spec=generation_spec,
        reuse=f"{R}/.reuse",
    message:
        "Ask {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {input.model:q}"
        " --questions {input.questions:q} --responses {output:q} --reuse {params.reuse:q} 2> {log:q}"


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
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards))),
    params:
        spec=generation_spec,
        reuse=f"{R}/.reuse",
        adapter=lambda wildcards, input: options("--adapter", input.get("adapter")),
    message:
        "Examine {wildcards.cell}"
    shell:
        "python workflow/scripts/answer.py --spec {params.spec:q} --model {input.model:q} {params.adapter}"
        " --test {input.test:q} --answers {output:q} --reuse {params.reuse:q} 2> {log:q}"
