"""Prompts of tasks: controls hold the same tokens, and no longer what gives the answer away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qkatlas.pipeline.tasks.draw import draw_tasks
from qkatlas.pipeline.tasks.kinds import BLOCK, FAMILIES, PREFIXES, chosen_tasks
from qkatlas.pipeline.tasks.prompts import EXCHANGE, ORDER, TaskPrompts, others
from qkatlas.pipeline.tasks.user import of_user, parse_tasks, read_tasks
from qkatlas.pipeline.tasks.words import LISTS, PREPOSITIONS, VERBS, Words
from qkatlas.pipeline.text.categories import read_categories
from qkatlas.pipeline.text.vocabulary import Vocabulary

BOS = 0


def vocabulary(*without: str) -> Vocabulary:
    """BOS, single characters, and all words of tasks with a space before them, but for some."""
    words = [word for listed in LISTS.values() for word in listed]
    words += [*PREPOSITIONS, *VERBS, "the", "and", "then", "we", "saw"]
    words += [word for _, category in read_categories() for word in category]
    texts = ["<bos>", *map(chr, range(32, 127)), "https", "://", *(f" {word}" for word in words)]
    kept = tuple(dict.fromkeys(text.encode() for text in texts if text.strip() not in without or text == " "))
    return Vocabulary(kept, tuple(text == b"<bos>" for text in kept), True)


def words_of(known: Vocabulary) -> Words:
    """Text is cut into the longest tokens from the left."""
    ids = {spelling.decode(): token for token, spelling in enumerate(known.spellings) if spelling is not None}

    def encode(text: str) -> list[int]:
        found = []
        while text:
            longest = max((token for token in ids if text.startswith(token)), key=len)
            found.append(ids[longest])
            text = text[len(longest) :]
        return found

    return Words(known, encode)


def drawn(known: Vocabulary | None = None, count: int = 40, seed: int = 0) -> tuple[list[TaskPrompts], dict[str, str]]:
    known = known or vocabulary()
    return draw_tasks(list(FAMILIES), words_of(known), known.ordinary(), bos=BOS, n_ctx=64, count=count, seed=seed)


@pytest.fixture(scope="module")
def tasks() -> dict[str, TaskPrompts]:
    found, left_out = drawn()
    assert not left_out
    return {prompts.task: prompts for prompts in found}


def test_every_task_is_drawn_and_begins_with_bos(tasks: dict[str, TaskPrompts]) -> None:
    assert list(tasks) == list(FAMILIES)
    for prompts in tasks.values():
        assert len(prompts) == 40
        assert (prompts.tokens_PT[:, 0] == BOS).all()
        assert (prompts.control_PT[:, 0] == BOS).all()
        assert prompts.places_PA.max() == prompts.tokens_PT.shape[1] - 1
        assert prompts.of_one_length
        assert (prompts.tokens_PT != prompts.control_PT).any(axis=1).mean() > 0.9


def test_controls_hold_the_tokens_of_their_prompts(tasks: dict[str, TaskPrompts]) -> None:
    for prompts in tasks.values():
        pairs = (prompts.tokens_PT, prompts.control_PT)
        if prompts.control == ORDER:
            np.testing.assert_array_equal(*(np.sort(each, axis=1) for each in pairs))
        else:
            assert prompts.control == EXCHANGE
            np.testing.assert_array_equal(*(np.sort(each, axis=0) for each in pairs))


def test_the_answer_stands_at_its_source_and_not_in_the_control(tasks: dict[str, TaskPrompts]) -> None:
    with_source = [prompts for prompts in tasks.values() if prompts.source is not None]
    assert {prompts.task for prompts in with_source} == {*PREFIXES, "integer-copying", "prepositions"}
    for prompts in with_source:
        np.testing.assert_array_equal(prompts.tokens_PT[:, prompts.source], prompts.answers_PA[:, 0])
        assert (prompts.control_PT[:, prompts.source] != prompts.answers_PA[:, 0]).all()


@pytest.mark.parametrize(("task", "length"), PREFIXES.items())
def test_a_prefix_is_as_long_as_it_says_and_one_when_corrupted(
    tasks: dict[str, TaskPrompts], task: str, length: int
) -> None:
    prompts = tasks[task]
    assert prompts.source is not None

    def repeated(tokens: Sequence[int], source: int) -> int:
        agree = 0
        while tokens[-1 - agree] == tokens[source - 1 - agree]:
            agree += 1
        return agree

    for tokens in prompts.tokens_PT.tolist():
        assert repeated(tokens, prompts.source) == length
        assert len(set(tokens)) == len(tokens) - length
    if length == 1:
        assert prompts.corrupted_PT is None
    else:
        assert prompts.corrupted_PT is not None
        assert {repeated(tokens, prompts.source) for tokens in prompts.corrupted_PT.tolist()} == {1}


def test_no_token_of_a_mixed_block_keeps_its_follower(tasks: dict[str, TaskPrompts]) -> None:
    prompts = tasks[BLOCK]
    for tokens, control in zip(prompts.tokens_PT, prompts.control_PT, strict=True):
        half = len(tokens) // 2
        followed = set(zip(tokens[half + 1 : -1].tolist(), tokens[half + 2 :].tolist(), strict=True))
        assert followed.isdisjoint(zip(control[1:half].tolist(), control[2 : half + 1].tolist(), strict=True))


def test_words_follow_each_other_and_the_last_of_a_control_does_not_come_before_the_answer(
    tasks: dict[str, TaskPrompts],
) -> None:
    known = vocabulary()
    for name, listed in LISTS.items():
        prompts = tasks[f"succession-{name}"]
        place = {known.find(f" {word}"): number for number, word in enumerate(listed)}
        for tokens, control, answer in zip(
            prompts.tokens_PT, prompts.control_PT, prompts.answers_PA[:, 0], strict=True
        ):
            steps = {
                (place[b] - place[a]) % len(listed) for a, b in zip(tokens[1:], [*tokens[2:], answer], strict=True)
            }
            assert steps == {1}
            assert (place[answer] - place[control[-1]]) % len(listed) != 1


def test_shuffled_answers_are_those_of_other_prompts(tasks: dict[str, TaskPrompts]) -> None:
    for prompts in tasks.values():
        np.testing.assert_array_equal(np.sort(prompts.shuffled_PA, axis=0), np.sort(prompts.answers_PA, axis=0))
        assert (prompts.shuffled_PA != prompts.answers_PA).any(axis=1).all()


def test_others_differ_wherever_that_can_be() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 7, 64):
        values = rng.integers(0, 3, count)
        values[: count // 2] = 9
        other = others(values, rng)
        assert sorted(other) == list(range(count))
        assert (values[other] != values).all()


def test_a_word_that_is_no_token_leaves_its_tasks_out() -> None:
    found, left_out = drawn(vocabulary("Sunday", "the", "https"))
    assert set(left_out) == {"succession-days", "prepositions", "url"}
    assert left_out["succession-days"] == "1 of 7 days are no single tokens of the vocabulary"
    assert "letter by letter" in left_out["url"]
    assert len(found) == len(FAMILIES) - 3
    found, left_out = draw_tasks([BLOCK, "url"], None, list(range(1, 40)), bos=0, n_ctx=64, count=3, seed=0)
    assert [prompts.task for prompts in found] == [BLOCK]
    assert "no tokenizer" in left_out["url"]
    _, left_out = draw_tasks([BLOCK, "induction-9"], None, list(range(1, 23)), bos=0, n_ctx=24, count=3, seed=0)
    assert set(left_out) == {"induction-9"}


def test_a_draw_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, again, other = (drawn(seed=seed)[0] for seed in (1, 1, 2))
    assert [one.sha256() for one in first] == [one.sha256() for one in again]
    assert all(one.sha256() != two.sha256() for one, two in zip(first, other, strict=True))


def test_tasks_are_named_in_any_order_and_by_kind() -> None:
    assert chosen_tasks("url, induction") == ("url", "induction")
    assert chosen_tasks("induction-*") == tuple(PREFIXES)
    assert chosen_tasks("none") == ()
    with pytest.raises(ValueError, match="--tasks 'inductoin' is unknown; choose from integer-copying"):
        chosen_tasks("inductoin")


LINES = (
    {"prompt": "a b c", "answer": "d", "control": "b a c"},
    {"prompt": "ab", "answer": "e", "control": "ba", "task": "second"},
    {"prompt": "abcdefg", "answer": "x", "control": "abcdefz"},
)


def test_tasks_of_a_user_are_read_by_name(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    words = words_of(vocabulary())
    first, second = of_user(
        parse_tasks(read_tasks(file)), words.encode, bos=BOS, n_ctx=64, rng=np.random.default_rng(0)
    )
    assert (first.task, len(first), second.task, len(second)) == ("user", 2, "second", 1)
    np.testing.assert_array_equal(first.places_PA[:, 0], [len(words.encode("a b c")), 7])
    assert not first.of_one_length
    np.testing.assert_array_equal(first.read_PT().sum(axis=1), first.places_PA[:, 0] + 1)
    assert first.answers_PA[:, 0].tolist() == [*words.encode("d"), *words.encode("x")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is no JSON"),
        ('{"prompt": "a", "answer": "b"}', "line 2 lacks a text for control"),
        ('["a"]', "line 2 lacks a text for prompt, answer, control"),
        ('{"prompt": "a", "answer": "b", "control": "c", "task": "url"}', "line 2 names the task 'url'"),
    ],
)
def test_a_malformed_line_is_named(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_tasks(f"{json.dumps(LINES[0])}\n{line}")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answer": "xy"}, "line 1: the answer 'xy' is 2 tokens of the model; give one of one token"),
        ({"control": "a b"}, "line 1: the prompt has 5 tokens and its control 3"),
        ({"prompt": "a" * 64, "control": "b" * 64}, "line 1: the prompt has 64 tokens; the model reads 63 after BOS"),
    ],
)
def test_a_line_that_does_not_fit_the_model_is_named(changes: dict[str, str], says: str) -> None:
    asked = parse_tasks(json.dumps({**LINES[0], **changes}))
    with pytest.raises(ValueError, match=says):
        of_user(asked, words_of(vocabulary()).encode, bos=BOS, n_ctx=64, rng=np.random.default_rng(0))
