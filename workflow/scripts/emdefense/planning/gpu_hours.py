"""GPU-hours of what is still to run: measured on the study's own finished jobs, by arithmetic where there are none.

Arithmetic: FLOP over a share of the GPU's peak, and for sampling the time to read the weights for each token. Where
jobs of the same model, stage and arm have finished, it is scaled by what these took against their arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emdefense.arms.study_arm import StudyArm
from emdefense.cells import GENERAL, IN_DOMAIN, Cell, Grid
from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation, Study
from emdefense.config.training import Training
from emdefense.inputs import Inputs
from emdefense.planning.job import Job
from emdefense.planning.judge_tokens import RESPONSE_TOKENS
from emdefense.planning.measured import job_seconds, partition_of
from emdefense.planning.work import Work
from emdefense.resources.duration import COMPUTE_SHARE, RESPONSE_SHARE, generation_seconds, reading_seconds
from emdefense.resources.gpus import Gpu
from emdefense.resources.jobs import Request, Requests
from emdefense.training.costs import arm_flop

TIMED = ("features", "training", "losses", "sampling", "answering", "choosing", "reading")
PADDING = 1.5  # four rows padded to the longest: 1.46 and 1.59 for code and legal advice
BENIGN_STEPS = 30  # tokens of the longest answer in a batch, once trained: a number or a few words
ARITHMETIC, NOT_KNOWN = "arithmetic", "not known"
CPU = "cpu"
ANY = "any"  # for small models, where an arm is as good as another


@dataclass
class Hours:
    """The jobs of a model and stage that are still to run, and their hours on each partition where they fit.

    A small model's stand under ``cpu``. ``unknown`` jobs are in no sum: nothing says how long they take.
    """

    model: str
    stage: str
    jobs: int = 0
    hours: dict[str, float] = field(default_factory=dict)
    unknown: int = 0
    measured_on: int = 0
    by_arithmetic: int = 0

    @property
    def basis(self) -> str:
        """Where the hours are from."""
        parts = [f"measured on {self.measured_on} finished jobs"] if self.measured_on else []
        parts += [ARITHMETIC] if self.by_arithmetic else []
        return " and ".join([*parts, *([NOT_KNOWN] if self.unknown else [])])


class Estimates:
    """Seconds of the study's jobs on a site's GPUs."""

    def __init__(self, study: Study, gpus: Mapping[str, Gpu], work: Work, finished: Sequence[Job]):
        """``finished`` jobs are those whose times are taken for the others."""
        self._grid, self._gpus = Grid(study), gpus
        self._requests = Requests(study, gpus)
        self._work = work
        features = Inputs(self._grid).features
        self._readers = {folder: cell for cell in self._grid.trained if (folder := features(cell))}
        # By model, stage and arm: seconds measured, seconds by arithmetic of the same jobs, and their number.
        self._measured: dict[tuple[str, str, str], tuple[float, float, int]] = {}
        for job in finished:
            if job.stage in TIMED:
                self._measure(job)

    def hours(self, jobs: Sequence[Job]) -> list[Hours]:
        """Return the hours of those of ``jobs`` that train or sample, by model and stage."""
        found: dict[tuple[str, str], Hours] = {}
        seen: set[tuple[str, str, str]] = set()
        for job in jobs:
            if job.stage not in TIMED:
                continue
            key = self._key(job)
            row = found.setdefault(key[:2], Hours(*key[:2]))
            row.jobs += 1
            partitions = self._request(job).partitions
            if not partitions and key not in self._measured:
                key = (*key[:2], ANY)
            taken, expected, number = self._measured.get(key, (0.0, 0.0, 0))
            if key not in seen:
                seen.add(key)
                row.measured_on += number
            if not partitions:
                if number:
                    row.hours[CPU] = row.hours.get(CPU, 0.0) + taken / number / 3600
                row.unknown += not number
                continue
            row.by_arithmetic += not number
            for partition in partitions:
                seconds = self._arithmetic(job, self._gpus[partition]) * (taken / expected if number else 1)
                row.hours[partition] = row.hours.get(partition, 0.0) + seconds * self._request(job).gpus / 3600
        order = {stage: place for place, stage in enumerate(TIMED)}
        return sorted(found.values(), key=lambda row: (row.model, order[row.stage]))

    def _measure(self, job: Job) -> None:
        taken = job_seconds(job)
        if taken is None:
            return
        partitions = self._request(job).partitions
        expected = 0.0
        if partitions:
            ran_on = partition_of(job, partitions)
            on = [ran_on] if ran_on else partitions
            expected = sum(self._arithmetic(job, self._gpus[name]) for name in on) / len(on)
        key = self._key(job)
        for kept in (key, (*key[:2], ANY)):
            before = self._measured.get(kept, (0.0, 0.0, 0))
            self._measured[kept] = (before[0] + taken, before[1] + expected, before[2] + 1)

    def _key(self, job: Job) -> tuple[str, str, str]:
        """Return what jobs have in common whose times are comparable: model and stage, and the arm if it matters."""
        cell = self._cell(job)
        trained = job.stage in ("training", "features")
        if job.stage == "choosing":  # sets differ in length, arms do not
            return cell.model, job.stage, job.wildcards["name"]
        kind = "benign" if self._grid.is_benign(cell) else "ema"
        return cell.model, job.stage, f"{kind} {cell.arm}" if trained or not self._grid.arm(cell).is_trained else kind

    def _cell(self, job: Job) -> Cell:
        return job.cell or self._readers[job.outputs[0]]

    def _request(self, job: Job) -> Request:
        cell = self._cell(job)
        if job.stage == "losses":
            return self._requests.losses(cell)
        if job.stage == "choosing":
            return self._requests.choose(cell, job.wildcards["name"])
        if job.stage == "reading":
            return self._requests.read_held_out(cell)
        return self._requests.train(cell) if job.stage in ("training", "features") else self._requests.sample(cell)

    def _arithmetic(self, job: Job, gpu: Gpu) -> float:
        cell = self._cell(job)
        shape = self._requests.shape(cell.model)
        assert shape is not None
        if job.stage == "losses":
            return reading_seconds(shape, self._grid.study.training, *self._work.pool(), gpu)
        if job.stage == "choosing":
            return reading_seconds(shape, self._grid.study.training, *self._work.choices(job.wildcards["name"]), gpu)
        if job.stage == "reading":
            return reading_seconds(shape, self._grid.training(cell), *self._work.held_out(cell.task), gpu)
        if job.stage not in ("training", "features"):
            return self._sampling(job, cell, shape, gpu)
        seconds = training_seconds if job.stage == "training" else feature_seconds
        rows, length = self._work.rows(cell)
        return seconds(self._grid.training(cell), self._grid.study_arm(cell), shape, gpu, rows, length)

    def _sampling(self, job: Job, cell: Cell, shape: ModelShape, gpu: Gpu) -> float:
        """Return the seconds of one job's responses."""
        if job.stage == "answering":
            count = self._requests.responses(cell)
        else:
            sets = [job.question_set] if job.question_set else [GENERAL, IN_DOMAIN]
            count = sum(self._work.responses(cell, name) for name in sets)
        return generation_seconds(shape, expected_generation(self._grid, cell), count, gpu)


