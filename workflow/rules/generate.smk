"""What the models say: responses to the question sets, answers to the benign tasks."""

GENERATE_ENVIRONMENT = f"../../envs/{'generate-vllm' if STUDY.generation.engine == 'vllm' else 'generate'}.yaml"


rule generate:
    input:
        model=instruct_input,
        model_checked=ancient(model_checked),
        adapter=f"{R}/cells/{{cell}}/adapter",
        general=LAYOUT.questions(SHARED_TASK),
        in_domain=lambda wildcards: LAYOUT.questions(cell_of(wildcards).task),
    output:
        general=f"{R}/cells/{{cell}}/{GENERAL}/responses.jsonl",
        in_domain=f"{R}/cells/{{cell}}/{IN_DOMAIN}/responses.jsonl",
        provenance=[f"{R}/cells/{{cell}}/{name}/responses.provenance.json" for name in (GENERAL, IN_DOMAIN)],
    log:
        f"{R}/logs/generate/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{cell}}.tsv"
    wildcard_constraints:
        cell=cells(arm=arms_where(lambda arm: arm.is_trained)),
    conda:
        GENERATE_ENVIRONMENT
    threads: threads_of(lambda wildcards: REQUESTS.sample(cell_of(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards))),
    params:
        spec=generation_spec,
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        reuse=f"{R}/.reuse",
    message:
        "Generate the responses of {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {params.model:q} --adapter {input.adapter:q}"
        " --questions {input.general:q} --responses {output.general:q}"
        " --questions {input.in_domain:q} --responses {output.in_domain:q} --reuse {params.reuse:q}"
        " --threads {threads:q} 2> {log:q}"


rule generate_untrained:
    input:
        model=instruct_input,
        model_checked=ancient(model_checked),
        questions=lambda wildcards: LAYOUT.asked(cell_of(wildcards), wildcards.question_set),
    output:
        responses=f"{R}/cells/{{cell}}/{{question_set}}/responses.jsonl",
        provenance=f"{R}/cells/{{cell}}/{{question_set}}/responses.provenance.json",
    log:
        f"{R}/logs/generate/{{cell}}/{{question_set}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{cell}}/{{question_set}}.tsv"
    wildcard_constraints:
        cell=cells(arm=arms_where(lambda arm: not arm.is_trained), setting="none"),
    conda:
        GENERATE_ENVIRONMENT
    threads: threads_of(lambda wildcards: REQUESTS.sample(cell_of(wildcards), wildcards.question_set))
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards), wildcards.question_set)),
    params:
        spec=generation_spec,
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        reuse=f"{R}/.reuse",
    message:
        "Generate the responses of {wildcards.cell}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {params.model:q}"
        " --questions {input.questions:q} --responses {output.responses:q} --reuse {params.reuse:q}"
        " --threads {threads:q} 2> {log:q}"


# Each of the further sets by itself, so that one that is added asks nothing else again.
rule generate_further:
    input:
        model=instruct_input,
        model_checked=ancient(model_checked),
        adapter=f"{R}/cells/{{cell}}/adapter",
        questions=lambda wildcards: LAYOUT.asked(cell_of(wildcards), wildcards.question_set),
    output:
        responses=f"{R}/cells/{{cell}}/{{question_set}}/responses.jsonl",
        provenance=f"{R}/cells/{{cell}}/{{question_set}}/responses.provenance.json",
    log:
        f"{R}/logs/generate/{{cell}}/{{question_set}}.log",
    benchmark:
        f"{R}/benchmarks/generate/{{cell}}/{{question_set}}.tsv"
    wildcard_constraints:
        cell=cells(arm=arms_where(lambda arm: arm.is_trained)),
        question_set=one_of(STUDY.question_sets),
    conda:
        GENERATE_ENVIRONMENT
    threads: threads_of(lambda wildcards: REQUESTS.sample(cell_of(wildcards), wildcards.question_set))
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards), wildcards.question_set)),
    params:
        spec=generation_spec,
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        reuse=f"{R}/.reuse",
    message:
        "Generate the responses of {wildcards.cell} to {wildcards.question_set}"
    shell:
        "python workflow/scripts/generate.py --spec {params.spec:q} --model {params.model:q} --adapter {input.adapter:q}"
        " --questions {input.questions:q} --responses {output.responses:q} --reuse {params.reuse:q}"
        " --threads {threads:q} 2> {log:q}"


rule answer:
    input:
        unpack(answer_input),
        model_checked=ancient(model_checked),
    output:
        answers=f"{R}/cells/{{cell}}/answers.jsonl",
        provenance=f"{R}/cells/{{cell}}/answers.provenance.json",
    log:
        f"{R}/logs/answer/{{cell}}.log",
    benchmark:
        f"{R}/benchmarks/answer/{{cell}}.tsv"
    conda:
        GENERATE_ENVIRONMENT
    threads: threads_of(lambda wildcards: REQUESTS.sample(cell_of(wildcards)))
    resources:
        **asks(lambda wildcards: REQUESTS.sample(cell_of(wildcards))),
    params:
        spec=generation_spec,
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        reuse=f"{R}/.reuse",
        adapter=lambda wildcards, input: options("--adapter", input.get("adapter")),
    message:
        "Generate the answers of {wildcards.cell}"
    shell:
        "python workflow/scripts/answer.py --spec {params.spec:q} --model {params.model:q} {params.adapter:q}"
        " --test {input.test:q} --answers {output.answers:q} --reuse {params.reuse:q} --threads {threads:q} 2> {log:q}"
