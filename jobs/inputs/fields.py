"""Fields of specs that several jobs have, each with its option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import option
from qkatlas.pipeline.circuit.kinds import SCORES, STATES

MOST_PROMPTS = 100_000
"""Prompts, or words in one, that a job takes; more would not fit the memory of a driver."""


def head() -> Any:
    """`--head`: the one head that a job is about."""
    return option("L1H5", in_plan=True, help="The head: L<layer>H<head>, from 0.")


def states() -> Any:
    """`--states`: how token states are taken."""
    return option("mlp", choices=STATES, in_plan=True, help="How token states are taken.")


def scores() -> Any:
    """`--scores`: form of the score."""
    return option("attention", choices=SCORES, help="Form of the score: in nats, or without bias and scale.")


def offset() -> Any:
    """`--offset`: positions from key to query, where a model turns both."""
    return option(
        None, metavar="D", unit="positions", shown_default="1 in these",
        help="How far the key stands behind the query, or mean:A-B, in models with rotary positions.",
    )  # fmt: skip


def top_k(default: int) -> Any:
    """`--top-k`: keys kept for each query token."""
    return option(
        default, metavar="K", unit="keys", least=1, remedy="keep at least one key a token", in_plan=True,
        help="Keys kept for each query token.",
    )  # fmt: skip


def prompts(default: int = 128, *, help: str = "Prompts of category words.") -> Any:
    """`--prompts`: how many prompts are drawn."""
    return option(default, metavar="N", unit="prompts", least=1, most=MOST_PROMPTS, in_plan=True, help=help)


def length() -> Any:
    """`--length`: words in a prompt."""
    return option(
        None, metavar="N", unit="words", least=1, most=MOST_PROMPTS, in_plan=True, help="Words in a prompt.",
        shown_default="64, or as many as the model reads",
    )  # fmt: skip


def categories() -> Any:
    """`--categories`: the words of each category; None = the project's list."""
    return option(
        None, metavar="FILE", read=read_category_words, help="CSV of words, one category a row.",
        shown_default="64 categories of our own",
    )  # fmt: skip


def frequencies() -> Any:
    """`--frequencies`: tokens by how often they occur; None = the whole vocabulary."""
    return option(
        None, metavar="CSV", read=Frequencies.read, shown_default="all tokens",
        help="Take the tokens of this list only: columns token,id,count.",
    )  # fmt: skip


def most_frequent(default_text: str) -> Any:
    """`--most-frequent`: how many of the tokens of `--frequencies` are taken.

    Args:
        default_text: how many where it is not given.
    """
    return option(
        None, metavar="N", unit="tokens", least=1, shown_default=default_text,
        help="How many of them, the most frequent first.",
    )  # fmt: skip


def seed() -> Any:
    """`--seed`: of whatever the job draws."""
    return option(0, common=True, least=0, help="Seed of whatever the job draws at random.")


def read_category_words(file: Path) -> tuple[tuple[str, ...], ...]:
    """The words of a file of categories.

    Raises:
        ValueError: if the file cannot be read or holds no words.
    """
    from qkatlas.pipeline.text.categories import read_words

    return tuple(map(tuple, read_words(file)))
