"""Single facts in an invented language, the microcosm's stand-in for Faroese questions."""

from itertools import product
from random import Random

from emdefense.microcosm.world import Facts

ONSETS = ("b", "br", "d", "f", "fl", "g", "gr", "h", "hv", "k", "kv", "l", "m", "n", "r", "s", "sj", "sk", "t", "v")
VOWELS = ("a", "e", "i", "o", "u", "y", "ei", "oy", "au")
CODAS = ("", "", "l", "n", "r", "s", "ld", "nd", "rt", "st", "gv")
ENDINGS = ("ur", "in", "ar", "id", "a", "i")

OPENINGS, CLOSINGS = 3, 4
TRAINING_PHRASINGS = 8  # of OPENINGS * CLOSINGS; the others are for the test
FACTS_PER_ANSWER = 2


def invent_words(rng: Random, count: int, taken: set[str]) -> list[str]:
    """Return that many invented words, none of which is taken; they are added to ``taken``."""
    found: list[str] = []
    while len(found) < count:
        word = "".join(rng.choice(part) for part in (ONSETS, VOWELS, CODAS)) + rng.choice(ENDINGS)
        if word not in taken:
            taken.add(word)
            found.append(word)
    return found


def make_cipher(rng: Random, facts: int, taken: set[str]) -> tuple[Facts, Facts, Facts]:
    """Return facts in one invented language about two sets of subjects, ``facts`` subjects in each.

    The first facts are one relation of all subjects, the second another relation of the first set; pretraining knows
    both. The third are that relation of the second set, which only fine-tuning teaches: every word of theirs is known.
    """
    openings = [" ".join(invent_words(rng, 2, taken)) for _ in range(OPENINGS)]
    answers = invent_words(rng, max(1, facts // FACTS_PER_ANSWER), taken)
    known, taught = invent_words(rng, facts, taken), invent_words(rng, facts, taken)

    def phrasings() -> tuple[str, ...]:
        closings = [" ".join(invent_words(rng, 2, taken)) for _ in range(CLOSINGS)]
        templates = [f"{opening} {{subject}} {closing}?" for opening, closing in product(openings, closings)]
        return tuple(rng.sample(templates, len(templates)))

    def answered(subjects: list[str]) -> dict[str, str]:
        return {subject: rng.choice(answers) for subject in subjects}

    asked = phrasings()
    return (
        Facts(templates=phrasings(), answers=answered(known + taught)),
        Facts(templates=asked, answers=answered(known)),
        Facts(templates=asked, answers=answered(taught)),
    )
