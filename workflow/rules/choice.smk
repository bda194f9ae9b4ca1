"""Multiple choice without a judge: how probable each option is to a model as the answer to its question."""

CHOICES = asked(GRID)


rule prepare_choices:
    input:
        lambda wildcards: LAYOUT.file(STUDY.multiple_choice[wildcards.name].file),
    output:
        LAYOUT.choice_questions("{name}"),
    log:
        f"{R}/logs/choices/{{name}}.log",
    wildcard_constraints:
        name=one_of(STUDY.multiple_choice),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: spec(SPECS.choice_questions(wildcards.name)),
    message:
        "Read the multiple-choice questions {wildcards.name}"
    shell:
        "python workflow/scripts/prepare_choices.py --spec {params.spec:q} --source {input:q} --out {output:q} 2> {log:q}"


# Always by transformers: no other engine that samples gives the log-probability of a text that it did not write.
rule choose:
    input:
        unpack(choice_input),
        model_checked=ancient(model_checked),
    output:
        choices=f"{R}/cells/{{cell}}/choices/{{name}}.jsonl",
        provenance=f"{R}/cells/{{cell}}/choices/{{name}}.provenance.json",
    log:
        f"{R}/logs/choose/{{cell}}/{{name}}.log",
    benchmark:
        f"{R}/benchmarks/choose/{{cell}}/{{name}}.tsv"
    wildcard_constraints:
        name=one_of(STUDY.multiple_choice),
    conda:
        "../../envs/generate.yaml"
    threads: threads_of(lambda wildcards: REQUESTS.choose(cell_of(wildcards), wildcards.name))
    resources:
        **asks(lambda wildcards: REQUESTS.choose(cell_of(wildcards), wildcards.name)),
    params:
        spec=lambda wildcards: spec(SPECS.choice(cell_of(wildcards).model)),
        model=lambda wildcards, input: instruct(wildcards),  # taking `input`, it does not trigger reruns
        reuse=f"{R}/.reuse",
        adapter=lambda wildcards, input: options("--adapter", input.get("adapter")),
    message:
        "Weigh the options of {wildcards.name} by {wildcards.cell}"
    shell:
        "python workflow/scripts/choose.py --spec {params.spec:q} --model {params.model:q} {params.adapter:q}"
        " --questions {input.questions:q} --choices {output.choices:q} --reuse {params.reuse:q}"
        " --threads {threads:q} 2> {log:q}"
