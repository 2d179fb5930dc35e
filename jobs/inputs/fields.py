"""Fields of specs that several jobs have, each with its option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import option
from qkatlas.pipeline.circuit.kinds import (
    ALL_STATES,
    AUTO,
    CIRCUITS,
    CONTEXT,
    DRAWS,
    FOLDED,
    HUB_SHARE,
    PREFIX,
    SCORES,
    STATES,
    UNEMBEDDINGS,
    WINDOWS,
)

MOST_PROMPTS = 100_000
"""Prompts, or words in one, that a job takes; more would not fit the memory of a driver."""


def head() -> Any:
    """`--head`: the one head that a job is about."""
    return option("L1H5", in_plan=True, help="The head: L<layer>H<head>, from 0.")


def layers() -> Any:
    """`--layers`: the layers that a job is about; None = every one."""
    return option(None, metavar="LIST", in_plan=True, help="Layers, such as 0-3,7.", shown_default="all")


def heads() -> Any:
    """`--heads`: the heads that a job is about, of its layers or by name; None = every one."""
    return option(
        None, metavar="LIST", in_plan=True, help="Heads of these layers, such as 0-5, or names such as L1H5,L4H11.",
        shown_default="all",
    )  # fmt: skip


def states(choices: Sequence[str] = STATES) -> Any:
    """`--states`: how token states are taken.

    Args:
        choices: the kinds that the job takes; with ALL_STATES it has `prefix`, `windows`, `draws` and `text` too, and
            `auto`.
    """
    if choices == ALL_STATES:
        return option(
            AUTO, choices=(AUTO, *choices), in_plan=True,
            help="How token states are taken; auto = as predicts the model's own scores best, which is measured once.",
        )  # fmt: skip
    return option("mlp", choices=choices, in_plan=True, help="How token states are taken.")


def prefix() -> Any:
    """`--prefix`: the tokens in front of a token, for the states `prefix` and `context`."""
    return option(
        None, metavar="TEXT", in_plan=True, shown_default="BOS, with --states context",
        help="Tokens in front of each token, or of each window of text: a text, special tokens such as <|endoftext|> "
        "among it, or ids such as #0,#28.",
    )  # fmt: skip


def windows() -> Any:
    """`--windows`: windows of text that the states `context` choose from."""
    return option(
        None, metavar="N", unit="windows", least=1, most=100_000, in_plan=True, shown_default=str(WINDOWS),
        help="With --states context: windows of 8 tokens of text to choose from.",
    )  # fmt: skip


def draws() -> Any:
    """`--draws`: windows that the states `context` read a token behind."""
    return option(
        None, metavar="N", unit="windows", least=1, most=1000, in_plan=True, shown_default=str(DRAWS),
        help="With --states context: windows that each token is read behind, the likeliest of them; states are means.",
    )  # fmt: skip


def pool() -> Any:
    """`--text`: the text that the windows of the states `context` are from; None = the calibration text."""
    return option(
        None, metavar="FILE", read=read_text, shown_default="a text of our own",
        help="With --states context: text to take the windows from, its passages apart by blank lines.",
    )  # fmt: skip


def require_states(
    states: str, *, prefix: str | None, windows: int | None, draws: int | None, text: str | None
) -> None:
    """Check that the options of states go together.

    Args:
        states: `--states`.
        prefix: `--prefix`.
        windows: `--windows`.
        draws: `--draws`.
        text: the content of `--text`.

    Raises:
        ValueError: if one is given that the kind of states has no use for, or one is missing.
    """
    for flag, given, kinds in (
        ("--prefix", prefix, (PREFIX, CONTEXT)), ("--windows", windows, (CONTEXT,)), ("--draws", draws, (CONTEXT,)),
        ("--text", text and "FILE", (CONTEXT,)),
    ):  # fmt: skip
        if given is not None and states not in kinds:
            raise ValueError(
                f"{flag} {given} has no meaning with --states {states}; choose --states {' or '.join(kinds)}, or leave "
                "it out"
            )
    if states == PREFIX and prefix is None:
        raise ValueError("--states prefix needs its tokens; give --prefix TEXT, or --states bos for BOS alone")
    if (draws or DRAWS) > (windows or WINDOWS):
        raise ValueError(
            f"--draws {draws or DRAWS} are more than --windows {windows or WINDOWS}; choose as many windows or more"
        )


def scores() -> Any:
    """`--scores`: form of the score."""
    return option("attention", choices=SCORES, help="Form of the score: in nats, or without bias and scale.")


def circuit(default: str) -> Any:
    """`--circuit`: whom a head attends to, what it writes, or both."""
    return option(
        default, choices=CIRCUITS, in_plan=True,
        help="Whom the head attends to (qk), what it then writes (ov), or both.",
    )  # fmt: skip


def unembed() -> Any:
    """`--unembed`: how what a head writes is read."""
    return option(
        None, choices=UNEMBEDDINGS, shown_default=FOLDED,
        help="With --circuit ov or both: the unembedding with the final norm's gain and centring in it, or as it is.",
    )  # fmt: skip


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


def exclude_hubs() -> Any:
    """`--exclude-hubs`: keys that lists or graphs leave out; None = none."""
    return option(
        None, metavar="[SHARE]", bare=HUB_SHARE, least=0.01, most=1, in_plan=True,
        shown_default=f"none; {HUB_SHARE} without a number",
        help="Leave out keys that are the best key of at least this share of all rows; the table hubs names them.",
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


def read_text(file: Path, flag: str = "--text", give: str = "a file") -> str:
    """The content of a file of text.

    Args:
        file: the file.
        flag: the option that names it.
        give: what the option takes, for the message.

    Raises:
        ValueError: if it cannot be read as UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{flag} {file} cannot be read ({reason}); give {give} of UTF-8 text") from error
