"""The prompts of a tasks run, and the shards that they and the heads are cut into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.windows import tokens_of
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.jobs.worker.prompt_shards import PROMPTS_PER_SHARD
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.tasks.draw import draw_tasks
from qkatlas.pipeline.tasks.kinds import chosen_tasks
from qkatlas.pipeline.tasks.prompts import TaskPrompts
from qkatlas.pipeline.tasks.user import of_user, parse_tasks
from qkatlas.pipeline.tasks.words import Words
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.tokenizer import encoder

UNCHANGED, REPLACED, TEXT = "clean", "ablated", "text"
"""Kinds of shards: the model as it is, heads ablated one by one, and natural text."""

LAYERS_PER_SHARD = 5
"""Layers whose heads one shard ablates; they share one pass through the layers below."""

TEXT_POSITIONS, MOST_WINDOWS, WINDOWS_PER_SHARD = 96, 24, 4
"""Positions of a window of text, the first of which is BOS; windows at most, and those of one shard."""


@dataclass(frozen=True)
class Corpus:
    """The tasks of a run.

    Attributes:
        tasks: their prompts.
        left_out: by the name of a task: why it is not among them.
    """

    tasks: tuple[TaskPrompts, ...]
    left_out: dict[str, str]

    @classmethod
    def draw(cls, spec: Tasks, model: Model) -> Corpus:
        """Draw the prompts that a request means.

        Raises:
            ValueError: if no task is left, or one that was named cannot be written.
        """
        a = model.checkpoint.architecture
        bos = a.require_bos()
        words = None
        if model.vocabulary.has_tokenizer:
            words = Words(model.vocabulary, encoder(model.checkpoint.path))
        found, left_out = draw_tasks(
            chosen_tasks(spec.tasks), words, model.ordinary_tokens(), bos=bos, n_ctx=a.n_ctx, count=spec.prompts,
            seed=spec.seed,
        )  # fmt: skip
        if spec.file is not None:
            if words is None:
                model.vocabulary.require_readable()
                raise ValueError(f"--file needs a tokenizer, and {model.name} has none; leave --file out")
            rng = streams.TASKS.generator(spec.seed, 10_000)
            found += of_user(parse_tasks(spec.file), words.encode, bos=bos, n_ctx=a.n_ctx, rng=rng)
        if not found:
            reasons = "; ".join(f"{task}: {reason}" for task, reason in left_out.items())
            raise ValueError(f"no task can be written for {model.name} ({reasons}); give tasks with --file")
        for prompts in found:
            if spec.kind == "resample" and (len(prompts) < 2 or not prompts.of_one_length):
                raise ValueError(
                    f"--kind resample needs two prompts of one length or more, and those of {prompts.task} are not; "
                    "choose --kind mean or zero"
                )
        return cls(tuple(found), left_out)

    def unchanged(self) -> list[Shard]:
        """Ranges of each task's prompts."""
        return [
            Shard(f"clean-T{number:02d}-{bounds['start']:06d}", UNCHANGED, {"task": number, **bounds}, UNCHANGED)
            for number, prompts in enumerate(self.tasks)
            for bounds in ranges(len(prompts))
        ]

    def replaced(self, heads: Sequence[Head]) -> list[Shard]:
        """The same ranges, each once for every few layers with heads to ablate."""
        return replaced_shards([len(prompts) for prompts in self.tasks], heads)

    def partners(self, number: int, seed: int) -> np.ndarray:
        """For each prompt of a task another one, by one random cycle through all of them, int64 [P]."""
        count = len(self.tasks[number])
        cycle = streams.PARTNERS.generator(seed).permutation(count)
        partner_P = np.empty(count, np.int64)
        partner_P[cycle] = np.roll(cycle, 1)
        return partner_P


def replaced_shards(prompts: Sequence[int], heads: Sequence[Head]) -> list[Shard]:
    """Shards that ablate heads.

    Args:
        prompts: of each task.
        heads: the heads.
    """
    blocks = sorted({head.layer // LAYERS_PER_SHARD for head in heads})
    return [
        Shard(
            f"T{number:02d}-L{block * LAYERS_PER_SHARD}-{bounds['start']:06d}", REPLACED,
            {"task": number, "layer": block * LAYERS_PER_SHARD, **bounds}, REPLACED,
        )
        for number, count in enumerate(prompts)
        for block in blocks
        for bounds in ranges(count)
    ]  # fmt: skip


def ranges(count: int) -> list[dict[str, int]]:
    """Fixed ranges of prompts."""
    return [
        {"start": start, "stop": min(start + PROMPTS_PER_SHARD, count), "part": start // PROMPTS_PER_SHARD}
        for start in range(0, count, PROMPTS_PER_SHARD)
    ]


def text_shards(windows: int) -> list[Shard]:
    """Fixed ranges of the windows of text."""
    return [
        Shard(f"text-{start:06d}", TEXT, {"start": start, "stop": min(start + WINDOWS_PER_SHARD, windows),
                                          "part": start // WINDOWS_PER_SHARD}, TEXT)
        for start in range(0, windows, WINDOWS_PER_SHARD)
    ]  # fmt: skip


def text_windows(spec: Tasks, model: Model) -> np.ndarray | None:
    """Windows of natural text, each after BOS, int64 [B, T]; None where there is no text of a window.

    Raises:
        ValueError: if `--text` is shorter than a window.
    """
    a = model.checkpoint.architecture
    length = min(TEXT_POSITIONS, a.n_ctx) - 1
    if not model.vocabulary.has_tokenizer or length < 2:
        return None
    tokens_W = tokens_of(spec.text, model)
    count = min(MOST_WINDOWS, len(tokens_W) // length)
    if not count:
        if spec.text is None:
            return None
        raise ValueError(f"--text has {len(tokens_W)} tokens, and a window takes {length}; give a longer text")
    windows_BT = tokens_W[: count * length].reshape(count, length)
    return np.concatenate([np.full((count, 1), a.require_bos()), windows_BT], axis=1).astype(np.int64)


def alike_tokens(model: Model) -> np.ndarray:
    """A number for each token, int64 [V], the same for tokens that differ in case or one leading space alone."""
    numbers: dict[str, int] = {}
    found = np.empty(len(model.vocabulary.spellings), np.int64)
    for token, spelling in enumerate(model.vocabulary.spellings):
        text = f"#{token}" if spelling is None else spelling.decode("utf-8", "backslashreplace")
        key = text.removeprefix(" ").casefold() or text
        found[token] = numbers.setdefault(key, len(numbers))
    return found


def of_losses(shard: Shard) -> dict[str, Any]:
    """Task, what was ablated, and the part that a shard writes."""
    layer = shard.bounds.get("layer")
    return {
        "task": shard.bounds["task"],
        "part": shard.bounds["part"],
        "source": "none" if layer is None else f"L{layer}",
    }
