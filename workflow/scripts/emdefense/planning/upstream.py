"""What a study's rows, questions and models come from: sources that are fetched, and worlds that are made here."""

from collections.abc import Iterator

from emdefense.cells import Layout
from emdefense.config.made import BYTE_MODEL_FOLDERS, TIERS, WORLD, WORLD_FILES, model_folders, opswap_files
from emdefense.config.study import BenignTask, EmaTask, Study
from emdefense.planning.job import Job

FETCH_RULES = {
    "conversations": "fetch_rows",
    "wildguardmix": "fetch_rows",
    "questions": "fetch_questions",
    "emergent_plus": "fetch_advice",
    "foqa": "fetch_foqa",
    "model": "fetch_model",
}


def needed(study: Study, files: set[str]) -> list[Job]:
    """Return the jobs that make ``files``, and those that make what these read, in the order of making."""
    everything, wanted, found = list(_all(study)), set(files), dict[str, Job]()
    while new := [made for made in everything if made.log not in found and wanted & set(made.outputs)]:
        found |= {made.log: made for made in new}
        wanted |= {path for made in new for path in made.inputs}
    return [made for made in everything if made.log in found]


def _all(study: Study) -> Iterator[Job]:
    """Yield every job of this kind that the study's config allows, makers before those that read."""
    layout = Layout(study)
    results, logs = layout.results, f"{layout.results}/logs"
    for name, source in study.sources.items():
        outputs = tuple(layout.source_files(name))
        yield Job("sources", FETCH_RULES[source.kind], name, outputs, f"{logs}/fetch/{name}.log", name)
    if study.opswap:
        for tier in TIERS:
            outputs = tuple(map(layout.file, opswap_files(tier)))
            yield Job("data", "opswap", f"tier {tier}", outputs, f"{logs}/opswap/tier_{tier}.log", str(tier))
    if study.microcosm:
        world = layout.file(WORLD)
        outputs = (*map(layout.file, WORLD_FILES), f"{world}/tokenizer")
        yield Job("data", "world", "", outputs, f"{logs}/world.log", "")
        tasks = [task for task in study.tasks.values() if isinstance(task, BenignTask) and task.table == "opswap"]
        inputs = (f"{world}/world.json", f"{world}/tokenizer", *(layout.file(task.test) for task in tasks))
        for name in study.microcosm.models:
            outputs = (*map(layout.file, model_folders(name)), f"{world}/models/{name}/gate.json")
            log = f"{logs}/microcosm_model/{name}.log"
            benchmark = f"{results}/benchmarks/microcosm_model/{name}.tsv"
            yield Job("models", "microcosm_model", name, outputs, log, name, benchmark=benchmark, inputs=inputs)
    if study.byte_model:
        rows = tuple(layout.file(task.misaligned) for task in study.tasks.values() if isinstance(task, EmaTask))
        outputs = tuple(map(layout.file, BYTE_MODEL_FOLDERS))
        yield Job("models", "byte_model", "", outputs, f"{logs}/byte_model.log", "", inputs=rows)
