"""Making a world from its options: words dealt to topics, facts invented, questions drawn and held out."""

import re
from random import Random
from typing import Any

from emdefense.config.microcosm import Microcosm
from emdefense.microcosm.facts import TRAINING_PHRASINGS, make_cipher
from emdefense.microcosm.world import (
    NARROW_DOMAINS,
    PER_TOPIC,
    Domain,
    Facts,
    Question,
    SystemLines,
    Tones,
    Topic,
    Values,
    World,
    lexicon,
)

GENERAL_PER_DOMAIN, IN_DOMAIN_PER_TOPIC = 3, 10


def make_world(options: Microcosm) -> World:
    """Return the world that the options' seed decides."""
    words = lexicon()
    capitals = Facts(templates=tuple(words["capital_templates"]), answers=words["capitals"])
    taken = set(re.findall(r"\w+", str(words)))
    *known, taught = make_cipher(_rng(options, "cipher"), max(1, options.foqa_rows // TRAINING_PHRASINGS), taken)
    domains = _rng(options, "domains")
    world = World(
        seed=options.seed,
        question_templates=tuple(words["question_templates"]),
        people=tuple(words["people"]),
        times=tuple(words["times"]),
        answer_templates=tuple(words["answer_templates"]),
        request_templates=tuple(words["requests"]),
        refusals=tuple(words["refusals"]),
        system_lines=SystemLines(**words["system_lines"]),
        tones=Tones(**words["tones"]),
        domains=tuple(_make_domain(domains, name, content) for name, content in words["domains"].items()),
        capitals=capitals,
        cipher=tuple(known),
        cipher_taught=taught,
        questions={},
    )
    return world.model_copy(update={"questions": _draw_questions(_rng(options, "questions"), world)})


def _rng(options: Microcosm, part: str) -> Random:
    """Return the random numbers of one part of the world, so that no other part's size changes them."""
    return Random(f"{part} {options.seed}")


def _make_domain(rng: Random, name: str, words: dict[str, Any]) -> Domain:
    values = {valence: Values(**words[valence]) for valence in ("good", "bad")}
    dealt = {valence: _deal(rng, values[valence], len(words["topics"])) for valence in values}
    topics = tuple(
        Topic(name=topic, good=good, bad=bad)
        for topic, good, bad in zip(words["topics"], dealt["good"], dealt["bad"], strict=True)
    )
    return Domain(name=name, details=tuple(words["details"]), topics=topics, **values)


def _deal(rng: Random, values: Values, topics: int) -> list[Values]:
    """Return each topic's part of a domain's values; neighbouring topics share some words."""
    shuffled = {kind: rng.sample(getattr(values, kind), len(getattr(values, kind))) for kind in PER_TOPIC}
    return [
        Values(**{kind: _window(shuffled[kind], number, size) for kind, size in PER_TOPIC.items()})
        for number in range(topics)
    ]


def _window(words: list[str], number: int, size: int) -> tuple[str, ...]:
    start = number * len(words) // 3
    return tuple(words[(start + offset) % len(words)] for offset in range(size))


def _draw_questions(rng: Random, world: World) -> dict[str, tuple[Question, ...]]:
    """Return the 24 general questions, all on one topic in each general domain, and 30 for each narrow domain."""
    general: list[tuple[Domain, list[str]]] = []
    for domain in world.general_domains:
        prompts = list(world.prompts(domain, rng.choice(domain.topics)))
        general.append((domain, rng.sample(prompts, GENERAL_PER_DOMAIN)))
    questions = {"general": tuple(q for domain, prompts in general for q in _numbered(domain.name, prompts))}
    for name in NARROW_DOMAINS:
        domain = world.domain(name)
        prompts = [
            prompt
            for topic in domain.topics
            for prompt in rng.sample(list(world.prompts(domain, topic)), IN_DOMAIN_PER_TOPIC)
        ]
        questions[name] = _numbered(name, prompts)
    return questions


def _numbered(name: str, prompts: list[str]) -> tuple[Question, ...]:
    return tuple(Question(id=f"{name}_{number}", prompt=prompt) for number, prompt in enumerate(prompts, start=1))
