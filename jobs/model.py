"""A model as a job sees it: its checkpoint, its vocabulary, and what identifies both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import Checkpoint
from pipeline.vocabulary import Vocabulary


@dataclass(frozen=True)
class Model:
    """An opened model.

    Attributes:
        name: what the user called it: a name or a directory.
        checkpoint: the weights.
        vocabulary: the tokens.
        identity: what of it changes results.
    """

    name: str
    checkpoint: Checkpoint
    vocabulary: Vocabulary
    identity: dict[str, Any]

    @classmethod
    def open(cls, name: str, path: Path) -> Model:
        """Open a local checkpoint directory and identify it.

        Args:
            name: what the user called it.
            path: the directory.

        Returns:
            The model.

        Raises:
            ValueError: if it is not a readable, supported, finite checkpoint.
        """
        checkpoint = Checkpoint.open(path)
        vocabulary = Vocabulary.open(path, checkpoint.architecture.vocab_size)
        checkpoint.require_finite()
        return cls(name, checkpoint, vocabulary, {**checkpoint.identity(), "vocabulary_sha256": vocabulary.sha256()})
