"""Tasks of a user: a file with one JSON object a line, each with prompt, answer and control; shapes as in `prompts`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qkatlas.pipeline.tasks.kinds import FAMILIES, USER
from qkatlas.pipeline.tasks.prompts import GIVEN, TaskPrompts, others
from qkatlas.pipeline.tasks.words import Encode

_NAMES = ("prompt", "answer", "control")


@dataclass(frozen=True)
class Asked:
    """One line of the file.

    Attributes:
        line: its number, from 1.
        task: the task that it belongs to.
        prompt, answer, control: the texts.
    """

    line: int
    task: str
    prompt: str
    answer: str
    control: str


def read_tasks(file: Path) -> str:
    """Read a file of tasks, and check that every line of it is one.

    Args:
        file: one JSON object a line: `prompt`, `answer` and `control`, and `task` where there are several.

    Returns:
        Its text.

    Raises:
        ValueError: if it cannot be read, or a line of it is malformed.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--file {file} cannot be read ({reason}); give a file of JSON lines") from error
    parse_tasks(text)
    return text


def parse_tasks(text: str) -> tuple[Asked, ...]:
    """The lines of a file of tasks.

    Raises:
        ValueError: if a line is malformed, or there is none.
    """
    asked = tuple(_asked(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    if not asked:
        raise ValueError(f"--file holds no line; give one JSON object a line with {', '.join(_NAMES)}")
    return asked


def _asked(number: int, line: str) -> Asked:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--file, line {number} is no JSON ({error}); give one object a line") from error
    given = entry if isinstance(entry, dict) else {}
    missing = [name for name in _NAMES if not isinstance(given.get(name), str) or not given[name]]
    if missing:
        raise ValueError(f"--file, line {number} lacks a text for {', '.join(missing)}; give all of "
                         f"{', '.join(_NAMES)}")  # fmt: skip
    task = given.get("task", USER)
    if not isinstance(task, str) or not task.strip() or task in FAMILIES or not task.isprintable():
        raise ValueError(f"--file, line {number} names the task {task!r}; give it a name that no other task has")
    return Asked(number, task, given["prompt"], given["answer"], given["control"])


def of_user(
    asked: Sequence[Asked], encode: Encode, *, bos: int, n_ctx: int, rng: np.random.Generator
) -> list[TaskPrompts]:
    """The tasks of a file, in the order in which they are named.

    Args:
        asked: its lines.
        encode: by the model's own tokenizer.
        bos: token id of BOS.
        n_ctx: positions that the model reads.
        rng: seeded generator.

    Raises:
        ValueError: if an answer is several tokens, or a control has another length than its prompt, or one is too long.
    """
    return [
        _prompts(task, [one for one in asked if one.task == task], encode, bos, n_ctx, rng)
        for task in dict.fromkeys(one.task for one in asked)
    ]


def _prompts(
    task: str, asked: Sequence[Asked], encode: Encode, bos: int, n_ctx: int, rng: np.random.Generator
) -> TaskPrompts:
    rows = [_tokens(one, encode, n_ctx) for one in asked]
    longest = max(len(prompt) for prompt, _, _ in rows)
    padded = [
        np.array([[bos, *tokens, *[bos] * (longest - len(tokens))] for tokens in texts], np.int64)
        for texts in ([prompt for prompt, _, _ in rows], [control for _, control, _ in rows])
    ]
    answers_P = np.array([answer for _, _, answer in rows], np.int64)
    return TaskPrompts(
        task=task,
        control=GIVEN,
        tokens_PT=padded[0],
        control_PT=padded[1],
        places_PA=np.array([[len(prompt)] for prompt, _, _ in rows], np.int64),
        answers_PA=answers_P[:, None],
        shuffled_PA=answers_P[others(answers_P, rng)][:, None],
    )


def _tokens(one: Asked, encode: Encode, n_ctx: int) -> tuple[list[int], list[int], int]:
    where = f"--file, line {one.line}:"
    prompt, control, answer = (list(encode(text)) for text in (one.prompt, one.control, one.answer))
    if len(answer) != 1:
        raise ValueError(
            f"{where} the answer {one.answer!r} is {len(answer)} tokens of the model; give one of one token"
        )
    if len(prompt) != len(control):
        raise ValueError(
            f"{where} the prompt has {len(prompt)} tokens and its control {len(control)}; a control keeps all positions"
        )
    if len(prompt) >= n_ctx:
        raise ValueError(f"{where} the prompt has {len(prompt)} tokens; the model reads {n_ctx - 1} after BOS")
    return prompt, control, answer[0]
