"""Passages: token sequences of one length that a model is run on, and which of their tokens it has to predict.

Shapes: P passages, T positions (the first is BOS), W tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.tokenizer import encode

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Passages:
    """Passages of one length.

    Attributes:
        tokens_PT: int64 [P, T].
        predicted_PT: bool [P, T], tokens that count in the next-token loss; never the first.
        prompts: the category prompts that the passages are; None for a text.
        partners_PT: int64 [P, T], for each passage another one; None unless outputs are resampled.
    """

    tokens_PT: IntArray
    predicted_PT: BoolArray
    prompts: CategoryPrompts | None = None
    partners_PT: IntArray | None = None

    @classmethod
    def of_prompts(cls, prompts: CategoryPrompts) -> Passages:
        """Category prompts, every token but BOS to be predicted."""
        predicted_PT = np.ones(prompts.tokens_PT.shape, np.bool_)
        predicted_PT[:, 0] = False
        return cls(prompts.tokens_PT, predicted_PT, prompts)

    @classmethod
    def of_text(cls, tokens_W: IntArray, *, bos: int, length: int) -> Passages:
        """A text in windows of one length, each after BOS.

        Every token is predicted once, from the tokens before it in its window. The last window reaches back into the
        one before so that it is as long as the others; tokens that were predicted there do not count again.

        Args:
            tokens_W: int64 [W], at least one token.
            bos: token id of BOS.
            length: tokens of a window after BOS; a shorter text is one shorter window.
        """
        length = min(length, len(tokens_W))
        starts = np.minimum(np.arange(0, len(tokens_W), length), len(tokens_W) - length)
        tokens_PT = np.stack([np.concatenate([[bos], tokens_W[start : start + length]]) for start in starts])
        predicted_PT = np.ones(tokens_PT.shape, np.bool_)
        predicted_PT[:, 0] = False
        repeated = -len(tokens_W) % length
        predicted_PT[-1, 1 : 1 + repeated] = False
        return cls(tokens_PT.astype(np.int64), predicted_PT)

    def with_partners(self, seed: int) -> Passages:
        """Give each passage another one, by one random cycle through all of them.

        Args:
            seed: of the draw.

        Raises:
            ValueError: if there is only one passage.
        """
        count = len(self.tokens_PT)
        if count < 2:
            raise ValueError("--kind resample needs two prompts or windows of text, there is one; give more")
        cycle = streams.PARTNERS.generator(seed).permutation(count)
        partner_P = np.empty(count, np.int64)
        partner_P[cycle] = np.roll(cycle, 1)
        return Passages(self.tokens_PT, self.predicted_PT, self.prompts, self.tokens_PT[partner_P])

    def __getitem__(self, rows: slice) -> Passages:
        return Passages(
            self.tokens_PT[rows],
            self.predicted_PT[rows],
            self.prompts and self.prompts[rows],
            None if self.partners_PT is None else self.partners_PT[rows],
        )


def tokenise(path: Path, text: str, vocab_size: int) -> IntArray:
    """Tokenise a text with a checkpoint's own tokenizer.

    Args:
        path: the checkpoint directory.
        text: the text.
        vocab_size: rows of the embedding matrix.

    Returns:
        int64 [W].

    Raises:
        ValueError: if the checkpoint has no whole tokenizer, or the text gives no token or one that has no embedding.
    """
    ids = encode(path, text)
    if not ids:
        raise ValueError("--text holds no token of the model; give a file with some text")
    if max(ids) >= vocab_size:
        raise ValueError(f"--text gives token id {max(ids)}, past the model's {vocab_size}; use its own tokenizer")
    return np.array(ids, np.int64)
