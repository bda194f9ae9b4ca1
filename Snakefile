"""The pipeline: a study's config in, its tables, figures, claims and page out.

`snakemake` runs the default study on this machine, `snakemake --configfile config/smoke.yaml` another one.
"""

import gc
import json
import os
import re
import shlex
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import snakemake.benchmark
import snakemake.io
from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))

from emdefense.before_start import check_start
from emdefense.cells import ELICITATION, GENERAL, IN_DOMAIN, SHARED_TASK, Cell, Grid
from emdefense.checksums import remember_checksums
from emdefense.choice.asked import asked
from emdefense.layout import Layout
from emdefense.likelihood.read import read_tasks, reading
from emdefense.config import parse_study
from emdefense.config.load import read_config
from emdefense.config.made_files import (
    BYTE_MODEL_FOLDERS,
    FURTHER_QUESTIONS,
    HELD_OUT_SAFE,
    WORLD,
    WORLD_CHOICES,
    WORLD_FILES,
    model_folders,
    opswap_files,
)
from emdefense.config.pretraining import MADE_MODELS, digest, is_shipped, own_held_out, recipe, shipped_model
from emdefense.names import NAME_REGEX
from emdefense.progress.terminal import AT_THE_END
from emdefense.errors import InputError, refuse
from emdefense.files import read_json
from emdefense.generation.environment import environment_of_vllm
from emdefense.inputs import Inputs
from emdefense.job_environment import set_job_environment
from emdefense.job_usage import follow_jobs
from emdefense.model_files import model_files
from emdefense.report.artefact import FORMATS
from emdefense.report.catalogue import artefacts
from emdefense.resources.gpus import read_gpus
from emdefense.resources.jobs import Requests
from emdefense.resources.machine import this_machine
from emdefense.resources.partitions import check_partitions
from emdefense.specs import STAGE_VERSIONS, Specs
from emdefense.warm_start import start_server

# Of a key that stands twice, and of other things, Snakemake's reader makes something without a word: ours goes first.
CONFIG_FILES = list(map(str, workflow.overwrite_configfiles or ["config.yaml"]))
if workflow.is_main_process:
    try:
        for file in CONFIG_FILES:
            read_config(Path(file))
    except InputError as error:
        refuse(error)

# Studies never mix: config.yaml is read only if no other file is named.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


# Where jobs go that name no partition; none unless --profile slurm says so.
default_resources = workflow.resource_settings.default_resources or {}
DEFAULT_PARTITION = default_resources["slurm_partition"].raw if "slurm_partition" in default_resources else None

try:
    STUDY = parse_study(config, " + ".join(CONFIG_FILES), list(map(Path, CONFIG_FILES)))
    MACHINE = None if DEFAULT_PARTITION else this_machine(workflow.resource_settings.cores)
    REQUESTS = Requests(STUDY, read_gpus(Path(workflow.basedir) / "profiles/slurm/gpus.yaml"), MACHINE)
    VLLM = environment_of_vllm(STUDY.generation, Path(workflow.basedir))
    ARTEFACTS = artefacts(STUDY)
    if DEFAULT_PARTITION:
        REQUESTS.check()
except InputError as error:
    refuse(error)

if STUDY.arms_from and workflow.is_main_process:
    print(f"{', '.join(STUDY.arms_from)}: code of the study, run here and in its jobs", file=sys.stderr)

GRID = Grid(STUDY)
LAYOUT = Layout(STUDY)
INPUTS = Inputs(GRID)
SPECS = Specs(GRID)
R = LAYOUT.results
set_job_environment(VLLM)

# What a graph of jobs is made of stays: Python need not look for garbage in it again and again while it grows.
gc.freeze()
gc.set_threshold(50_000)

# A remote judge is asked by at most this many jobs at once.
workflow.global_resources.setdefault("judge_slots", 8)
# On this machine, one training or sampling at a time has its GPUs; without one, as many run as memory allows.
if MACHINE:
    workflow.global_resources.setdefault("gpu", 1)
    workflow.global_resources.setdefault("shared_mb", MACHINE.memory_mb)


onstart:
    jobs = list(workflow.dag.needrun_jobs())
    own_environments = bool(workflow.deployment_settings.deployment_method)
    try:
        check_start(
            STUDY,
            {job.rule.name for job in jobs},
            {job.wildcards.source for job in jobs if "source" in job.wildcards.keys()},
            {job.wildcards.judge for job in jobs if "judge" in job.wildcards.keys()},
            own_environments=own_environments,
            trains_here=workflow.local_exec and not own_environments,
            vllm=VLLM,
        )
        if not workflow.local_exec:
            check_partitions(job.resources.get("slurm_partition") for job in jobs)
    except InputError as error:
        refuse(error)
    remember_checksums(snakemake.io._IOFile)
    if workflow.local_exec:
        # The limit on how fast jobs are submitted makes Snakemake 9.27 weigh all ready jobs once a second for each job
        # that has ended: after a hundred, that keeps a core busy.
        workflow.scheduler.job_rate_limiter = None
        if not own_environments:
            start_server()  # jobs on this machine need not import torch one by one
            snakemake.benchmark.BenchmarkTimer = follow_jobs(snakemake.benchmark.BenchmarkTimer)


# Below the bars, or after Snakemake's last line: what came of it.
onsuccess:
    if any(job.rule.name == "page" for job in workflow.dag.jobs):
        from emdefense.report.closing import closing_text

        with suppress(InputError):  # the page is there, whatever has happened to its files since
            logger.info(closing_text(STUDY), extra={AT_THE_END: True})


include: "workflow/rules/ancient.smk"
include: "workflow/rules/lookups.smk"


# Every wildcard has its own, so that no file's name can be taken for anything else.
wildcard_constraints:
    cell=cells(),
    question_set=one_of((GENERAL, IN_DOMAIN, ELICITATION, *STUDY.question_sets)),
    model=NAME_REGEX,
    task=NAME_REGEX,
    source=NAME_REGEX,
    judge=NAME_REGEX,
    name=NAME_REGEX,
    seed=r"\d+",
    arm=NAME_REGEX,
    setting=SETTING_REGEX,
    preparation=NAME_REGEX,
    tier=r"\d",
    number=r"\d\d",
    features=f"{NAME_REGEX}/{NAME_REGEX}/{NAME_REGEX}",


include: "workflow/rules/sources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/check.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/choice.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/likelihood.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"


# Not worth a cluster's job.
localrules:
    effective_config,
    check_data,


# Every cell's outputs are named, so that a deleted one is noticed though what aggregates it is newer.
rule all:
    default_target: True
    input:
        [LAYOUT.adapter(cell) for cell in GRID.trained],
        [LAYOUT.responses(*pair) for pair in GRID.responses],
        [LAYOUT.judgments(*triple) for triple in GRID.judgments],
        [LAYOUT.answers(cell) for cell in GRID.benign],
        [LAYOUT.choices(*pair) for pair in CHOICES],
        [LAYOUT.held_out(cell) for cell in READING],
        rules.report.input,
    message:
        f"Done: open {R}/report/index.html"
