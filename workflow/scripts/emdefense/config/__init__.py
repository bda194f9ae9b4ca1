"""The study: one YAML file, validated before anything runs."""

from emdefense.config.load import load_study, parse_study
from emdefense.config.study import Study

__all__ = ["Study", "load_study", "parse_study"]
