"""An ancient input never hides that a job has a reason of its own to run."""

from snakemake.dag import DAG
from snakemake.io import _IOFile


def heeding_ancient(update_needrun):
    """Mend how Snakemake 9.27 finds what needs to run.

    It looks for no reason to run a job downstream of one that runs, since that one will trigger it; but does not do so
    through an input that is `ancient`. So a changed setting retrained nothing where the check before trainings was to
    run as well. Here, a job is not downstream through such an input; nor where the input is not there, or a check that
    failed, whose record Snakemake removes, would have all trainings made again that it had let pass.
    """
    there = _IOFile.exists

    async def there_or_ancient(file):
        return file.is_ancient or await there(file)

    async def mended(dag, *args, **options):
        plain = dag.bfs

        def triggered(direction, *jobs, stop=lambda job: False):
            if direction is not dag.depending:
                yield from plain(direction, *jobs, stop=stop)
                return
            _IOFile.exists = there_or_ancient  # from here on: before, it asks for files' times
            waiting, seen = list(jobs), set(jobs)
            while waiting:
                job = waiting.pop(0)
                yield job
                for job_, files in direction[job].items():
                    ancient_only = all(file.is_ancient for file in files)
                    if job_ not in seen and not ancient_only:
                        waiting.append(job_)
                        seen.add(job_)

        dag.bfs = triggered
        try:
            return await update_needrun(dag, *args, **options)
        finally:
            del dag.bfs
            _IOFile.exists = there

    mended.heeds_ancient = True
    return mended


if not hasattr(DAG.update_needrun, "heeds_ancient"):  # read once more by a process of the same Snakemake
    DAG.update_needrun = heeding_ancient(DAG.update_needrun)
