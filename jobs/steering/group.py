"""Token groups of the heat maps: the published one, and lines of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qkatlas.pipeline.text.vocabulary import Vocabulary

GROUP = tuple(
    f" {word}"
    for word in (
        *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
        *("red", "blue", "Blue", "green", "silver", "White"),
        *("1918", "1920", "1930", "1943", "1998", "2000"),
        *("You", "He", "his", "she", "her", "their"),
        *("Italy", "Iceland", "Austria", "Mexico", "Spain", "France"),
    )
)
"""Token group of the published heat maps."""


@dataclass(frozen=True)
class GroupFile:
    """A group as a person writes it: one token a line.

    Attributes:
        file: where it was read.
        lines: those that are not empty.
    """

    file: Path
    lines: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> GroupFile:
        """Read a UTF-8 text; empty lines are skipped.

        Raises:
            ValueError: if the file cannot be read.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ValueError(
                f"--group {file} cannot be read ({reason}); give a text file with one token a line"
            ) from error
        return cls(file, tuple(line for line in lines if line.strip()))

    def texts(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """The exact texts of the lines that are one token, each once; `#id` for those that no text names.

        Args:
            vocabulary: whose tokens they shall be; it takes each line as a word.

        Raises:
            ValueError: if none is one token.
        """
        found = [vocabulary.find_word(line) for line in self.lines]
        texts = tuple(dict.fromkeys(vocabulary.name(token_id) for token_id in found if token_id is not None))
        if not texts:
            vocabulary.require_readable()
            raise ValueError(
                f"--group {self.file} has {len(self.lines)} lines and none is one token of the model; write one token "
                "a line"
            )
        return texts
