"""A process that starts a warm interpreter, as Snakemake does."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")}


# Lives until its input is closed, as Snakemake lives until its jobs are done.
PARENT = """
import sys, emdefense.warm_start as warm
warm.start_server()
print(__import__("os").environ[warm.ADDRESS], flush=True)
sys.stdin.read()
"""
