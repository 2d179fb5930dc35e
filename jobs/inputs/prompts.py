"""Category prompts as jobs draw them for a model, and what is kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from qkatlas.jobs.inputs.model import Model
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.pipeline.text.categories import LONGEST_WORD, Categories, Spell, read_categories
from qkatlas.pipeline.text.prompts import CategoryPrompts, SpelledPrompts
from qkatlas.pipeline.text.tokenizer import UnreadableTokenizerError, encode_each

LONGEST_DEFAULT = 64
"""Words of a prompt, unless asked for otherwise or the model reads fewer."""

_DROPPED = 20
"""Dropped words that are named; more are only counted."""


def words_in_prompt(length: int | None, n_ctx: int) -> int:
    """Words of a prompt after BOS.

    Args:
        length: `--length`; None = 64, or as many as the model reads.
        n_ctx: tokens that the model reads.

    Raises:
        ValueError: if the model reads fewer.
    """
    room = n_ctx - 1
    if length is not None and length > room:
        raise ValueError(f"--length {length} is more than the model reads after BOS; choose at most {room}")
    return length or min(LONGEST_DEFAULT, room)


@dataclass(frozen=True)
class DrawnPrompts:
    """Category prompts of a model.

    Attributes:
        categories: the categories, by the tokens they are.
        length: words in a prompt; 0 where the model reads nothing after BOS.
        prompts: the prompts; None where the model's vocabulary or context has none.
    """

    categories: Categories
    length: int
    prompts: CategoryPrompts | None

    @classmethod
    def draw(
        cls, model: Model, *, words: Sequence[Sequence[str]] | None, count: int, length: int | None, seed: int
    ) -> DrawnPrompts:
        """Draw the prompts that a request means.

        Args:
            model: the model.
            words: `--categories`, the words of each category; None = the project's list.
            count: `--prompts`.
            length: `--length`; None = 64, or as many as the model reads.
            seed: `--seed`.

        Raises:
            ValueError: if the model has no BOS or reads fewer words, or no category of the user's own is left.
        """
        architecture = model.checkpoint.architecture
        bos, length = architecture.require_bos(), words_in_prompt(length, architecture.n_ctx)
        categories = Categories.fit(
            words or [words for _, words in read_categories()],
            model.vocabulary,
            spell=_spelling(model),
            longest=min(length, LONGEST_WORD),
        )
        if words is not None and not categories.token_ids:
            model.vocabulary.require_readable()
            raise ValueError(
                "--categories keeps no category with two words that are one token of the model; give a CSV with one "
                "category a row, its words apart by commas"
            )
        if not categories.token_ids or not length:
            return cls(categories, length, None)
        prompts = CategoryPrompts.draw(categories, bos=bos, count=count, length=length, seed=seed)
        return cls(categories, length, prompts)

    def identity(self) -> dict[str, Any]:
        """What of the prompts changes results, beside their number and seed."""
        tokens = hashlib.sha256(repr(self.categories.token_ids).encode()).hexdigest()
        return {"length": self.length, "category_tokens_sha256": tokens}

    def table(self) -> pa.Table:
        """The prompts, one a row; none of them in an empty table."""
        spelled = isinstance(self.prompts, SpelledPrompts)
        schema = schemas_prompts.prompts(1 + self.length, spelled=spelled)
        if self.prompts is None:
            return schema.empty_table()
        columns = {
            "prompt": list(range(len(self.prompts.tokens_PT))),
            "token_ids": self.prompts.tokens_PT.tolist(),
            "categories": self.prompts.categories_PT.tolist(),
        }
        if isinstance(self.prompts, SpelledPrompts):
            columns["word_ends"] = self.prompts.ends_PT.tolist()
        return pa.table(columns, schema=schema)

    def dropped(self) -> str | None:
        """A line on the words that are not used; None if all are."""
        dropped = self.categories.dropped
        if not dropped:
            return None
        listed = ", ".join(dropped[:_DROPPED]) + (", ..." if len(dropped) > _DROPPED else "")
        kept = sum(map(len, self.categories.token_ids))
        several = sum(any(isinstance(word, tuple) for word in words) for words in self.categories.token_ids)
        spelled = f", those of {several} of several tokens" if several else ""
        return (
            f"prompts use {kept} words of {len(self.categories.token_ids)} categories{spelled}; dropped {len(dropped)} "
            f"that are not one token, or whose category keeps fewer than two: {listed}"
        )


def _spelling(model: Model) -> Spell | None:
    """How words become several tokens; None where prompts hold words of one token only.

    Models of the family gpt2 are among these: the words were chosen for their vocabularies, and what was published of
    them, and planted in them, rests on one token a word.
    """
    if model.checkpoint.architecture.family == "gpt2" or not model.vocabulary.has_tokenizer:
        return None

    def spell(texts: Sequence[str]) -> list[list[int]]:
        try:
            return encode_each(model.checkpoint.path, texts, option="prompts", remedy="give its tokenizer")
        except UnreadableTokenizerError:  # it names tokens and cuts no text
            return [[] for _ in texts]

    return spell
