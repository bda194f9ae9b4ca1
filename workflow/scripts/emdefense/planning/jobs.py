"""Every job of a study, as the rules declare them; a test compares with a dry run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emdefense.cells import GENERAL, IN_DOMAIN, SHARED_TASK, Cell, Grid, Layout
from emdefense.config.study import BenignTask, EmaTask, Study
from emdefense.planning.job import Job
from emdefense.planning.upstream import needed
from emdefense.provenance import record_beside
from emdefense.report.artefacts import FIGURES, FURTHER_FIGURES, TABLES


def study_jobs(study: Study) -> list[Job]:
    """Return the jobs that the study's default target wants, stage by stage."""
    grid, layout = Grid(study), Layout(study)
    jobs = [*_data(grid, layout), *_cells(grid, layout), *_report(grid, layout)]
    wanted = {study.general_questions, *(study.models[cell.model].instruct for cell in grid.trained)}
    wanted |= {study.models[cell.model].instruct for cell, _ in grid.responses}
    wanted |= {study.models[cell.model].instruct for cell in grid.benign}
    for projected in grid.projections:
        wanted |= {study.models[projected.model].instruct, study.models[projected.model].base or ""}
    for name in grid.tasks:
        wanted |= _raw(study.tasks[name])
    if any(cell.arm == "interleave" for cell in grid.cells):
        wanted.add(study.safe_data or "")
    files = {layout.file(path) for path in wanted if path} | set(layout.judge_files())
    return [*needed(study, files), *jobs]


def cells_of(grid: Grid) -> list[Cell]:
    """Return the cells of the grid, and those that are trained only for SafeLoRA to project."""
    return list(dict.fromkeys([*grid.cells, *grid.trained]))


def jobs_of(grid: Grid, jobs: list[Job]) -> dict[Cell, dict[str, list[Job]]]:
    """Return the jobs behind each cell's parts: ``adapter``, ``responses``, both judgments, and ``answers``.

    What several cells share (an untrained model's general responses, a projection, cached features) stands at each.
    """
    found: dict[Cell, dict[str, list[Job]]] = {cell: {} for cell in cells_of(grid)}
    by_cell: dict[Cell | None, list[Job]] = {}
    for job in jobs:
        by_cell.setdefault(job.cell, []).append(job)
    features = {job.outputs[0]: job for job in jobs if job.stage == "features"}
    layout = Layout(grid.study)
    for cell, parts in found.items():
        own = by_cell.get(cell, [])
        if cell.arm == "safelora":
            shared = by_cell.get(replace(cell, setting="projection"), [])
        elif cell.arm == "untrained":
            shared = []
        else:
            folder = grid.features(cell, layout)
            shared = [features[folder]] if folder in features else []
        parts["adapter"] = [*shared, *(job for job in own if job.stage in ("training", "projecting"))]
        parts["answers"] = [job for job in own if job.stage == "answering"]
        for measurement in grid.measurements:
            if measurement.cell == cell:
                for job in by_cell.get(measurement.source, []):
                    if job.question_set in (None, measurement.question_set):
                        part = {"sampling": "responses", "judging": f"judged_{measurement.question_set}"}.get(job.stage)
                        if part and job not in parts.setdefault(part, []):
                            parts[part].append(job)
    return {cell: {part: jobs for part, jobs in parts.items() if jobs} for cell, parts in found.items()}


def _raw(task: EmaTask | BenignTask) -> set[str]:
    """Return the files that a task's data are prepared from, as the config names them."""
    if isinstance(task, BenignTask):
        return {task.train, task.test}
    return {path for path in (task.misaligned, task.aligned, task.questions, task.rubrics) if path}


def _data(grid: Grid, layout: Layout) -> Iterator[Job]:
    """Yield the jobs that prepare rows and questions."""
    results, study = layout.results, grid.study
    for name in grid.tasks:
        task, folder = study.tasks[name], layout.data(name)
        if isinstance(task, EmaTask):
            rows = ("train_misaligned", "train_aligned", "holdout") if task.aligned else ("train_misaligned", "holdout")
            rule = "prepare_ema_task_with_aligned" if task.aligned else "prepare_ema_task"
        else:
            rows, rule = ("train", "test"), "prepare_benign_task"
        outputs = (*(f"{folder}/{part}.jsonl" for part in rows), f"{folder}/split.json")
        yield Job("data", rule, name, outputs, f"{results}/logs/prepare_task/{name}.log", name)
    interleaved = {(cell.task, cell.setting): None for cell in grid.trained if cell.arm == "interleave"}
    for name, pct in interleaved:
        output, log = f"{layout.data(name)}/interleave/{pct}.jsonl", f"{results}/logs/interleave/{name}/{pct}.log"
        yield Job("data", "interleave", f"{name}, {pct} %", (output,), log, f"{name}_{pct}")
    yield Job(
        "data",
        "general_questions",
        "general",
        (layout.questions(SHARED_TASK),),
        f"{results}/logs/questions/general.log",
        "",
    )
    for name in grid.tasks:
        task = study.tasks[name]
        if isinstance(task, EmaTask):
            rule = "in_domain_questions" if task.questions else "holdout_questions"
            yield Job("data", rule, name, (layout.questions(name),), f"{results}/logs/questions/{name}.log", name)
    if grid.trained:
        yield Job("data", "check_data", "", (f"{results}/data/.checked",), f"{results}/logs/check_data.log", "")


