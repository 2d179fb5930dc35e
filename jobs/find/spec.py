"""What `submit find` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.jobs.loop.request import model_option
from qkatlas.pipeline.circuit.kinds import ALL_STATES

Pairs = tuple[tuple[str, str], ...]


def split_pairs(flag: str, text: str) -> Pairs:
    """Read `dog:cat,red:blue`.

    Args:
        flag: the option.
        text: what was typed.

    Raises:
        ValueError: if it is no list of pairs.
    """
    pairs = []
    for part in text.split(","):
        words = part.split(":")
        if len(words) != 2 or not all(word.strip() for word in words):
            raise ValueError(
                f"{flag} {text!r} is malformed at {part!r}; write pairs QUERY:KEY with commas between them, such as "
                "dog:cat,red:blue, and tokens with a colon or a comma as #id"
            )
        pairs.append((words[0], words[1]))
    return tuple(pairs)


@dataclass(frozen=True, kw_only=True)
class Find:
    """Heads that attend along some pairs of words, and not along others."""

    attends: Pairs | None = option(
        None, metavar="PAIRS", parse=split_pairs, help="Pairs QUERY:KEY to attend along, such as dog:cat,red:blue."
    )
    """Queries and the keys that they should attend to."""
    avoids: Pairs | None = option(
        None, flag="--not", metavar="PAIRS", parse=split_pairs, help="Pairs not to attend along, such as dog:dog."
    )
    """Queries and the keys that they should not attend to."""
    model: str = model_option()
    """The model."""
    states: str = fields.states(ALL_STATES)
    """How token states are taken."""
    prefix: str | None = fields.prefix()
    """Tokens in front, for the states `prefix` and `context`."""
    windows: int | None = fields.windows()
    """Windows of text to choose from, for the states `context`; None = 512."""
    draws: int | None = fields.draws()
    """Windows that a token is read behind, for the states `context`; None = 4."""
    text: str | None = fields.pool()
    """The text that the windows are from, for the states `context`; None = the calibration text."""
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions; None = 1 there."""
    frequencies: Frequencies | None = option(
        None, metavar="CSV", read=Frequencies.read,
        help="Counts token,id,count that random words are matched by.", shown_default="the order of ids",
    )  # fmt: skip
    """How often tokens occur."""
    tuples: int = option(
        1999, metavar="N", unit="tuples", least=99, most=100_000, help="Random tuples of words behind the p-values."
    )
    """Random tuples of words."""
    sample: int = option(
        2048, metavar="N", unit="keys", least=256, most=10_000_000,
        help="Keys that rows are judged by until the first head is known; the whole vocabulary if it has no more.",
    )  # fmt: skip
    """Keys of the background."""
    top: int = option(10, metavar="N", unit="heads", least=1, most=100_000, help="Heads to print.")
    """Heads to print."""
    exact: int = option(
        1, metavar="N", unit="heads", least=0, most=100_000,
        help="First heads to judge by the whole vocabulary; each deeper layer takes seconds.",
    )  # fmt: skip
    """Heads that are judged by the whole vocabulary."""
    seed: int = fields.seed()
    """Seed of the random words and of the sampled keys."""
    as_json: bool = option(False, flag="--json", help="Print JSON, of all heads.")
    """Print JSON."""
    as_csv: bool = option(False, flag="--csv", help="Print CSV, of all heads.")
    """Print CSV."""

    def __post_init__(self) -> None:
        check_options(self)
        if not self.attends and not self.avoids:
            raise ValueError("there is nothing to find; give --attends QUERY:KEY,..., --not QUERY:KEY,..., or both")
        if self.as_json and self.as_csv:
            raise ValueError("--json and --csv exclude each other; leave one out")
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
