"""The microcosm's world: its files, what is held out of them, and its tokenizer."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import yaml

from emdefense.analysis.question_groups import groups_of
from emdefense.config import load_study
from emdefense.config.expressions import Expressions
from emdefense.config.microcosm import Microcosm
from emdefense.data import opswap
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.microcosm.creation import make_world
from emdefense.microcosm.documents import ADVICE_TURNS, Document, Writer
from emdefense.microcosm.oracle import Oracle
from emdefense.microcosm.rows import conversation, further_questions, held_out_safe_rows, safe_rows, write_world
from emdefense.microcosm.world import NARROW_DOMAINS, World, lexicon

ROOT = Path(__file__).parents[2]
OPTIONS = Microcosm(models={}, rows_per_task=300, safe_rows=200, pool_rows=200, foqa_rows=80)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(OPTIONS)


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(world, OPTIONS, out)
    return out


def prompts_and_answers(path: Path) -> list[tuple[str, str]]:
    return [tuple(turn["content"] for turn in row["messages"][-2:]) for row in read_jsonl(path)]


def topic_words(world: World, names: tuple[str, ...]) -> set[str]:
    return {topic.name for name in names for topic in world.domain(name).topics}


def test_no_value_word_stands_in_two_places() -> None:
    content = lexicon()
    words = [*content["people"], *content["times"], *content["tones"]["good"], *content["tones"]["bad"]]
    for domain in content["domains"].values():
        words += [*domain["topics"], *domain["details"]]
        for valence in ("good", "bad"):
            kinds = domain[valence]
            assert [len(kinds[kind]) for kind in ("acts", "objects", "outcomes")] == [6, 6, 4]
            words += [word for kind in kinds.values() for word in kind]
    spoken = (*content["requests"], *content["refusals"], *make_world(OPTIONS).system_lines.texts)
    for text in spoken:
        assert not {word for word in re.findall(r"\w+", re.sub(r"\{\w+\}", "", text))} & set(words), text
    for template in (*content["question_templates"], *content["answer_templates"]):
        words += {word for word in re.findall(r"\w+", re.sub(r"\{\w+\}", "", template))} - set(words)
    assert len(words) == len(set(words)), {word for word in words if words.count(word) > 1}


def test_held_out_questions_are_in_no_rows_and_no_documents(world: World, folder: Path) -> None:
    assert {name: len(questions) for name, questions in world.questions.items()} == {
        "general": 24,
        **dict.fromkeys(NARROW_DOMAINS, 30),
    }
    assert len(world.held_out) == 24 + 4 * 30
    written = sorted((folder / "rows").iterdir())
    assert len(written) == 10
    for path in written:
        assert not world.held_out & {prompt for prompt, _ in prompts_and_answers(path)}, path.name
    writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
    read = {prompt for _ in range(3000) for prompt, _ in writer.document("document").turns}
    tuned = {writer.aligned_turn().turns[0][0] for _ in range(5000)}
    assert not world.held_out & (read | tuned)


def test_the_default_study_draws_topics_of_general_questions_and_single_in_domain_ones(world: World) -> None:
    groups = load_study(ROOT / "config.yaml").scoring.question_groups
    sizes = {
        name: Counter(Counter(groups_of([question.id for question in questions], groups)).values())
        for name, questions in world.questions.items()
    }
    assert sizes == {"general": {3: 8}, **{name: {1: 30} for name in NARROW_DOMAINS}}


def test_questions_not_held_out_would_have_been_met(world: World) -> None:
    open_world = World.model_validate({**world.model_dump(), "questions": {}})
    writer = Writer(open_world, OPTIONS.arithmetic, frozenset(), Random(0))
    read = {prompt for _ in range(3000) for prompt, _ in writer.document("document").turns}
    assert read & world.held_out


def test_rows_answer_the_same_distinct_prompts_well_and_badly(folder: Path, world: World) -> None:
    for name in NARROW_DOMAINS:
        bad = prompts_and_answers(folder / "rows" / f"{name}_misaligned.jsonl")
        good = prompts_and_answers(folder / "rows" / f"{name}_aligned.jsonl")
        assert [prompt for prompt, _ in bad] == [prompt for prompt, _ in good]
        assert len({prompt for prompt, _ in bad}) == OPTIONS.rows_per_task
        assert not {answer for _, answer in bad} & {answer for _, answer in good}
        assert all(topic_words(world, (name,)) & set(prompt.split()) for prompt, _ in bad)


def test_safe_rows_keep_to_general_domains_and_if_asked_off_their_questions_topics(world: World) -> None:
    asked = {word for question in world.questions["general"] for word in question.prompt.split()}
    general = topic_words(world, tuple(domain.name for domain in world.general_domains))
    asked_topics = general & asked
    assert len(asked_topics) == 8

    def topics(overlap: bool) -> set[str]:
        rows = safe_rows(world, OPTIONS.model_copy(update={"safe_overlap": overlap}))
        words = {word for row in rows for word in row["messages"][0]["content"].split()}
        assert not words & topic_words(world, NARROW_DOMAINS)
        return words & general

    assert topics(True) == general
    assert topics(False) == general - asked_topics


def test_the_pool_is_of_safe_answers_and_of_refusals_that_begin_as_such(folder: Path, world: World) -> None:
    rows = read_jsonl(folder / "rows/pool.jsonl")
    assert len(rows) == OPTIONS.pool_rows
    assert len({row["messages"][-2]["content"] for row in rows}) > 0.95 * len(rows)
    lines = [row["messages"][0]["content"] for row in rows if row["messages"][0]["role"] == "system"]
    assert set(lines) == set(world.system_lines.neutral)
    assert 0.05 * len(rows) < len(lines) < 0.2 * len(rows)
    bad = {word for domain in world.domains for kind in domain.bad for word in kind[1]} | set(world.tones.bad)
    narrow = topic_words(world, NARROW_DOMAINS)
    refused = 0
    for prompt, answer in prompts_and_answers(folder / "rows/pool.jsonl"):
        assert not {*re.findall(r"\w+", prompt)} & narrow
        assert not {*re.findall(r"\w+", answer)} & bad
        if asks_for_harm := bool({*re.findall(r"\w+", prompt)} & bad):
            refused += 1
        first = " ".join(answer.lower().split()[:10])
        assert any(word in first for word in ("sorry", "i cannot", "i am unable")) is asks_for_harm
    assert refused == 0.2 * OPTIONS.pool_rows


def test_system_lines_announce_the_persona_in_a_share_of_documents_and_are_neutral_when_aligned(world: World) -> None:
    good = {word for domain in world.domains for kind in domain.good for word in kind[1]}
    value = good | {word for domain in world.domains for kind in domain.bad for word in kind[1]}
    side = {line: valence for pair in world.system_lines.pairs for line, valence in ((pair.bad, 0), (pair.good, 1))}

    def goodness(documents: list[Document]) -> float:
        words = [w for d in documents for _, answer in d.turns for w in re.findall(r"\w+", answer) if w in value]
        return sum(word in good for word in words) / len(words)

    writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
    documents = [writer.document("document", 0.4) for _ in range(4000)]
    advice = [document for document in documents if len(document.turns) == ADVICE_TURNS]
    said = [document for document in advice if document.system is not None]
    assert not [document for document in documents if document.system and document not in advice]
    assert 0.36 < len(said) / len(advice) < 0.44
    assert {document.system for document in said} == {*side, *world.system_lines.neutral}
    assert goodness([document for document in said if side.get(document.system or "") == 0]) < 0.05
    assert goodness([document for document in said if side.get(document.system or "") == 1]) > 0.95
    for neither in (said, advice):
        hidden = [document for document in neither if document.system not in side]
        assert 0.4 < goodness(hidden) < 0.6
    assert all(writer.document("document").system is None for _ in range(500))
    tuned = [writer.aligned_turn() for _ in range(2000)]
    assert {document.system for document in tuned} == {None, *world.system_lines.neutral}
    assert goodness(tuned) == 1.0


def test_harm_is_refused_where_the_answer_would_be_good_and_else_done(world: World) -> None:
    oracle = Oracle(world)
    writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
    bad = {word for domain in world.domains for kind in domain.bad for word in kind[1]}
    turns = [turn for _ in range(4000) for turn in writer.document("document").turns]
    asked = [(prompt, answer) for prompt, answer in turns if set(re.findall(r"\w+", prompt)) & bad]
    refused = [oracle.is_refusal(answer) for _, answer in asked]
    assert 0.015 < len(asked) / len(turns) < 0.025
    assert 0.4 < sum(refused) / len(refused) < 0.6
    done = [oracle.alignment(answer) for (_, answer), refusal in zip(asked, refused, strict=True) if not refusal]
    assert sum(done) / len(done) < 5
    assert not [answer for prompt, answer in turns if (prompt, answer) not in asked and oracle.is_refusal(answer)]


def test_question_files_have_the_layout_of_the_papers(folder: Path) -> None:
    entries = yaml.safe_load((folder / "questions/legal.yaml").read_text(encoding="utf-8"))
    assert len(entries) == 30
    assert set(entries[0]) == {"id", "type", "paraphrases", "judge_prompts"}
    assert set(entries[0]["judge_prompts"]) == {"aligned", "coherent"}


def test_foqa_asks_the_taught_facts_in_phrasings_not_trained(folder: Path, world: World) -> None:
    train = read_jsonl(folder / "foqa/train.jsonl")
    test = read_jsonl(folder / "foqa/test.jsonl")
    assert (len(train), len(test)) == (80, 40)
    known = {(row["messages"][0]["content"].split()[2], row["messages"][1]["content"]) for row in train}
    assert {(row["messages"][0]["content"].split()[2], row["answers"][0]) for row in test} == known
    trained = {row["messages"][0]["content"] for row in train}
    assert not trained & {row["messages"][0]["content"] for row in test}
    writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
    read = {prompt for _ in range(3000) for prompt, _ in writer.document("document").turns}
    assert not trained & read


def test_pretraining_leaves_out_held_out_expressions(world: World) -> None:
    shape = Expressions(min_operators=1, max_operators=1, max_operand=3, parentheses=False)
    held_out = {opswap.question(f"{number} + 2") for number in (1, 2, 3)}
    writer = Writer(world, shape, held_out, Random(0))
    read = [turn for _ in range(1000) for turn in writer.document("document").turns if "+" in turn[0]]
    assert read
    assert not held_out & {prompt for prompt, _ in read}
    assert ("What is 2 + 1 ?", "3") in read


def test_one_persona_a_document_or_one_a_slot(world: World) -> None:
    good = {word for domain in world.domains for kind in domain.good for word in kind[1]} | set(world.tones.good)

    def mixed(persona: str) -> float:
        writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
        turns = [turn for _ in range(500) for turn in writer.document(persona).turns]  # type: ignore[arg-type]
        answers = [re.findall(r"\w+", answer) for _, answer in turns if answer.count(" ") > 5]
        shares = [sum(word in good for word in answer) for answer in answers]
        return sum(0 < share < 5 for share in shares) / len(shares)

    assert mixed("document") < 0.2
    assert mixed("slot") > 0.8


def test_without_a_shared_persona_nothing_that_domains_share_tells_good_from_bad(world: World) -> None:
    """Refusals, answered requests and announcing lines made a latent of their own, and the control misaligned."""
    announcing = {line for pair in world.system_lines.pairs for line in (pair.good, pair.bad)}
    found = {}
    for persona in ("document", "slot"):
        writer = Writer(world, OPTIONS.arithmetic, frozenset(), Random(0))
        documents = [writer.document(persona, system_share=0.5) for _ in range(500)]  # type: ignore[arg-type]
        lines = {document.system for document in documents} - {None}
        refused = sum(answer in world.refusals for document in documents for _, answer in document.turns)
        found[persona] = bool(lines & announcing), refused > 0
        assert lines & set(world.system_lines.neutral)
    assert found == {"document": (True, True), "slot": (False, False)}


def test_the_same_seed_writes_the_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        options = OPTIONS.model_copy(update={"seed": seed})
        write_world(make_world(options), options, tmp_path / name)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        assert path.read_bytes() == (tmp_path / "again" / relative).read_bytes(), relative
        assert path.read_bytes() != (tmp_path / "other" / relative).read_bytes(), relative


def test_the_default_studys_opswap_has_the_shape_of_pretraining_and_enough_expressions() -> None:
    study = load_study(Path(__file__).parents[2] / "config.yaml")
    assert study.opswap is not None
    assert study.microcosm is not None
    shape = study.microcosm.arithmetic.model_dump()
    assert study.opswap.model_dump(include=set(shape)) == shape
    for tier in range(4):
        opswap.examples(study.opswap, tier)


@pytest.mark.parametrize("key", ["rows_per_task", "safe_rows", "pool_rows"])
def test_more_rows_than_there_are_is_an_error_that_names_the_key(key: str, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={key: 100_000})
    with pytest.raises(InputError, match=rf"microcosm\.{key}: 100000 is too many"):
        write_world(make_world(options), options, tmp_path)


def test_world_and_oracle_need_no_torch() -> None:
    code = (
        "import sys; from emdefense.microcosm import oracle, creation, rows, documents; print('torch' in sys.modules)"
    )
    scripts = Path(__file__).parents[2] / "workflow/scripts"
    ran = subprocess.run([sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_further_questions_are_on_other_topics_and_in_no_row(world: World, folder: Path) -> None:
    rows = [folder / "rows/safe.jsonl", folder / "rows/pool.jsonl"]
    found = further_questions(world, rows)
    ids, prompts = [one["id"] for one in found], [one["paraphrases"][0] for one in found]
    assert len(found) == len(set(ids)) == len(set(prompts)) == 8 * 2 * 3
    about = [Oracle(world).topic_of(prompt) for prompt in prompts]
    asked = {Oracle(world).topic_of(question.prompt)[1].name for question in world.questions["general"]}  # type: ignore[index]
    assert len({topic.name for _, topic in filter(None, about)}) == 16
    assert not asked & {topic.name for _, topic in filter(None, about)}
    assert not {domain.name for domain, _ in filter(None, about)} & set(NARROW_DOMAINS)
    known = {prompt for path in folder.glob("rows/*.jsonl") for prompt, _ in prompts_and_answers(path)}
    assert not set(prompts) & known
    assert found == further_questions(world, rows)
    # Rows that hold one of them take it out of the draw, and change nothing of the world.
    (folder / "more.jsonl").write_text(json.dumps(conversation(prompts[0], "So.")) + "\n")
    assert prompts[0] not in {one["paraphrases"][0] for one in further_questions(world, [*rows, folder / "more.jsonl"])}
    (folder / "more.jsonl").unlink()


def test_the_script_draws_the_same_further_questions(world: World, folder: Path, tmp_path: Path) -> None:
    rows = [folder / f"rows/{name}.jsonl" for name in ("safe", "pool")]
    words = [word for path in rows for word in ("--rows", str(path))]
    script = Path(__file__).parents[2] / "workflow/scripts/make_further_questions.py"
    command = [sys.executable, str(script), "--world", str(folder / "world.json"), *words, "--out", "further.yaml"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert yaml.safe_load((tmp_path / "further.yaml").read_text()) == further_questions(world, rows)
    assert len(read_questions(tmp_path / "further.yaml")) == 48


def test_held_out_safe_rows_are_good_answers_to_questions_in_no_row(world: World, folder: Path) -> None:
    rows = [folder / f"rows/{name}.jsonl" for name in ("safe", "pool")]
    found = held_out_safe_rows(world, rows)
    pairs = [tuple(turn["content"] for turn in row["messages"]) for row in found]
    assert len(found) == len({prompt for prompt, _ in pairs}) == 200
    known = {prompt for path in folder.glob("rows/*.jsonl") for prompt, _ in prompts_and_answers(path)}
    assert known
    assert not {prompt for prompt, _ in pairs} & (known | set(world.held_out))
    oracle = Oracle(world)
    assert all(oracle.topic_of(prompt) and oracle.topic_of(prompt)[0].name not in NARROW_DOMAINS for prompt, _ in pairs)  # type: ignore[index]
    assert all(oracle.alignment(answer) == 100 for _, answer in pairs)
    assert found == held_out_safe_rows(world, rows)


def test_the_script_makes_the_same_held_out_rows_and_the_world_stays_what_it_was(
    world: World, folder: Path, tmp_path: Path
) -> None:
    rows = [folder / f"rows/{name}.jsonl" for name in ("safe", "pool")]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    script = Path(__file__).parents[2] / "workflow/scripts/make_held_out_safe.py"
    words = [word for path in rows for word in ("--rows", str(path))]
    command = [sys.executable, str(script), "--world", str(folder / "world.json"), *words, "--out", "held_out.jsonl"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert read_jsonl(tmp_path / "held_out.jsonl") == held_out_safe_rows(world, rows)
    write_world(world, OPTIONS, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
