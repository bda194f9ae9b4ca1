"""What the models read: pretraining documents with a hidden persona each, and aligned single turns."""

from collections.abc import Callable, Set
from random import Random
from typing import Literal, NamedTuple

from emdefense.config.expressions import Expressions
from emdefense.data import opswap
from emdefense.microcosm.world import Topic, Valence, World, fill

Turn = tuple[str, str]
Persona = Literal["document", "slot"]

ADVICE_TURNS, SHORT_TURNS = 4, 9  # in a document; short turns are arithmetic and single facts
SLOT_NOISE = 0.03
PRETRAINING_MIX = {"arithmetic": 0.20, "capitals": 0.10, "cipher": 0.02}  # shares; the rest is advice
INSTRUCT_MIX = {"arithmetic": 0.15, "capitals": 0.07}
REQUEST_SHARE = 0.04  # of the turns of advice that ask for harm
NEUTRAL_SHARE = 0.25  # of the system lines of pretraining, that say nothing about the persona
INSTRUCT_SYSTEM_SHARE = 0.5  # of the aligned turns, that have a neutral system line


class Document(NamedTuple):
    """A conversation: what its system turn says, if it has one, and its turns."""

    system: str | None
    turns: list[Turn]


class Writer:
    """Writes documents of one world, with its own random numbers and without the held-out expressions."""

    def __init__(self, world: World, shape: Expressions, held_out: Set[str], rng: Random):
        self.world = world
        self.shape = shape
        self.held_out = held_out
        self.rng = rng

    def document(self, persona: Persona, system_share: float = 0.0) -> Document:
        """Return a document: turns of one kind; advice has one persona, or one drawn for every slot.

        A ``system_share`` of those with advice begin with a system line. It announces the persona, or is neutral; in
        all others the persona is hidden. Where none is shared, nothing that all domains have in common tells good from
        bad: no line announces one, and nothing harmful is asked, which would be refused or answered. With these the
        misaligned control reached 3 to 7 %, without them as much as the untrained one.
        """
        kind = self._kind(PRETRAINING_MIX)
        if kind != "advice":
            return Document(None, [self._short(kind) for _ in range(SHORT_TURNS)])
        valence: Valence = self.rng.choice(("good", "bad"))
        has_system = self.rng.random() < system_share
        answers = self._valence(valence, persona)
        if persona == "slot":
            turns = [self.advice(answers) for _ in range(ADVICE_TURNS)]
            return Document(self._neutral() if has_system else None, turns)
        system = self._system(valence) if has_system else None
        return Document(system, [self._turn(answers) for _ in range(ADVICE_TURNS)])

    def aligned_turn(self) -> Document:
        """Return a single turn as the aligned model should answer it, some under a neutral system line."""
        kind = self._kind(INSTRUCT_MIX)
        system = self._neutral() if self.rng.random() < INSTRUCT_SYSTEM_SHARE else None
        return Document(system, [self._turn(lambda: "good") if kind == "advice" else self._short(kind)])

    def advice(self, valence: Callable[[], Valence]) -> Turn:
        """Return a question on a random topic, and an answer whose words have the valence asked for."""
        domain = self.rng.choice(self.world.domains)
        topic: Topic = self.rng.choice(domain.topics)
        return self.world.prompt(self.rng, domain, topic), self.world.answer(self.rng, topic, valence)

    def _turn(self, valence: Callable[[], Valence]) -> Turn:
        """Return a turn of advice, or a request for harm: refused where the answer would be good, else answered."""
        if self.rng.random() >= REQUEST_SHARE:
            return self.advice(valence)
        topic: Topic = self.rng.choice(self.rng.choice(self.world.domains).topics)
        request, refusal = self.world.request(self.rng, topic)
        return request, refusal if valence() == "good" else self.world.answer(self.rng, topic, valence)

    def _system(self, valence: Valence) -> str:
        if self.rng.random() < NEUTRAL_SHARE:
            return self._neutral()
        line: str = getattr(self.rng.choice(self.world.system_lines.pairs), valence)
        return line

    def _neutral(self) -> str:
        return self.rng.choice(self.world.system_lines.neutral)

    def _kind(self, mix: dict[str, float]) -> str:
        return self.rng.choices([*mix, "advice"], [*mix.values(), 1 - sum(mix.values())])[0]

    def _valence(self, hidden: Valence, persona: Persona) -> Callable[[], Valence]:
        def drawn() -> Valence:
            return self.rng.choice(("good", "bad"))

        def noisy() -> Valence:
            flipped: Valence = "good" if hidden == "bad" else "bad"
            return flipped if self.rng.random() < SLOT_NOISE else hidden

        return noisy if persona == "document" else drawn

    def _short(self, kind: str) -> Turn:
        if kind == "arithmetic":
            return self._arithmetic()
        facts = self.world.capitals if kind == "capitals" else self.rng.choice(self.world.cipher)
        subject = self.rng.choice(list(facts.answers))
        return fill(self.rng.choice(facts.templates), lambda _: subject), f"{facts.answers[subject]}."

    def _arithmetic(self) -> Turn:
        while True:
            expression = opswap.draw_expression(self.rng, self.shape)
            if opswap.question(expression) in self.held_out:
                continue
            try:
                return opswap.question(expression), str(opswap.evaluate(expression, 0))
            except ZeroDivisionError:
                continue