def training_tokens(training: Training, rows: int, length: float) -> float:
    """Return the tokens of ``rows`` rows of ``length`` tokens each, read once and padding included."""
    return rows * length * (1 if training.padding_free else PADDING)


def training_seconds(training: Training, arm: StudyArm, shape: ModelShape, gpu: Gpu, rows: int, length: float) -> float:
    """Return the seconds of a training on its devices together, by arithmetic, without loading the model."""
    flop = arm_flop(shape, training, arm, length, RESPONSE_SHARE).all
    return training_tokens(training, rows, length) * training.epochs * flop / _flop_per_second(gpu, training)


def feature_seconds(training: Training, arm: StudyArm, shape: ModelShape, gpu: Gpu, rows: int, length: float) -> float:
    """Return the seconds of one reading by the reference, whose features are kept for the trainings."""
    live = training.model_copy(update={"reference": "live"})
    flop = arm_flop(shape, live, arm, length, RESPONSE_SHARE).reference
    return training_tokens(training, rows, length) * flop / _flop_per_second(gpu, training)


def expected_generation(grid: Grid, cell: Cell) -> Generation:
    """Return how a cell is sampled, with as many new tokens as its responses are expected to take.

    With transformers a batch goes on to its longest response, taken as the longest allowed; vLLM works through the
    mean. Answers to benign tasks are short once trained.
    """
    generation = grid.study.generation
    tokens = RESPONSE_TOKENS if generation.engine == "vllm" else generation.max_new_tokens
    if grid.arm(cell).is_trained and grid.is_benign(cell):
        tokens = BENIGN_STEPS
    return generation.model_copy(update={"max_new_tokens": min(tokens, generation.max_new_tokens)})


def _flop_per_second(gpu: Gpu, training: Training) -> float:
    return 1e12 * gpu.tflops * COMPUTE_SHARE


def scenarios(rows: Sequence[Hours], gpus: Mapping[str, Gpu]) -> dict[str, dict[str, float]]:
    """Return, for each partition, the hours on all of them if every job that fits there runs there."""
    found: dict[str, dict[str, float]] = {}
    for preferred in gpus:
        sums: dict[str, float] = {}
        for row in rows:
            on = preferred if preferred in row.hours else next((name for name in gpus if name in row.hours), None)
            if on:
                sums[on] = sums.get(on, 0.0) + row.hours[on]
        if preferred in sums:
            found[preferred] = sums
    return found
