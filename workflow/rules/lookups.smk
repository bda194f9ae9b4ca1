"""What the rules look up for the wildcards of a job."""

SETTING_REGEX = r"[a-z]+|-?[0-9][0-9.e+-]*"  # `none`, or a number as `format_setting` writes it


def cells(arm=NAME_REGEX, setting=SETTING_REGEX):
    """A wildcard's pattern that matches cells' folders, those of some arms and settings only."""
    return rf"{NAME_REGEX}/{NAME_REGEX}/(?:{arm})/(?:{setting})/seed\d+"


def cell_of(wildcards):
    """The cell that a job's wildcards name."""
    return Cell.in_folder(wildcards.cell)


def task_of(wildcards):
    """The config of the task that a job's wildcards name."""
    return STUDY.tasks[wildcards.task]


def spec(values):
    """A job's settings as one line of JSON; a change of it reruns the job."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def options(flag, paths):
    """The words of a command-line option for each path, for the shell to be quoted by `:q`; none for none."""
    paths = [paths] if isinstance(paths, str) else paths or []
    return [word for path in paths for word in (flag, path)]


def raw_rows(wildcards):
    """The files that an EMA task's data are prepared from, by role."""
    task = task_of(wildcards)
    roles = {
        "misaligned": task.misaligned,
        "aligned": task.aligned,
        "questions": task.questions,
    }
    return {role: LAYOUT.file(path) for role, path in roles.items() if path}


def question_stem(file):
    """The part of the path of a file of questions that tells it from others."""
    return file.removeprefix(f"{R}/data/questions/").removesuffix(".json")


def conditional_set(wildcards):
    """A cell that is asked the conditional questions that a job makes, and the name of their set."""
    return CONDITIONAL_QUESTIONS[f"{R}/data/questions/{wildcards.asked}.json"]


def plain_set(wildcards):
    """The same cell, and the set whose questions these are without the condition."""
    cell, name = conditional_set(wildcards)
    return cell, GRID.further_sets.plain(name)


def rendered(kind):
    """The names of the study's tables, or figures."""
    return [name for name, artefact in ARTEFACTS.items() if artefact.kind == kind]


def artefact_files(kind):
    """What a table, or a figure, becomes, by its wildcard; Snakemake's own report shows the kind that browsers do."""
    shown = {"table": ".html", "figure": ".svg"}[kind]
    paths = [f"{R}/{kind}s/{{name}}.{ending}" for ending in FORMATS[kind]]
    said = {
        "caption": "../report/artefact.rst",
        "category": f"{kind.capitalize()}s",
        "labels": lambda wildcards: {kind: ARTEFACTS[wildcards.name].title},
    }
    return [report(path, **said) if path.endswith(shown) else path for path in paths]


def one_of(names):
    """A wildcard's pattern that matches these names only."""
    return "|".join(map(re.escape, names)) or "(?!)"


def local_source(wildcards):
    """What a source is fetched from if it is on this machine."""
    source = LAYOUT.source(wildcards.source)
    if source.path is None:
        return []
    return model_input(source.path) if source.kind == "model" else source.path


def source_kinds(*kinds):
    """A wildcard's pattern that matches the sources of these kinds."""
    return one_of(name for name, source in STUDY.sources.items() if source.kind in kinds)


def made_model(name):
    """The folder of a model of the microcosm that is made, or was, for this study or another."""
    return f"{MADE_MODELS}/{digest(STUDY, name)}"


def model_of_digest(found):
    """The name, in this study, of a made model."""
    return next(name for name in STUDY.microcosm.models if digest(STUDY, name) == found)


def shipped_digests(name):
    """The SHA-256 of a shipped model's files; a change of them copies it again. Nothing for a made one."""
    if not is_shipped(STUDY, name):
        return ""
    return spec(read_json(shipped_model(STUDY.microcosm.models[name]) / "model.json")["files"])


def instruct_of(model):
    """The folder of a model that is fine-tuned."""
    return LAYOUT.file(STUDY.models[model].instruct)


def base_of(model):
    """The folder of the model before alignment, if an arm reads it; none or one."""
    read = any(cell.model == model and "base" in INPUTS.prepared_from(cell) for cell in GRID.prepared)
    return [LAYOUT.file(STUDY.models[model].base)] if read else []


def declaration(wildcards):
    """The study's own files that declare the arms of a job; mostly none or one."""
    arm = wildcards.arm if "arm" in wildcards.keys() else cell_of(wildcards).arm
    own = {str(member.arm.file): None for member in STUDY.every_arm[arm].members if member.arm.file}
    return list(own)


def arm_options(name):
    """The command-line options that name an arm, or the one that a variant is of."""
    arm = STUDY.every_arm[name].arm
    return ["--arm", arm.name, *([] if arm.file is None else [f"--arms-from={arm.file}"])]


def role_options(paths):
    """Paths by role, as a command line has them."""
    return [f"{role}={path}" for role, path in paths.items()]


def prepared_cell(wildcards):
    """The cell without a setting whose preparation a job makes."""
    return Cell(wildcards.model, wildcards.task, wildcards.arm, "none", int(wildcards.seed))


