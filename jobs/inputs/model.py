"""A model as a job sees it: its checkpoint, its vocabulary, and what identifies both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qkatlas.pipeline.circuit.states import TokenStates, attention_means
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import forget_models
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.text.vocabulary import Vocabulary


@dataclass
class Model:
    """An opened model.

    Attributes:
        name: what the user called it: a name or a directory.
        checkpoint: the weights.
        vocabulary: the tokens.
        identity: what of it changes results.
        say: told what takes long.
    """

    name: str
    checkpoint: Checkpoint
    vocabulary: Vocabulary
    identity: dict[str, Any]
    say: Callable[[str], None] = field(default=lambda line: None, repr=False)
    _means_LD: np.ndarray | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(cls, name: str, path: Path, say: Callable[[str], None] = lambda line: None) -> Model:
        """Open a local checkpoint and identify it.

        Args:
            name: what the user called it.
            path: its directory, or its GGUF file.
            say: told what takes long.

        Returns:
            The model.

        Raises:
            ValueError: if it is not a readable, supported, finite checkpoint.
        """
        return cls.of(name, Checkpoint.open(path), say)

    @classmethod
    def of(cls, name: str, checkpoint: Checkpoint, say: Callable[[str], None] = lambda line: None) -> Model:
        """Identify a checkpoint that is open already, such as one in memory.

        Args:
            name: what the user called it.
            checkpoint: the weights; its path is where the tokenizer lies.
            say: told what takes long.

        Raises:
            ValueError: if its tokenizer does not fit it, or a weight is not finite.
        """
        vocabulary = Vocabulary.open(checkpoint.path, checkpoint.architecture.vocab_size)
        checkpoint.require_finite()
        return cls(
            name, checkpoint, vocabulary, {**checkpoint.identity(), "vocabulary_sha256": vocabulary.sha256()}, say
        )

    def weights(self) -> ModelWeights:
        """All weights, read anew, as they are sent to workers."""
        return ModelWeights.read(self.checkpoint, self.identity["weights_sha256"])

    def ordinary_tokens(self) -> list[int]:
        """Ids of the tokens that prompts are made of: ordinary ones but BOS."""
        bos = self.checkpoint.architecture.bos_token_id
        return [token_id for token_id in self.vocabulary.ordinary() if token_id != bos]

    def token_states(
        self,
        kind: str,
        *,
        layer: int,
        prefix: Sequence[int] = (),
        token_ids: Sequence[int] | None = None,
        threads: int,
    ) -> TokenStates:
        """States in front of layer 0, ready to go on to a later layer; `ChosenStates` begins those of every kind.

        Args:
            kind: how they are taken, all but `context`.
            layer: the last layer they will be taken to.
            prefix: of the kind `prefix`: its tokens.
            token_ids: the tokens; None = the whole vocabulary, in its order.
            threads: threads to use; no state depends on it.

        Raises:
            ValueError: if the model cannot give this kind.
        """
        means_LD = self.attention_means(layer, threads=threads) if kind == "mean" else None
        return TokenStates(
            self.checkpoint, kind, token_ids=token_ids, attention_means_LD=means_LD, prefix=prefix, threads=threads
        )

    def attention_means(self, layers: int, *, threads: int) -> np.ndarray:
        """See `qkatlas.pipeline.circuit.states.attention_means`; float32 [layers, D], computed once and kept."""
        if self._means_LD is None or len(self._means_LD) < layers:
            self._means_LD = attention_means(self.weights(), self.ordinary_tokens(), layers, threads=threads)
            forget_models()  # the driver runs the model for nothing else
        return self._means_LD[:layers]
