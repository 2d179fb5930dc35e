"""Draws the tasks that a run is about, and says which of them a vocabulary cannot write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkatlas.pipeline.tasks import synthetic, worded
from qkatlas.pipeline.tasks.kinds import BLOCK, FAMILIES, INTEGERS, PREFIXES, PREPOSITIONS, SUCCESSIONS, URLS
from qkatlas.pipeline.tasks.prompts import TaskPrompts
from qkatlas.pipeline.tasks.words import Words
from qkatlas.pipeline.text import streams


def draw_tasks(
    tasks: Sequence[str], words: Words | None, ordinary: Sequence[int], *, bos: int, n_ctx: int, count: int, seed: int
) -> tuple[list[TaskPrompts], dict[str, str]]:
    """Draw the prompts of some tasks, each by a stream of its own.

    Args:
        tasks: names of tasks.
        words: of the vocabulary; None where no tokenizer reads text.
        ordinary: ids of the tokens that text is made of, BOS left out.
        bos: token id of BOS.
        n_ctx: positions that the model reads.
        count: prompts of each task.
        seed: of the draws.

    Returns:
        The tasks that can be written, and why each of the others cannot.
    """
    found, left_out = [], {}
    for task in tasks:
        rng = streams.TASKS.generator(seed, list(FAMILIES).index(task))
        try:
            prompts = _draw(task, words, np.array(ordinary, np.int64), bos, count, rng)
            if prompts.tokens_PT.shape[1] > n_ctx:
                raise ValueError(
                    f"its prompts have {prompts.tokens_PT.shape[1]} positions, and the model reads {n_ctx}"
                )
        except ValueError as error:
            left_out[task] = str(error)
        else:
            found.append(prompts)
    return found, left_out


def _draw(
    task: str, words: Words | None, ordinary: np.ndarray, bos: int, count: int, rng: np.random.Generator
) -> TaskPrompts:
    if task == BLOCK or task in PREFIXES:
        most = max(synthetic.BLOCK_TOKENS, 2 * synthetic.FILLER + PREFIXES.get(task, 0) + 2)
        if len(ordinary) < most:
            raise ValueError(f"it needs {most} different tokens, and the vocabulary has {len(ordinary)}")
        if task == BLOCK:
            return synthetic.block(ordinary, bos=bos, count=count, rng=rng)
        return synthetic.after_prefix(task, ordinary, bos=bos, count=count, rng=rng)
    if words is None:
        raise ValueError("the model has no tokenizer that reads text")
    if task == URLS:
        prompts = synthetic.links(words, bos=bos, count=count, rng=rng)
        if prompts is None:
            raise ValueError("links are spelled letter by letter in the vocabulary, or run into their ids")
        return prompts
    if task in SUCCESSIONS:
        return worded.succession(task, words, bos=bos, count=count, rng=rng)
    return {INTEGERS: worded.integers, PREPOSITIONS: worded.prepositions}[task](words, bos=bos, count=count, rng=rng)
