"""What a steering run is asked for: methods, their grids, the samples and the token group of the heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.jobs.steering.group import GROUP, GroupFile
from qkatlas.pipeline.circuit.kinds import ALL_STATES, CONTEXT, DRAWS, EIGENVALUES, METHODS, MOVES, SKEW
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.models.head import Head

if TYPE_CHECKING:
    from qkatlas.jobs.inputs.model import Model

RANKS = (1, 4, 16)
"""Ranks that are taken where none are asked for, as far as heads have them."""

CONTROLS = 2
"""Random controls for each alpha, unless said otherwise."""

_MOST_POINTS = 1000
_MOST_GROUP = 512
_MOST_SAMPLE = 4096


def names(flag: str, text: str) -> tuple[str, ...]:
    """Read a list such as `eigen,gradient`."""
    return tuple(name.strip() for name in text.split(","))


def numbers(flag: str, text: str) -> tuple[float, ...]:
    """Read a list such as `1.5,1,-0.5`.

    Raises:
        ValueError: if a piece is no number.
    """
    try:
        return tuple(float(piece) + 0.0 for piece in text.split(","))  # + 0.0 turns -0.0 into 0.0
    except ValueError as error:
        raise ValueError(f"{flag} {text!r} is malformed; write numbers such as 1.5,1,-0.5") from error


def integers(flag: str, text: str) -> tuple[int, ...]:
    """Read a list such as `1,4,16`.

    Raises:
        ValueError: if a piece is no whole number.
    """
    try:
        return tuple(int(piece) for piece in text.split(","))
    except ValueError as error:
        raise ValueError(f"{flag} {text!r} is malformed; write whole numbers such as 1,4,16") from error


@dataclass(frozen=True, kw_only=True)
class Steering:
    """One head steered to every point of a grid, over the whole vocabulary."""

    head: str = fields.head()
    """The head, by layer and place, both from 0."""
    states: str = fields.states(ALL_STATES)
    """How token states are taken."""
    prefix: str | None = fields.prefix()
    """Tokens in front, for the states `prefix` and `context`."""
    windows: int | None = fields.windows()
    """Windows of text to choose from, for the states `context`; None = 512."""
    draws: int | None = option(
        None, metavar="N", unit="windows", least=0, most=_MOST_POINTS, shown_default=str(DRAWS),
        help="With --states context: windows that each token is read behind; with others the old name of --controls.",
    )  # fmt: skip
    """Windows that a token is read behind, for the states `context`; None = 4. Otherwise it stands for `controls`."""
    text: str | None = fields.pool()
    """The text that the windows are from, for the states `context`; None = the calibration text."""
    scores: str = fields.scores()
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions, such as `4` or `mean:1-16`; None = 1 there."""
    top_k: int = fields.top_k(10)
    """Keys in a top-k list, whose overlap and category precision are taken."""
    methods: tuple[str, ...] = option(
        METHODS, metavar="LIST", parse=names, shown_default="all", help=f"Of {', '.join(METHODS)}."
    )
    """Ways to steer: `eigen` (with its controls), `singular`, `gradient`."""
    alphas: tuple[float, ...] = option(
        (1.5, 1.25, 1.1, 1.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0), flag="--alpha", metavar="LIST", parse=numbers,
        shown_default="1.5,1.25,1.1,1,0.75,0.5,0.25,0,-0.5,-1", help="Factors on the negative eigenvalues.",
    )  # fmt: skip
    """Factors on the negative eigenvalues."""
    skew: str = option("keep", choices=SKEW, help="What becomes of the skew part beside changed eigenvalues.")
    """Whether W_skew stays beside changed eigenvalues: `keep` or `drop`."""
    eigenvalues: str = option("all", choices=EIGENVALUES, help="all 2H, or the top H by magnitude.")
    """Eigenvalues that are steered: `all`, or the `top` H by magnitude."""
    controls: int | None = option(
        None,
        metavar="N",
        least=0,
        most=_MOST_POINTS,
        shown_default=str(CONTROLS),
        help="Random controls for each alpha.",
    )
    """Random controls for each alpha but 1; None = 2."""
    ranks: tuple[int, ...] | None = option(
        None, flag="--rank", metavar="LIST", parse=integers, help="How many of the largest singular values to scale.",
        shown_default="1,4,16, as far as the head has as many",
    )  # fmt: skip
    """How many of the largest singular values are scaled; None = RANKS, as far as the head has as many."""
    scales: tuple[float, ...] = option(
        (0.0, 0.5, 2.0), flag="--scale", metavar="LIST", parse=numbers, shown_default="0,0.5,2",
        help="Factors on these.",
    )  # fmt: skip
    """Factors on these."""
    steps: tuple[float, ...] = option(
        (-0.5, -0.2, 0.2, 0.5), flag="--step", metavar="LIST", parse=numbers, shown_default="-0.5,-0.2,0.2,0.5",
        help="Steps along the self score's gradient, relative to the weights.",
    )  # fmt: skip
    """Steps along the gradient of the mean self score, relative to the norm of the moved weights."""
    move: str = option("keys", choices=MOVES, help="What follows the gradient.")
    """Weights that follow the gradient: `queries`, `keys` or `both`."""
    sample: int = option(256, metavar="N", unit="rows", least=1, most=_MOST_SAMPLE, help="Rows for rank correlations.")
    """Rows whose rank correlation with the unsteered row is taken."""
    group: tuple[str, ...] | GroupFile = option(
        GROUP, metavar="FILE", read=GroupFile.read, shown_default="the published group",
        help="Tokens of the heat maps, one a line.",
    )  # fmt: skip
    """Tokens of the heat maps, by their exact text (those that are no token are left out), or as a file has them."""
    in_model: bool = option(False, help="Also run prompts with the steered scores inside the model.")
    """Whether the steered scores are also written into the model's forward pass."""
    prompts: int = fields.prompts(32, help="Prompts of --in-model.")
    """Prompts of category words that it runs."""
    length: int | None = fields.length()
    """Words in a prompt; None = 64, or as many as the model reads after BOS."""
    seed: int = fields.seed()
    """Seed of the controls, of the sampled rows and of the prompts."""

    def __post_init__(self) -> None:
        check_options(self)
        Head.parse(self.head)
        self._settle_draws()
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            named = f"{unknown[0]!r} is unknown" if unknown else "names none"
            raise ValueError(f"--methods {named}; choose from {', '.join(METHODS)}")
        ranks = RANKS if self.ranks is None else self.ranks
        for flag, values in (
            ("--methods", self.methods),
            ("--alpha", self.alphas),
            ("--scale", self.scales),
            ("--step", self.steps),
            ("--rank", ranks),
        ):
            _require_list(flag, values)
        if min(ranks) < 1:
            raise ValueError(f"--rank {min(ranks)} is below 1; scale at least one singular value")
        if not isinstance(self.group, GroupFile) and len(self.group) > _MOST_GROUP:
            raise ValueError(f"--group names {len(self.group)} tokens; a heat map holds at most {_MOST_GROUP}")
        if len(self.points()) > _MOST_POINTS:
            raise ValueError(
                f"the grid has {len(self.points())} points, more than {_MOST_POINTS}; shorten a list or --controls"
            )

    def _settle_draws(self) -> None:
        """Tell what `--draws` means: windows of the states `context`, and the controls with any others.

        Raises:
            ValueError: if it is given beside `--controls` where both mean the same, or the states read no window.
        """
        controls = self.controls
        if self.states == CONTEXT:
            if self.draws == 0:
                raise ValueError("--draws 0 reads no window, which --states context needs; choose 1 or more")
        elif self.draws is not None:
            if controls is not None:
                raise ValueError(
                    f"--draws {self.draws} is the old name of --controls {controls} with --states {self.states}; "
                    "leave it out"
                )
            controls = self.draws
            object.__setattr__(self, "draws", None)
        object.__setattr__(self, "controls", CONTROLS if controls is None else controls)

    def fitted(self, model: Model) -> Steering:
        """The same request for a model: its ranks, and the exact texts of its tokens.

        Raises:
            ValueError: if the head is outside the model, more keys or singular values are asked for than it has, or no
                line of a group is one of its tokens.
        """
        shape = model.checkpoint.architecture
        Head.parse(self.head).require_inside(shape.n_layers, shape.n_heads)
        require_top_k_fits(self.top_k, shape.vocab_size)
        ranks = self.ranks
        if ranks is None:
            ranks = tuple(rank for rank in RANKS if rank <= shape.d_head)
        elif "singular" in self.methods and max(ranks) > shape.d_head:
            raise ValueError(
                f"--rank {max(ranks)} is more than the head's {shape.d_head} singular values; choose at most that"
            )
        group = self.group.texts(model.vocabulary) if isinstance(self.group, GroupFile) else self.group
        return replace(self, ranks=ranks, group=group)

    def points(self) -> list[Point]:
        """The grid: the unsteered head, then each method's points, in an order that only the lists decide."""
        points = [Point(method="unsteered")]
        if "eigen" in self.methods:
            points += [Point(method="eigen", alpha=alpha) for alpha in self.alphas]
            points += [
                Point(method="control", alpha=alpha, draw=draw)
                for alpha in self.alphas
                if alpha != 1  # a dose of nothing needs no control
                for draw in range(self.controls or 0)
            ]
        if "singular" in self.methods:
            ranks = RANKS if self.ranks is None else self.ranks
            points += [Point(method="singular", rank=rank, scale=scale) for rank in ranks for scale in self.scales]
        if "gradient" in self.methods:
            points += [Point(method="gradient", step=step) for step in self.steps]
        return points


def _require_list(flag: str, values: Sequence[float] | Sequence[str]) -> None:
    if not values:
        raise ValueError(f"{flag} is empty; give at least one value")
    for value in values:
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= 1000):
            raise ValueError(f"{flag} {value} is out of range; choose from -1000 to 1000")
    if len(set(values)) < len(values):
        raise ValueError(f"{flag} names a value twice; name each once")
