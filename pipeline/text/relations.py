"""Relations between words: pairs of a source and a target, such as a country and its capital."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from qkatlas.pipeline.text.vocabulary import Vocabulary

RELATIONS_CSV = Path(__file__).parent / "data" / "relations.csv"

SMALLEST = 4
"""Pairs that a relation needs; shuffling fewer says nothing."""

_COLUMNS = ("relation", "source", "target")


@dataclass(frozen=True)
class TokenRelation:
    """The pairs of a relation that are single tokens.

    Attributes:
        name: of the relation.
        source_ids, target_ids: the tokens of each pair.
    """

    name: str
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


def read_relations(path: Path = RELATIONS_CSV) -> dict[str, tuple[tuple[str, str], ...]]:
    """Read a CSV of relation, source and target; without a path the list that comes with the project.

    Args:
        path: the CSV.

    Raises:
        ValueError: if it cannot be read or is malformed.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
            for row in reader:
                name, source, target = (row[column] for column in _COLUMNS)
                if not (name and source and target):
                    raise ValueError(f"line {reader.line_num} lacks a relation, a source or a target")
                found.setdefault(name, []).append((source, target))
        if not found:
            raise ValueError("it lists no pair")
    except OSError as error:
        raise ValueError(f"--pairs {path} cannot be read ({error.strerror}); name a CSV file") from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f"--pairs {path} is malformed ({error}); list {','.join(_COLUMNS)}") from error
    return {name: tuple(dict.fromkeys(pairs)) for name, pairs in found.items()}


def token_relations(
    relations: dict[str, tuple[tuple[str, str], ...]], vocabulary: Vocabulary
) -> tuple[list[TokenRelation], list[str]]:
    """The relations that keep enough pairs of single tokens, and the names of the others.

    Args:
        relations: pairs of words, by the relation's name.
        vocabulary: of the model.
    """
    found, dropped = [], []
    for name, pairs in relations.items():
        tokens = [(vocabulary.find_word(source), vocabulary.find_word(target)) for source, target in pairs]
        whole = [(source, target) for source, target in tokens if source is not None and target is not None]
        if len(whole) < SMALLEST:
            dropped.append(name)
        else:
            sources, targets = zip(*whole, strict=True)
            found.append(TokenRelation(name, sources, targets))
    return found, dropped
