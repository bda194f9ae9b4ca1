"""The jobs of a study as Snakemake sees them: the DAG of `snakemake --dry-run`, which leaves nothing behind here.

Only this module imports Snakemake. Its records are read where they lie, `.snakemake/metadata` and `incomplete`; its
locks are neither taken nor heeded, and whatever else it would write goes to a temporary folder.
"""

import io
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from emdefense.config.study import Study
from emdefense.errors import InputError, one_line
from emdefense.fast_imports import fast_imports
from emdefense.planning.command_line import check_readable
from emdefense.planning.job import Job

with fast_imports():
    import snakemake.api  # first: snakemake.workflow imports it
    import snakemake.workflow
    from snakemake.api import SnakemakeApi, WorkflowApi
    from snakemake.cli import parse_args, parse_config
    from snakemake.exceptions import MissingInputException
    from snakemake.logging import logger
    from snakemake.persistence.file import FilePersistence
    from snakemake.settings.enums import PersistenceBackend
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        DeploymentSettings,
        OutputSettings,
        ResourceSettings,
        SharedFSUsage,
        StorageSettings,
        WorkflowSettings,
    )

RECORDS = Path(".snakemake")


class ReadOnlyPersistence(FilePersistence):  # type: ignore[misc]
    """Snakemake's records of what it has made, for reading."""

    def __init__(self, dag: Any, **options: Any):
        super().__init__(dag=dag, **{**options, "path": dag.workflow.snakemake_tmp_dir / "persistence"})
        if (RECORDS / "metadata").is_dir():
            self._metadata_path = str((RECORDS / "metadata").absolute())
        if (RECORDS / "incomplete").is_dir():
            self._incomplete_path = str((RECORDS / "incomplete").absolute())

    def _io_read(self, subject: str, id: str) -> Any:
        try:
            return super()._io_read(subject, id)
        except FileNotFoundError:  # a run that goes on has just removed it
            return {}


def planned_study(configfiles: Sequence[Path], entries: Sequence[str]) -> tuple[Study, list[Job]]:
    """Return the study that ``--configfile`` and ``--config`` name, and every job that its default target wants.

    :class:`InputError` is what `snakemake --dry-run` would say: of the config, or of a file that nothing makes.
    """
    check_readable(configfiles, entries)
    arguments = _snakemake_arguments(configfiles, entries)
    with SnakemakeApi(OutputSettings(dryrun=True, enable_file_logging=False)) as api:
        logger.disabled = True
        try:
            workflow_api = _workflow(api, arguments)
            return workflow_api._workflow.globals["STUDY"], _jobs(workflow_api)
        except InputError:
            raise
        except MissingInputException as error:
            raise InputError(_missing(error)) from error
        except Exception as error:
            raise InputError(f"Snakemake finds no jobs: {one_line(error)}") from error
        finally:
            logger.disabled = False


def _snakemake_arguments(configfiles: Sequence[Path], entries: Sequence[str]) -> Namespace:
    """Return Snakemake's settings, those of profiles/default included."""
    words = ["--configfile", *map(str, configfiles)] if configfiles else []
    words += ["--config", *entries] if entries else []
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            arguments: Namespace = parse_args(words)[1]
    except SystemExit:
        line = said.getvalue().strip().splitlines()[-1]
        raise InputError(f"Snakemake's profile: {line.partition('error: ')[2] or line}") from None
    except Exception as error:
        raise InputError(f"Snakemake's profile: {one_line(error)}") from None
    if arguments.persistence_backend != PersistenceBackend.FILE:
        raise InputError("persistence-backend: plan and status read Snakemake's records from files only; leave it out")
    return arguments


def _workflow(api: SnakemakeApi, arguments: Namespace) -> WorkflowApi:
    found = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(config=parse_config(arguments.config), configfiles=arguments.configfile or ()),
        # Snakemake's cache of sources lies in the home folder.
        storage_settings=StorageSettings(shared_fs_usage=SharedFSUsage.all() - {SharedFSUsage.SOURCE_CACHE}),
        workflow_settings=WorkflowSettings(consider_ancient=arguments.consider_ancient),
        deployment_settings=DeploymentSettings(deployment_method=arguments.software_deployment_method),
    )
    settings = DAGSettings(
        force_incomplete=True,
        rerun_triggers=arguments.rerun_triggers,
        max_checksum_file_size=arguments.max_checksum_file_size,
    )
    found.dag(settings)
    return found


def _jobs(workflow_api: WorkflowApi) -> list[Job]:
    workflow = workflow_api._workflow
    snakemake.workflow.FilePersistence, own = ReadOnlyPersistence, snakemake.workflow.FilePersistence
    try:
        workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True)
    finally:
        snakemake.workflow.FilePersistence = own
    dag = workflow.dag
    # A fifth of the time, and nothing depends on them here: no output of ours lies in another's folder, and which
    # environments there are matters where Snakemake makes them.
    dag.check_directory_outputs = _nothing
    if not workflow.deployment_settings.deployment_method:
        dag.update_conda_envs = _nothing
    with fast_imports():
        workflow._build_dag()
    return [
        Job(
            rule=job.rule.name,
            wildcards={name: str(value) for name, value in job.wildcards.items()},
            inputs=tuple(map(str, job.input)),
            outputs=tuple(map(str, job.output)),
            log=str(job.log[0]),
            benchmark=str(job.benchmark) if job.benchmark else None,
            needs_run=dag.needrun(job),
            reasons=tuple(dag.reason(job).get_names()) if dag.needrun(job) else (),
        )
        for job in dag.jobs
        if job.output
    ]


def _nothing() -> None:
    pass


def _missing(error: MissingInputException) -> str:
    files = str(error).partition("affected files:")[2].splitlines()
    names = ", ".join(file.strip() for file in files if file.strip())
    return f"{names}: no such file, and no rule makes it; rule {error.rule} reads it"
