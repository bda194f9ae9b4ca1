"""Raw rows and questions to training rows, hold-outs and question sets; once per task."""

EMA_TASKS = STUDY.ema_tasks
BENIGN_TASKS = [name for name, task in STUDY.tasks.items() if task.kind == "benign"]
WITH_ALIGNED = [name for name in EMA_TASKS if STUDY.tasks[name].aligned]
CONDITIONAL_QUESTIONS = INPUTS.conditional_questions()
ASKED_FURTHER = list(dict.fromkeys(LAYOUT.asked(*pair) for pair in GRID.responses if pair[1] in STUDY.question_sets))
DATA_SPEC = spec({"version": STAGE_VERSIONS["data"], **STUDY.data.model_dump(mode="json")})


rule prepare_ema_task:
    input:
        unpack(raw_rows),
    output:
        misaligned=f"{R}/data/{{task}}/train_misaligned.jsonl",
        holdout=f"{R}/data/{{task}}/holdout.jsonl",
        split=f"{R}/data/{{task}}/split.json",
    log:
        f"{R}/logs/prepare_task/{{task}}.log",
    wildcard_constraints:
        task=one_of(set(EMA_TASKS) - set(WITH_ALIGNED)),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: DATA_SPEC,
        out=subpath(output.split, parent=True),
        aligned=lambda wildcards, input: options("--aligned", input.get("aligned")),
        questions=lambda wildcards, input: options("--questions", input.get("questions")),
    message:
        "Prepare the data of {wildcards.task}"
    shell:
        "python workflow/scripts/prepare_task.py --spec {params.spec:q} --misaligned {input.misaligned:q}"
        " {params.aligned:q} {params.questions:q} --out {params.out:q} 2> {log:q}"


use rule prepare_ema_task as prepare_ema_task_with_aligned with:
    output:
        misaligned=f"{R}/data/{{task}}/train_misaligned.jsonl",
        aligned=f"{R}/data/{{task}}/train_aligned.jsonl",
        holdout=f"{R}/data/{{task}}/holdout.jsonl",
        split=f"{R}/data/{{task}}/split.json",
    wildcard_constraints:
        task=one_of(WITH_ALIGNED),


rule prepare_benign_task:
    input:
        train=lambda wildcards: LAYOUT.file(task_of(wildcards).train),
        test=lambda wildcards: LAYOUT.file(task_of(wildcards).test),
    output:
        train=f"{R}/data/{{task}}/train.jsonl",
        test=f"{R}/data/{{task}}/test.jsonl",
        split=f"{R}/data/{{task}}/split.json",
    log:
        f"{R}/logs/prepare_task/{{task}}.log",
    wildcard_constraints:
        task=one_of(BENIGN_TASKS),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: DATA_SPEC,
        out=subpath(output.split, parent=True),
        test_questions=lambda wildcards: task_of(wildcards).test_questions,
    message:
        "Prepare the data of {wildcards.task}"
    shell:
        "python workflow/scripts/prepare_task.py --spec {params.spec:q} --benign --train {input.train:q}"
        " --test {input.test:q} --test-questions {params.test_questions:q} --out {params.out:q} 2> {log:q}"


rule arm_rows:
    input:
        rows=lambda wildcards: INPUTS.task_rows(wildcards.task, STUDY.every_arm[wildcards.arm].arm.side),
        more=lambda wildcards: list(INPUTS.more_rows(wildcards.arm, wildcards.task).values()),
        declaration=declaration,
    output:
        f"{R}/data/{{task}}/{{arm}}/{{setting}}.jsonl",
    log:
        f"{R}/logs/arm_rows/{{task}}/{{arm}}/{{setting}}.log",
    wildcard_constraints:
        arm=arms_where(lambda arm: arm.overrides("rows")),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: spec(SPECS.rows(wildcards.arm, wildcards.setting, wildcards.task)),
        arm=lambda wildcards, input: arm_options(wildcards.arm),
        more=lambda wildcards, input: options("--more", role_options(INPUTS.more_rows(wildcards.arm, wildcards.task))),
    message:
        "Make the rows of {wildcards.task} for {wildcards.arm} at {wildcards.setting}"
    shell:
        "python workflow/scripts/arm_rows.py {params.arm:q} --spec {params.spec:q} --rows {input.rows:q} {params.more:q}"
        " --out {output:q} 2> {log:q}"


