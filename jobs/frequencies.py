"""Token frequencies: a CSV file that says which tokens matter most."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

_COLUMNS = ("token", "id", "count")
_LARGEST_ID = 2**31 - 1


def most_frequent(file: Path, count: int) -> np.ndarray:
    """The tokens with the highest counts.

    Args:
        file: CSV with the columns token, id and count, in any order; the token's text is for people.
        count: tokens to take.

    Returns:
        int32, their ids in ascending order; equal counts by lower id; all of the file's if it lists fewer.

    Raises:
        ValueError: if the file cannot be read, is malformed, or lists a token twice.
    """
    counts: dict[int, int] = {}
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
            for row in reader:
                token_id, times = _number(row["id"], reader.line_num), _number(row["count"], reader.line_num)
                if token_id > _LARGEST_ID:
                    raise ValueError(f"line {reader.line_num}: id {token_id} is no token id")
                if token_id in counts:
                    raise ValueError(f"line {reader.line_num}: id {token_id} is listed twice")
                counts[token_id] = times
    except OSError as error:
        raise ValueError(f"--frequencies {file} cannot be read ({error.strerror}); name a CSV file") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"--frequencies {file} is malformed ({error}); list {','.join(_COLUMNS)}") from error
    ranked = sorted(counts, key=lambda token_id: (-counts[token_id], token_id))
    return np.array(sorted(ranked[:count]), dtype=np.int32)


def _number(text: str | None, line: int) -> int:
    if text is None or not (text.isascii() and text.strip().isdigit() and len(text) < 20):
        raise ValueError(f"line {line}: {text!r} is no number of 0 or more")
    return int(text)
