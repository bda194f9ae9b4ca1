"""What each job asks a cluster for: partitions, GPUs, memory and time, from its cell's model, rows and samples.

Rows and samples are those of the config, so that everything is known before anything is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from emdefense.cells import ELICITATION, GENERAL, IN_DOMAIN, Cell, Grid
from emdefense.config.shape import ModelShape, read_shape
from emdefense.config.study import BenignTask, Study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.likelihood.read import SIDES
from emdefense.model_folder import model_folder
from emdefense.resources.duration import (
    BATCH_SECONDS,
    ROW_TOKENS,
    generation_seconds,
    judging_seconds,
    loading_seconds,
    reading_seconds,
    training_seconds,
)
from emdefense.resources.gpus import GIB, Gpu, partitions_for
from emdefense.resources.machine import Machine
from emdefense.resources.memory import Budget, generation_budget, training_budget

GPU_PARAMETERS = 50_000_000  # smaller models are trained on a CPU
CPUS_PER_GPU = 4
MEMORY_GROWTH = 1.5  # an attempt
TIME_MARGIN = 2.5  # over the estimate
SETUP_MINUTES = 10
CPU_MINUTES = 120
CPU_MB = 4000  # the training stack, Snakemake around it, and a model of GPU_PARAMETERS
HERE_MB = 1800  # what a job on a CPU takes beyond what it would of a GPU: 1.3 to 1.8 GB with 135 M parameters
GENERAL_QUESTIONS = 24
FILE_QUESTIONS = 48  # of a further file: those that Betley et al. (2025) registered before
ELICITATION_QUESTIONS = 200  # five pairs of system prompts and twenty questions, as in arXiv 2507.21509
POOL_ROWS = 40_000  # of WildGuardMix's training set, 38,000 have an answer
CHOICE_QUESTIONS = 14_042  # of MMLU's test
OPTION_TOKENS = 64  # of a long option; only a few of TruthfulQA's are longer
PAPER_ROWS = 6000  # of a file of which the config takes all


@dataclass(frozen=True)
class Request:
    """One job's; without partitions it goes to the site's default one."""

    mem_mb: int
    minutes: int
    partitions: tuple[str, ...] = ()
    gpus: int = 0
    gpu_bytes: int = 0
    max_minutes: int | None = None
    threads: int = 1
    shared_mb: int = 0  # of the memory that jobs on this machine's CPU share

    @property
    def cpus(self) -> int:
        """Processors."""
        return max(self.threads, CPUS_PER_GPU * self.gpus)

    def memory(self, attempt: int) -> int:
        """Return the MB of main memory that the ``attempt``-th attempt, counted from 1, gets."""
        return round(self.mem_mb * MEMORY_GROWTH ** (attempt - 1))

    def runtime(self, attempt: int) -> int:
        """Return the minutes that the ``attempt``-th attempt gets, at most what the partitions allow."""
        minutes = self.minutes * attempt
        return minutes if self.max_minutes is None else min(minutes, self.max_minutes)


class Requests:
    """The requests of a study's jobs on a site with these GPUs, or on a machine without one."""

    def __init__(self, study: Study, gpus: Mapping[str, Gpu], machine: Machine | None = None):
        """``machine`` is where all jobs run, if on a single one."""
        self._study, self._gpus = study, gpus
        self._cpu = None if machine is None or machine.has_gpu else machine
        self._grid, self._layout = Grid(study), Layout(study)
        self._shapes = {name: self._shape(name) for name in study.models}

    made_here = Request(CPU_MB, CPU_MINUTES)  # of small models, in their making too

    def shape(self, model: str) -> ModelShape | None:
        """Return the shape of a model that needs a GPU; None for a small one, and for one that is not there yet."""
        return self._shapes[model]

    def train(self, cell: Cell) -> Request:
        """Return the request of a cell's training."""
        shape, training, rows = self._shapes[cell.model], self._grid.training(cell), self.rows(cell)
        arm = self._grid.study_arm(cell)
        if shape is None:
            return self.made_here
        return self._on_gpu(
            shape,
            training_budget(shape, training, self._grid.costly(cell.arm)),
            lambda gpu: training_seconds(shape, training, arm, rows, gpu),
        )

    def losses(self, cell: Cell) -> Request:
        """Return the request of the losses of a pool under a cell's model, or its adapter."""
        shape, training = self._shapes[cell.model], self._study.training
        if shape is None:
            return self.made_here
        return self._on_gpu(
            shape,
            training_budget(shape, self._study.models[cell.model].training.applied_to(training), None),
            lambda gpu: reading_seconds(shape, training, POOL_ROWS, min(ROW_TOKENS, training.max_length), gpu),
        )

    def sample(self, cell: Cell, question_set: str | None = None) -> Request:
        """Return the request of a cell's responses, or of its answers to a benign task; see :meth:`responses`."""
        shape, generation = self._shapes[cell.model], self._study.generation
        if shape is None:
            return self.made_here
        responses = self.responses(cell, question_set)
        return self._on_gpu(
            shape,
            generation_budget(shape, generation),
            lambda gpu: generation_seconds(shape, generation, responses, gpu),
        )

    def choose(self, cell: Cell, name: str) -> Request:
        """Return the request of weighing the options of a set of multiple-choice questions."""
        shape, study = self._shapes[cell.model], self._study
        if shape is None:
            return self.made_here
        questions = study.multiple_choice[name].limit or CHOICE_QUESTIONS
        weighing = study.generation.model_copy(update={"engine": "transformers", "max_new_tokens": OPTION_TOKENS})
        return self._on_gpu(
            shape,
            generation_budget(shape, weighing),
            lambda gpu: reading_seconds(shape, study.training, questions, ROW_TOKENS, gpu),
        )

    def read_held_out(self, cell: Cell) -> Request:
        """Return the request of reading the held-out answers of a cell's task."""
        shape, training, section = self._shapes[cell.model], self._grid.training(cell), self._study.likelihood
        if shape is None or section is None:
            return self.made_here
        rows = len(SIDES) * section.rows
        return self._on_gpu(
            shape,
            training_budget(shape, training, None),
            lambda gpu: reading_seconds(shape, training, rows, min(ROW_TOKENS, training.max_length), gpu),
        )

    def prepare(self, cell: Cell) -> Request:
        """Return the request of a preparation: of a training on the same rows, where it runs the model."""
        arm = self._grid.study_arm(cell)
        return self.train(self._grid.changed_from(cell)) if arm.arm.runs_model else self.change(cell.model)

    def change(self, model: str) -> Request:
        """Return the request of a changed adapter: on the CPU, a matrix at a time."""
        shape = self._shapes[model]
        if shape is None:
            return self.made_here
        largest = max(inputs * outputs for inputs, outputs in shape.projections.values())
        # Both models' matrices, their difference and products with it, in fp32.
        return Request(CPU_MB + 6 * 4 * largest // 10**6, SETUP_MINUTES + _minutes(2 * loading_seconds(shape)))

    def judge(self, cell: Cell, judge: str, question_set: str) -> Request:
        """Return the request of a judge's judging a cell's responses to one question set."""
        settings = self._study.judges[judge]
        seconds = 0.0
        if settings.kind == "openai":
            batch = settings.mode == "batch"
            seconds = (
                BATCH_SECONDS if batch else judging_seconds(self.responses(cell, question_set), settings.concurrency)
            )
        return Request(CPU_MB, SETUP_MINUTES + _minutes(seconds))

    def rows(self, cell: Cell) -> int:
        """Return the number of rows that a cell is trained on, or a number that is not below it."""
        task, data, made = self._grid.task(cell), self._study.data, self._study.opswap
        rows, holdout = data.max_rows or PAPER_ROWS, data.holdout_pct
        if isinstance(task, BenignTask):
            holdout = 0.0
            if made and task.train.startswith("{results}/opswap"):
                rows, holdout = made.examples, made.holdout_pct
        return ceil(rows * (1 - holdout / 100) * self._grid.row_share(cell))

    def questions(self, question_set: str) -> int:
        """Return how many questions a set is taken to have before it is there."""
        named = {GENERAL: GENERAL_QUESTIONS, ELICITATION: ELICITATION_QUESTIONS}
        plain = self._grid.further_sets.plain(question_set)
        otherwise = FILE_QUESTIONS if plain in self._study.question_sets else self._study.data.holdout_questions
        return named.get(plain, otherwise)

    def responses(self, cell: Cell, question_set: str | None = None) -> int:
        """Return the number of responses that one job samples, or that one judges, whichever is more.

        Without a further set's name, of the job that samples general and in-domain responses, or answers.
        """
        if self._grid.is_benign(cell):
            task = self._grid.task(cell)
            assert isinstance(task, BenignTask)
            return task.test_questions * task.samples_per_question
        if question_set in self._study.question_sets:
            return self.questions(question_set) * self._grid.samples(cell, question_set)
        both = [self.questions(name) for name in (GENERAL, IN_DOMAIN)]
        return self._grid.samples(cell) * (max(both) if not self._grid.arm(cell).is_trained else sum(both))

    def check(self) -> None:
        """Raise :class:`InputError` for the first model whose size is not known, or that fits on no GPU."""
        for name, model in self._study.models.items():
            if self._shapes[name] is None and "{results}" not in model.instruct and not self._folder(name):
                raise InputError(
                    f"key 'models.{name}.shape': {model.instruct} is not there yet, so its size is not known; fetch it "
                    "first, or give its shape"
                )
        sampled = dict.fromkeys([*(cell for cell, _ in self._grid.responses), *self._grid.benign])
        for cell in self._grid.trained:
            self._check_fit(cell, self.train(cell), "training", "batch_size, or set activation_checkpointing")
        for cell in sampled:
            self._check_fit(cell, self.sample(cell), "sampling", "generation.batch_size")

    def _check_fit(self, cell: Cell, request: Request, stage: str, remedy: str) -> None:
        if request.gpus and not request.partitions:
            most = max(gpu.usable_bytes for gpu in self._gpus.values())
            raise InputError(
                f"key 'models.{cell.model}': {stage} {cell.folder} takes {request.gpu_bytes / GIB:.1f} GiB of a GPU, "
                f"and the largest in profiles/slurm/gpus.yaml has {most / GIB:.1f} to use; lower {remedy}"
            )

    def _on_gpu(self, shape: ModelShape, budget: Budget, seconds: Callable[[Gpu], float]) -> Request:
        """Return the request of a job that may go to any GPU on which it fits, with the time that the slowest takes."""
        size = sum(budget.values())
        if self._cpu is not None:
            mem_mb = HERE_MB + round(size / 10**6)
            asked = self._study.cpu_threads
            threads = self._cpu.threads(mem_mb) if asked == "auto" else min(asked, self._cpu.cores)
            minutes = SETUP_MINUTES + _minutes(seconds(self._cpu.as_gpu(threads)))
            return Request(mem_mb, minutes, threads=threads, shared_mb=min(mem_mb, self._cpu.memory_mb))
        partitions = partitions_for(size, self._gpus)
        fitting = [self._gpus[name] for name in partitions]
        limits = [60 * gpu.max_hours for gpu in fitting if gpu.max_hours]
        return Request(
            # The weights are read into main memory on their way to the GPU.
            mem_mb=2 * CPU_MB + round(1.15 * 2 * shape.parameters / 10**6),
            minutes=SETUP_MINUTES + _minutes(max(map(seconds, fitting), default=0)),
            partitions=partitions,
            gpus=1,
            gpu_bytes=size,
            max_minutes=int(min(limits)) if limits else None,
        )

    def _shape(self, name: str) -> ModelShape | None:
        """Find out the shape of a model."""
        model = self._study.models[name]
        folder = self._folder(name)
        shape = model.shape or (read_shape(folder) if folder else None)
        return shape if shape and shape.parameters >= GPU_PARAMETERS else None

    def _folder(self, name: str) -> Path | None:
        """Return the folder of a model if it is there and the study does not make it."""
        named = self._study.models[name].instruct
        if "{results}" in named:
            return None
        try:
            folder = model_folder(self._layout.file(named))
        except InputError:  # not in the hub's cache
            return None
        return folder if (folder / "config.json").is_file() else None


def _minutes(seconds: float) -> int:
    """Return the minutes to ask for where ``seconds`` are expected."""
    return ceil(TIME_MARGIN * seconds / 60)
