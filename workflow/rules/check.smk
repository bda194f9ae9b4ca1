"""What is found out about each model before anything is trained on it or asked of it."""


# Trainings and samplings wait for this. It reads all that they will read, so that what a model cannot take is one line
# after seconds. It is an ancient input there: a task added later must not retrain the others.
rule check_model:
    input:
        model=lambda wildcards: model_input(instruct_of(wildcards.model)),
        base=lambda wildcards: [file for base in base_of(wildcards.model) for file in model_input(base)],
        rows=lambda wildcards: INPUTS.checked_rows(wildcards.model),
        questions=lambda wildcards: INPUTS.checked_questions(wildcards.model),
        tests=lambda wildcards: INPUTS.checked_tests(wildcards.model),
        named=lambda wildcards: INPUTS.checked_files(wildcards.model),
        choices=lambda wildcards: INPUTS.checked_choices(wildcards.model),
    output:
        f"{R}/models/{{model}}.json",
    log:
        f"{R}/logs/check_model/{{model}}.log",
    benchmark:
        f"{R}/benchmarks/check_model/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(GRID.models),
    conda:
        "../../envs/train.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.sample(next(cell for cell in GRID.cells if cell.model == wildcards.model))),
    params:
        spec=lambda wildcards: spec(SPECS.check(wildcards.model)),
        model=lambda wildcards, input: instruct_of(wildcards.model),
        base=lambda wildcards, input: options("--base", base_of(wildcards.model)),
        rows=lambda wildcards, input: options("--rows", input.rows),
        questions=lambda wildcards, input: options("--questions", input.questions),
        tests=lambda wildcards, input: options("--test", input.tests),
    message:
        "Check the model {wildcards.model} and all that it will read"
    shell:
        "python workflow/scripts/check_model.py --spec {params.spec:q} --model {params.model:q} {params.base:q} {params.rows:q}"
        " {params.questions:q} {params.tests:q} --out {output:q} 2> {log:q}"
