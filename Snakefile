"""The pipeline: a study's config in, its tables, figures, claims and page out.

`snakemake` runs the default study on this machine, `snakemake --configfile config/smoke.yaml` another one.
"""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))

from emdefense.cells import (
    GENERAL,
    IN_DOMAIN,
    SHARED_TASK,
    STAGE_VERSIONS,
    Cell,
    Grid,
    Layout,
)
from emdefense.config import parse_study
from emdefense.errors import InputError
from emdefense.job_environment import set_job_environment
from emdefense.warm_start import start_server

# Studies never mix: config.yaml is read only if no other file is named.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


try:
    STUDY = parse_study(config, " + ".join(map(str, workflow.overwrite_configfiles or ["config.yaml"])))
except InputError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

GRID = Grid(STUDY)
LAYOUT = Layout(STUDY)
R = LAYOUT.results
set_job_environment()

# A remote judge is asked by at most this many jobs at once.
workflow.global_resources.setdefault("judge_slots", 8)


wildcard_constraints:
    cell=r"[^/]+/[^/]+/[^/]+/[^/]+/seed\d+",
    question_set=f"{GENERAL}|{IN_DOMAIN}",
    task=r"[^/]+",
    name=r"[^/]+",


# Jobs on this machine need not import torch one by one.
onstart:
    start_server()
    if STUDY.judge.kind == "openai" and not os.environ.get(STUDY.judge.api_key_variable):
        logger.warning(f"{STUDY.judge.api_key_variable} is not set: everything but the judging will run")


include: "workflow/rules/lookups.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/report.smk"


# Every cell's outputs are named, so that a deleted one is noticed though what aggregates it is newer.
rule all:
    default_target: True
    input:
        [LAYOUT.adapter(cell) for cell in GRID.trained],
        [LAYOUT.responses(*pair) for pair in GRID.responses],
        [LAYOUT.judgments(*pair) for pair in GRID.responses],
        [LAYOUT.answers(cell) for cell in GRID.benign],
        rules.report.input,
    message:
        f"Done: open {R}/report/index.html"
