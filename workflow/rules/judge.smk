"""What each judge says of the responses; responses are never regenerated for a new judge."""


rule judge:
    input:
        responses=f"{R}/cells/{{cell}}/{{question_set}}/responses.jsonl",
        questions=lambda wildcards: LAYOUT.asked(cell_of(wildcards), wildcards.question_set),
        judge=lambda wildcards: LAYOUT.judge_files(wildcards.judge),
    output:
        judgments=f"{R}/cells/{{cell}}/{{question_set}}/judgments/{{judge}}.jsonl",
        provenance=f"{R}/cells/{{cell}}/{{question_set}}/judgments/{{judge}}.provenance.json",
    log:
        f"{R}/logs/judge/{{cell}}/{{question_set}}/{{judge}}.log",
    benchmark:
        f"{R}/benchmarks/judge/{{cell}}/{{question_set}}/{{judge}}.tsv"
    wildcard_constraints:
        judge=one_of(STUDY.judges),
    conda:
        "../../envs/judge.yaml"
    resources:
        **asks(lambda wildcards: REQUESTS.judge(cell_of(wildcards), wildcards.judge, wildcards.question_set)),
        judge_slots=1,
    params:
        spec=judge_spec,
    message:
        "Judge {wildcards.cell}, {wildcards.question_set} questions, by {wildcards.judge}"
    shell:
        "python workflow/scripts/judge.py --spec {params.spec:q} --questions {input.questions:q}"
        f" --responses {{input.responses:q}} --judgments {{output.judgments:q}} {judge_options()}"
        " --cell {wildcards.cell:q}/{wildcards.question_set:q} 2> {log:q}"
