"""What a steering run asks for: methods, their grids, the samples and the token group of the heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.settings import require_prompts, require_scoring, require_top_k_fits
from qkatlas.pipeline.circuit.steering import EIGENVALUES, METHODS, MOVES, SKEW, Point
from qkatlas.pipeline.models.head import Head

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

RANKS = (1, 4, 16)

_MOST_POINTS = 1000
_MOST_GROUP = 512
_MOST_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True)
class Steering:
    """One head steered to every point of a grid, over the whole vocabulary."""

    head: str = "L1H5"
    """The head, by layer and place, both from 0."""
    states: str = "mlp"
    """How token states are taken: `mlp`, `mean` or `bos`."""
    scores: str = "attention"
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    top_k: int = 10
    """Keys in a top-k list, whose overlap and category precision are taken."""
    methods: tuple[str, ...] = METHODS
    """Ways to steer: `eigen` (with its controls), `singular`, `gradient`."""
    alphas: tuple[float, ...] = (1.5, 1.25, 1.1, 1.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0)
    """Factors on the negative eigenvalues."""
    skew: str = "keep"
    """Whether W_skew stays beside changed eigenvalues: `keep` or `drop`."""
    eigenvalues: str = "all"
    """Eigenvalues that are steered: `all`, or the `top` H by magnitude."""
    draws: int = 2
    """Random controls for each alpha but 1."""
    ranks: tuple[int, ...] = RANKS
    """How many of the largest singular values are scaled."""
    scales: tuple[float, ...] = (0.0, 0.5, 2.0)
    """Factors on these."""
    steps: tuple[float, ...] = (-0.5, -0.2, 0.2, 0.5)
    """Steps along the gradient of the mean self score, relative to the norm of the moved weights."""
    move: str = "keys"
    """Weights that follow the gradient: `queries`, `keys` or `both`."""
    sample: int = 256
    """Rows whose rank correlation with the unsteered row is taken."""
    group: tuple[str, ...] = GROUP
    """Tokens of the heat maps, by their exact text; those that are no token are left out."""
    in_model: bool = False
    """Whether the steered scores are also written into the model's forward pass."""
    prompts: int = 32
    """Prompts of category words that it runs."""
    length: int | None = None
    """Words in a prompt; None = 64, or as many as the model reads after BOS."""
    seed: int = 0
    """Seed of the controls, of the sampled rows and of the prompts."""

    def __post_init__(self) -> None:
        Head.parse(self.head)
        require_scoring(self.states, self.scores, self.top_k)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            named = f"{unknown[0]!r} is unknown" if unknown else "names none"
            raise ValueError(f"--methods {named}; choose from {', '.join(METHODS)}")
        for option, value, known in (
            ("--skew", self.skew, SKEW),
            ("--eigenvalues", self.eigenvalues, EIGENVALUES),
            ("--move", self.move, MOVES),
        ):
            if value not in known:
                raise ValueError(f"{option} {value!r} is unknown; choose one of {', '.join(known)}")
        for option, numbers in (
            ("--methods", self.methods),
            ("--alpha", self.alphas),
            ("--scale", self.scales),
            ("--step", self.steps),
            ("--rank", self.ranks),
        ):
            _require_list(option, numbers)
        if min(self.ranks) < 1:
            raise ValueError(f"--rank {min(self.ranks)} is below 1; scale at least one singular value")
        for option, number, least, most in (
            ("--draws", self.draws, 0, _MOST_POINTS),
            ("--sample", self.sample, 1, _MOST_SAMPLE),
        ):
            if not least <= number <= most:
                raise ValueError(f"{option} {number} is impossible; choose from {least} to {most}")
        require_prompts(self.prompts, self.length, self.seed)
        if len(self.group) > _MOST_GROUP:
            raise ValueError(f"--group names {len(self.group)} tokens; a heat map holds at most {_MOST_GROUP}")
        if len(self.points()) > _MOST_POINTS:
            raise ValueError(
                f"the grid has {len(self.points())} points, more than {_MOST_POINTS}; shorten a list or --draws"
            )

    def require_fits(self, model: Model) -> None:
        """Check the request against the model.

        Raises:
            ValueError: if the head is outside the model, or more keys or singular values are asked for than it has.
        """
        shape = model.checkpoint.architecture
        Head.parse(self.head).require_inside(shape.n_layers, shape.n_heads)
        require_top_k_fits(self.top_k, shape.vocab_size)
        if "singular" in self.methods and max(self.ranks) > shape.d_head:
            raise ValueError(
                f"--rank {max(self.ranks)} is more than the head's {shape.d_head} singular values; choose at most that"
            )

    def points(self) -> list[Point]:
        """The grid: the unsteered head, then each method's points, in an order that only the lists decide."""
        points = [Point(method="unsteered")]
        if "eigen" in self.methods:
            points += [Point(method="eigen", alpha=alpha) for alpha in self.alphas]
            points += [
                Point(method="control", alpha=alpha, draw=draw)
                for alpha in self.alphas
                if alpha != 1  # a dose of nothing needs no control
                for draw in range(self.draws)
            ]
        if "singular" in self.methods:
            points += [Point(method="singular", rank=r, scale=s) for r in self.ranks for s in self.scales]
        if "gradient" in self.methods:
            points += [Point(method="gradient", step=step) for step in self.steps]
        return points

    def group_ids(self, model: Model) -> list[int]:
        """Ids of the group's tokens, in its order, each once."""
        found = [model.vocabulary.look_up(text) for text in self.group]
        return list(dict.fromkeys(token for token in found if token is not None))


def read_group(file: Path, model: Model) -> tuple[str, ...]:
    """Read a group of tokens: one a line, a word as `Vocabulary.find_word` takes it, or `#id`.

    Args:
        file: UTF-8 text; empty lines are skipped.
        model: whose tokens they shall be.

    Returns:
        The exact texts of those that are one token; `#id` for those that no text names.

    Raises:
        ValueError: if the file cannot be read or names no token.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"--group {file} cannot be read ({reason}); give a text file with one token a line") from error
    found = [model.vocabulary.find_word(line) for line in lines]
    group = tuple(dict.fromkeys(model.vocabulary.name(token_id) for token_id in found if token_id is not None))
    if not group:
        model.vocabulary.require_readable()
        raise ValueError(
            f"--group {file} has {len(lines)} lines and none is one token of the model; write one token a line"
        )
    return group


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Read a list such as `1.5,1,-0.5`.

    Raises:
        ValueError: if a piece is no number.
    """
    try:
        return tuple(float(piece) + 0.0 for piece in text.split(","))  # + 0.0 turns -0.0 into 0.0
    except ValueError as error:
        raise ValueError(f"{option} {text!r} is malformed; write numbers such as 1.5,1,-0.5") from error


def integers(option: str, text: str) -> tuple[int, ...]:
    """Read a list such as `1,4,16`.

    Raises:
        ValueError: if a piece is no whole number.
    """
    try:
        return tuple(int(piece) for piece in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} {text!r} is malformed; write whole numbers such as 1,4,16") from error


def _require_list(option: str, values: Sequence[float] | Sequence[str]) -> None:
    if not values:
        raise ValueError(f"{option} is empty; give at least one value")
    for value in values:
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= 1000):
            raise ValueError(f"{option} {value} is out of range; choose from -1000 to 1000")
    if len(set(values)) < len(values):
        raise ValueError(f"{option} names a value twice; name each once")