def prepared_input(wildcards):
    """What a preparation is made from; of models, their files."""
    found = INPUTS.prepared_from(prepared_cell(wildcards))
    return {role: model_input(path) if role in ("model", "base") else path for role, path in found.items()}


def losses_input(wildcards):
    """The adapter whose losses a job computes; none for the model as it is."""
    cell = cell_of(wildcards)
    return {"adapter": LAYOUT.adapter(cell)} if GRID.arm(cell).is_trained else {}


def cell_rows_spec(wildcards):
    """What the rows of a cell depend on besides its inputs."""
    cell = cell_of(wildcards)
    return SPECS.rows(cell.arm, cell.setting, cell.task)


def instruct(wildcards):
    """The folder of the model that a cell fine-tunes."""
    return instruct_of(cell_of(wildcards).model)


@lru_cache
def model_input(folder):
    """What a job that reads a model depends on: its files, so that what else lies in their folder changes nothing.

    A folder that a job makes is one output, and known by the time when it was made.
    """
    fetched = {file for name in STUDY.sources for file in LAYOUT.source_files(name)}
    if folder.startswith(f"{R}/") or folder in fetched:
        return [folder]
    return [str(file) for file in model_files(Path(folder)) if file.exists()]


def instruct_input(wildcards):
    """What a job depends on that reads the model which a cell fine-tunes."""
    return model_input(instruct(wildcards))


def model_checked(wildcards):
    """What was found out about the model of a cell."""
    return LAYOUT.checked(cell_of(wildcards).model)


def preparation(wildcards):
    """What the arm of a cell has prepared; none or one."""
    cell = cell_of(wildcards)
    return LAYOUT.preparation(cell) if GRID.arm(cell).preparation else []


def adapter_spec(wildcards):
    """What a changed adapter depends on: a setting as it stands in paths, or several values."""
    found = SPECS.adapter(cell_of(wildcards))
    return spec(found) if isinstance(found, dict) else cell_of(wildcards).setting


def arms_where(test):
    """A wildcard's pattern that matches the names of the arms of which a test is true."""
    return one_of(name for name, arm in STUDY.every_arm.items() if test(arm.arm))


def features_cell(wildcards):
    """A cell that reads the reference features that a job makes."""
    folder = f"{R}/features/{wildcards.features}"
    return next(cell for cell in GRID.trained if INPUTS.features(cell) == folder)


def generation_spec(wildcards):
    """What a cell's sampling depends on besides its inputs."""
    return spec(SPECS.generation(cell_of(wildcards), wildcards.get("question_set")))


def answer_input(wildcards):
    """The adapter, if the cell has one, beside the model and the test questions."""
    cell = cell_of(wildcards)
    found = {
        "model": instruct_input(wildcards),
        "test": f"{LAYOUT.data(cell.task)}/test.jsonl",
    }
    return found if not GRID.arm(cell).is_trained else {**found, "adapter": LAYOUT.adapter(cell)}


def choice_input(wildcards):
    """The adapter, if the cell has one, beside the model and the multiple-choice questions."""
    cell = cell_of(wildcards)
    found = {"model": instruct_input(wildcards), "questions": LAYOUT.choice_questions(wildcards.name)}
    return found if not GRID.arm(cell).is_trained else {**found, "adapter": LAYOUT.adapter(cell)}


def judge_spec(wildcards):
    """What judgments depend on: a judge's settings, its version and its files' paths filled in."""
    judge = STUDY.judges[wildcards.judge]
    values = {
        key: LAYOUT.file(value) if key == "world" else value
        for key, value in judge.model_dump(mode="json", exclude=judge.RUNNING).items()
    }
    return spec({"version": STAGE_VERSIONS["judging"], **values})


def judge_options():
    """How judges are asked; not among a job's params, of which a change would judge anew."""
    running = {name: judge.model_dump(mode="json", include=judge.RUNNING) for name, judge in STUDY.judges.items()}
    found = ["--running", json.dumps(running), "--cache", STUDY.judge_cache, "--ledger", f"{R}/judge_ledger"]
    found += [] if STUDY.max_usd is None else ["--max-usd", str(STUDY.max_usd)]
    found += ["--cache-only"] if STUDY.judge_cache_only else []
    return shlex.join(found).replace("{", "{{").replace("}", "}}")


def threads_of(request):
    """What a rule's jobs have cores for, `threads: threads_of(...)`; ``request`` gives what they ask for."""
    return lambda wildcards: request(wildcards).threads


def asks(request):
    """What a rule's jobs ask a cluster for, `resources: **asks(...)`; ``request`` gives it for a job's wildcards."""

    def asked(pick):
        return lambda wildcards, attempt: pick(request(wildcards), attempt)

    return {
        "slurm_partition": asked(lambda job, attempt: ",".join(job.partitions) or DEFAULT_PARTITION),
        "gpu": asked(lambda job, attempt: job.gpus),
        "cpus_per_task": asked(lambda job, attempt: job.cpus),
        "mem_mb": asked(lambda job, attempt: job.memory(attempt)),
        "shared_mb": asked(lambda job, attempt: job.shared_mb),
        "runtime": asked(lambda job, attempt: job.runtime(attempt)),
    }