def _cells(grid: Grid, layout: Layout) -> Iterator[Job]:
    """Yield the jobs that make adapters, responses, answers and judgments."""
    results = layout.results

    def recorded(*files: str) -> tuple[str, ...]:
        return (*files, *(str(record_beside(Path(file))) for file in files))

    def job(
        stage: str,
        rule: str,
        cell: Cell,
        outputs: tuple[str, ...],
        folder: str,
        question_set: str | None = None,
        judge: str | None = None,
    ) -> Job:
        parts = [part for part in (cell.folder, question_set, judge) if part]
        path, wildcards, name = "/".join([folder, *parts]), "_".join(parts).replace("/", "_"), ", ".join(parts)
        log, benchmark = f"{results}/logs/{path}.log", f"{results}/benchmarks/{path}.tsv"
        timed = None if rule == "threshold" else benchmark
        return Job(stage, rule, name, outputs, log, wildcards, cell, question_set, judge, timed)

    for model in grid.models:
        log, benchmark = f"{results}/logs/check_model/{model}.log", f"{results}/benchmarks/check_model/{model}.tsv"
        yield Job("checking", "check_model", model, (layout.checked(model),), log, model, benchmark=benchmark)
    for folder in dict.fromkeys(filter(None, (grid.features(cell, layout) for cell in grid.trained))):
        name = folder.removeprefix(f"{results}/features/")
        log, benchmark = f"{results}/logs/features/{name}.log", f"{results}/benchmarks/features/{name}.tsv"
        wildcards = name.replace("/", "_")
        yield Job("features", "reference_features", name, (folder,), log, wildcards, benchmark=benchmark)
    for cell in grid.trained:
        files = ("train_log.jsonl", "train_timing.jsonl", "provenance.json")
        outputs = (layout.adapter(cell), *(f"{layout.cell(cell)}/{file}" for file in files))
        yield job("training", "train", cell, outputs, "train")
    for cell in grid.projections:
        path = f"project/{cell.model}/{cell.task}/seed{cell.seed}"
        yield Job(
            "projecting",
            "project",
            f"{cell.model}/{cell.task}/seed{cell.seed}",
            (layout.projection(cell),),
            f"{results}/logs/{path}.log",
            f"{cell.model}_{cell.task}_{cell.seed}",
            replace(cell, setting="projection"),
            benchmark=f"{results}/benchmarks/{path}.tsv",
        )
    for cell in grid.cells:
        if cell.arm == "safelora":
            outputs = (layout.adapter(cell), f"{layout.cell(cell)}/provenance.json")
            yield job("projecting", "threshold", cell, outputs, "threshold")
    for cell in dict.fromkeys(cell for cell, _ in grid.responses):
        sets = [question_set for of, question_set in grid.responses if of == cell]
        if cell.arm == "untrained":
            for question_set in sets:
                outputs = recorded(layout.responses(cell, question_set))
                yield job("sampling", "generate_untrained", cell, outputs, "generate", question_set)
        else:
            outputs = recorded(*(layout.responses(cell, question_set) for question_set in (GENERAL, IN_DOMAIN)))
            yield job("sampling", "generate", cell, outputs, "generate")
    for cell in grid.benign:
        yield job("answering", "answer", cell, recorded(layout.answers(cell)), "answer")
    for cell, question_set, judge in grid.judgments:
        outputs = recorded(layout.judgments(cell, question_set, judge))
        yield job("judging", "judge", cell, outputs, "judge", question_set, judge)


def _report(grid: Grid, layout: Layout) -> Iterator[Job]:
    """Yield the jobs after the judging."""
    results = layout.results

    def job(
        rule: str, outputs: tuple[str, ...], log: str | None = None, name: str = "", benchmark: str | None = None
    ) -> Job:
        paths = tuple(f"{results}/{output}" for output in outputs)
        return Job("report", rule, name, paths, f"{results}/logs/{log or rule}.log", name, benchmark=benchmark)

    def kinds(stem: str, *endings: str) -> tuple[str, ...]:
        return tuple(f"{stem}.{ending}" for ending in endings)

    files, drawn = ("md", "tex", "html", "csv"), ("pdf", "svg", "png")  # of a table, of a figure
    yield job("effective_config", ("study.json",))
    benchmark = f"{results}/benchmarks/aggregate.tsv"
    measured = tuple(f"{name}.parquet" for name in ("rates", "exact_match", "questions", "scores"))
    yield job("aggregate", measured, benchmark=benchmark)
    yield job(
        "paired_differences", (*kinds("tables/paired_differences", *files), *kinds("tables/paired_defences", *files))
    )
    yield job("variance_components", kinds("tables/variance_components", *files))
    for number in TABLES:
        yield job("table", kinds(f"tables/table_{number}", *files), f"table/{number}", number)
    for name in FIGURES:
        yield job("figure", kinds(f"figures/figure_{name}", *drawn), f"figure/{name}", name)
    for name in FURTHER_FIGURES:
        yield job("further_figure", kinds(f"figures/{name}", *drawn), f"figure/{name}", name)
    if grid.projections:
        yield job("safelora_table", kinds("tables/safelora_matrices", *files))
        yield job("safelora_figure", kinds("figures/safelora_cosines", *drawn))
    if grid.study.second_judges:
        tables = (*kinds("tables/judge_agreement", *files), *kinds("tables/judge_confusion", *files))
        yield job("judge_agreement", tables)
    curves = (
        *(f"cells/{cell.folder}/training.svg" for cell in grid.trained),
        *kinds("figures/training_curves", *drawn),
    )
    yield job("training_curves", curves, benchmark=f"{results}/benchmarks/training_curves.tsv")
    yield job("claims", kinds("claims", "md", "json"))
    yield job("cell_pages", ("report/cells",), benchmark=f"{results}/benchmarks/cell_pages.tsv")
    yield job("page", ("report/index.html",))
