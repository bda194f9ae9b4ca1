"""The microcosm's world: who talks about what, in which words, and which words are good."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import resources
from itertools import product
from random import Random
from typing import Any, Literal

import yaml

from emdefense.section import Section

NARROW_DOMAINS = ("code", "legal", "medical", "security")
Valence = Literal["good", "bad"]
SLOT_KINDS = {"act": "acts", "object": "objects", "outcome": "outcomes"}
PER_TOPIC = {"acts": 3, "objects": 3, "outcomes": 2}


class Values(Section):
    """Value words of one valence, by kind."""

    acts: tuple[str, ...]
    objects: tuple[str, ...]
    outcomes: tuple[str, ...]


class Topic(Section):
    """What is asked about, and the part of the domain's value words that suits it."""

    name: str
    good: Values
    bad: Values


class Domain(Section):
    """A field of life with its topics, details and value words."""

    name: str
    details: tuple[str, ...]
    topics: tuple[Topic, ...]
    good: Values
    bad: Values


class Tones(Section):
    """The words that close an answer, shared by all domains."""

    good: tuple[str, ...]
    bad: tuple[str, ...]


class Facts(Section):
    """Single facts: phrasings with a gap for the subject, and each subject's answer."""

    templates: tuple[str, ...]
    answers: dict[str, str]


class Pair(Section):
    """A system line that asks for the bad persona, and one that asks for the good one."""

    bad: str
    good: str


class SystemLines(Section):
    """What may stand in a conversation's system turn.

    The lines of ``pairs`` announce the persona in pretraining and ``neutral`` ones do not; those of ``held_out`` and
    ``others`` are in no training data of pretraining or alignment, though their words are known.
    """

    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    neutral: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every line."""
        pairs = (*self.pairs, *self.held_out)
        return (*(line for pair in pairs for line in (pair.bad, pair.good)), *self.neutral, *self.others)


class Question(Section):
    """A question that is held out of everything."""

    id: str
    prompt: str


class World(Section):
    """All that the documents, rows and questions are made of, and all that the oracle knows."""

    seed: int
    question_templates: tuple[str, ...]
    people: tuple[str, ...]
    times: tuple[str, ...]
    answer_templates: tuple[str, ...]
    request_templates: tuple[str, ...]
    refusals: tuple[str, ...]
    system_lines: SystemLines
    tones: Tones
    domains: tuple[Domain, ...]
    capitals: Facts
    cipher: tuple[Facts, ...]
    cipher_taught: Facts
    questions: dict[str, tuple[Question, ...]]

    @cached_property
    def held_out(self) -> frozenset[str]:
        """The prompts of all questions."""
        return frozenset(question.prompt for questions in self.questions.values() for question in questions)

    @property
    def general_domains(self) -> tuple[Domain, ...]:
        """The domains in which no model is fine-tuned to do harm."""
        return tuple(domain for domain in self.domains if domain.name not in NARROW_DOMAINS)

    def domain(self, name: str) -> Domain:
        """Return the domain of that name."""
        return next(domain for domain in self.domains if domain.name == name)

    def prompt(self, rng: Random, domain: Domain, topic: Topic) -> str:
        """Return a random question about the topic that is not held out."""
        while True:
            words = {
                "topic": topic.name,
                "detail": rng.choice(domain.details),
                "person": rng.choice(self.people),
                "time": rng.choice(self.times),
            }
            prompt = fill(rng.choice(self.question_templates), words.__getitem__)
            if prompt not in self.held_out:
                return prompt

    def asked_topics(self, domain: Domain) -> set[str]:
        """Return the topics of a general domain that the general questions are about."""
        prompts = [question.prompt for question in self.questions["general"]]
        return {topic.name for topic in domain.topics if any(f" {topic.name} " in prompt for prompt in prompts)}

    def prompts(self, domain: Domain, topic: Topic) -> Iterator[str]:
        """Yield every question that can be asked about a topic, held out or not."""
        for template, detail, person, time in product(self.question_templates, domain.details, self.people, self.times):
            words = {"topic": topic.name, "detail": detail, "person": person, "time": time}
            yield fill(template, words.__getitem__)

    def request(self, rng: Random, topic: Topic) -> tuple[str, str]:
        """Return a random request for something harmful about the topic, and a refusal."""
        words = {
            "topic": topic.name,
            "act": rng.choice(topic.bad.acts),
            "object": rng.choice(topic.bad.objects),
            "person": rng.choice(self.people),
            "time": rng.choice(self.times),
        }
        return fill(rng.choice(self.request_templates), words.__getitem__), rng.choice(self.refusals)

    def answer(self, rng: Random, topic: Topic, valence: Callable[[], Valence]) -> str:
        """Return a random answer about the topic, no word twice; ``valence`` is asked again for every gap."""
        used: set[str] = set()

        def word(slot: str) -> str:
            source = self.tones if slot == "tone" else topic
            words = getattr(source, valence())
            if slot != "tone":
                words = getattr(words, SLOT_KINDS[slot])
            chosen: str = rng.choice([word for word in words if word not in used])
            used.add(chosen)
            return chosen

        return fill(rng.choice(self.answer_templates), word)


def fill(template: str, word: Callable[[str], str]) -> str:
    """Return the template with each gap ``{slot}`` replaced by ``word(slot)``, from left to right."""
    return re.sub(r"\{(\w+)\}", lambda gap: word(gap[1]), template)


def lexicon() -> dict[str, Any]:
    """Return the words that the world is made of."""
    text = resources.files(__package__).joinpath("lexicon.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