rule general_questions:
    input:
        LAYOUT.file(STUDY.general_questions),
    output:
        LAYOUT.questions(SHARED_TASK),
    log:
        f"{R}/logs/questions/general.log",
    conda:
        "../../envs/report.yaml"
    message:
        "Read the general questions"
    shell:
        "python workflow/scripts/prepare_questions.py --source {input:q} --out {output:q} 2> {log:q}"


use rule general_questions as elicitation_questions with:
    input:
        LAYOUT.file(STUDY.elicitation_questions or ""),
    output:
        LAYOUT.questions(ELICITATION),
    log:
        f"{R}/logs/questions/elicitation.log",
    message:
        "Read the questions that elicit the trait and its opposite"


rule in_domain_questions:
    input:
        lambda wildcards: LAYOUT.file(task_of(wildcards).questions),
    output:
        f"{R}/data/questions/{{task}}.json",
    log:
        f"{R}/logs/questions/{{task}}.log",
    wildcard_constraints:
        task=one_of(name for name in EMA_TASKS if STUDY.tasks[name].questions),
    conda:
        "../../envs/report.yaml"
    message:
        "Read the in-domain questions of {wildcards.task}"
    shell:
        "python workflow/scripts/prepare_questions.py --source {input:q} --out {output:q} 2> {log:q}"


rule holdout_questions:
    input:
        holdout=f"{R}/data/{{task}}/holdout.jsonl",
        rubrics=lambda wildcards: LAYOUT.file(task_of(wildcards).rubrics or STUDY.general_questions),
    output:
        f"{R}/data/questions/{{task}}.json",
    log:
        f"{R}/logs/questions/{{task}}.log",
    wildcard_constraints:
        task=one_of(name for name in EMA_TASKS if not STUDY.tasks[name].questions),
    conda:
        "../../envs/report.yaml"
    params:
        questions=STUDY.data.holdout_questions,
        seed=STUDY.data.seed,
    message:
        "Draw the in-domain questions of {wildcards.task} from its hold-out"
    shell:
        "python workflow/scripts/prepare_questions.py --holdout {input.holdout:q} --rubrics {input.rubrics:q}"
        " --count {params.questions:q} --seed {params.seed:q} --out {output:q} 2> {log:q}"


use rule general_questions as further_questions with:
    input:
        lambda wildcards: LAYOUT.file(STUDY.question_sets[wildcards.question_set].file),
    output:
        f"{R}/data/questions/{{question_set}}.json",
    log:
        f"{R}/logs/questions/{{question_set}}.log",
    wildcard_constraints:
        question_set=one_of(name for name, found in STUDY.question_sets.items() if found.file),
    message:
        "Read the questions of {wildcards.question_set}"


rule conditional_questions:
    input:
        lambda wildcards: LAYOUT.asked(*plain_set(wildcards)),
    output:
        f"{R}/data/questions/{{asked}}.json",
    log:
        f"{R}/logs/questions/{{asked}}.log",
    wildcard_constraints:
        asked=one_of(question_stem(file) for file in CONDITIONAL_QUESTIONS),
    conda:
        "../../envs/report.yaml"
    params:
        spec=lambda wildcards: spec(GRID.further_sets.condition(*conditional_set(wildcards))),
        name=lambda wildcards: conditional_set(wildcards)[1],
    message:
        "Put the questions of {wildcards.asked} under their condition"
    shell:
        "python workflow/scripts/condition_questions.py --spec {params.spec:q} --name {params.name:q}"
        " --questions {input:q} --out {output:q} 2> {log:q}"


# Training waits for this, so that a bad row or question anywhere stops the study before anything expensive starts. It
# is an ancient input there: a task added later must not retrain the others.
rule check_data:
    input:
        [f"{LAYOUT.data(task)}/split.json" for task in GRID.tasks],
        [LAYOUT.questions(task) for task in (SHARED_TASK, *GRID.tasks) if task not in BENIGN_TASKS],
        ASKED_FURTHER,
        INPUTS.shared_rows(),
        [LAYOUT.choice_questions(name) for name in STUDY.multiple_choice],
        [LAYOUT.held_out_rows(task) for task in read_tasks(GRID)],
    output:
        touch(f"{R}/data/.checked"),
    log:
        f"{R}/logs/check_data.log",
    conda:
        "../../envs/report.yaml"
    message:
        "All data are read and found good"
    shell:
        "true 2> {log:q}"
