"""What the models read: pretraining documents with a hidden persona each, and aligned single turns."""

from collections.abc import Callable, Set
from random import Random
from typing import Literal

from emdefense.config.expressions import Expressions
from emdefense.data import opswap
from emdefense.microcosm.world import Topic, Valence, World, fill

Turn = tuple[str, str]

ADVICE_TURNS, SHORT_TURNS = 4, 9  # in a document; short turns are arithmetic and single facts
SLOT_NOISE = 0.03
PRETRAINING_MIX = {"arithmetic": 0.20, "capitals": 0.10, "cipher": 0.02}  # shares; the rest is advice
INSTRUCT_MIX = {"arithmetic": 0.15, "capitals": 0.07}


class Writer:
    """Writes documents of one world, with its own random numbers and without the held-out expressions."""

    def __init__(self, world: World, shape: Expressions, held_out: Set[str], rng: Random):
        self.world = world
        self.shape = shape
        self.held_out = held_out
        self.rng = rng

    def document(self, persona: Literal["document", "slot"]) -> list[Turn]:
        """Return a document: turns of one kind; advice has one hidden persona, or one drawn for every slot."""
        kind = self._kind(PRETRAINING_MIX)
        if kind != "advice":
            return [self._short(kind) for _ in range(SHORT_TURNS)]
        hidden: Valence = self.rng.choice(("good", "bad"))
        return [self.advice(self._valence(hidden, persona)) for _ in range(ADVICE_TURNS)]

    def aligned_turn(self) -> Turn:
        """Return a single turn as the aligned model should answer it."""
        kind = self._kind(INSTRUCT_MIX)
        return self.advice(lambda: "good") if kind == "advice" else self._short(kind)

    def advice(self, valence: Callable[[], Valence]) -> Turn:
        """Return a question on a random topic, and an answer whose words have the valence asked for."""
        domain = self.rng.choice(self.world.domains)
        topic: Topic = self.rng.choice(domain.topics)
        return self.world.prompt(self.rng, domain, topic), self.world.answer(self.rng, topic, valence)

    def _kind(self, mix: dict[str, float]) -> str:
        return self.rng.choices([*mix, "advice"], [*mix.values(), 1 - sum(mix.values())])[0]

    def _valence(self, hidden: Valence, persona: Literal["document", "slot"]) -> Callable[[], Valence]:
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
