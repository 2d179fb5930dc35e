"""What a communities run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies, listed
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.graph.kinds import QUALITY, SYMMETRISE

_MOST_FREQUENT = 3000
"""Tokens of a list of counts, unless said otherwise: as many as the published map shows."""

_DEFAULT_RESOLUTION = {"rb": 1.5}


@dataclass(frozen=True, kw_only=True)
class Communities:
    """The communities of one full-vocab run."""

    run: str = option(argument=True, metavar="RUN", help="A finished full-vocab run.")
    """The full-vocab run: its folder or URI, its name, or the beginning of its name or id."""
    neighbours: int = option(
        8, metavar="K", unit="keys", least=1, help="Best keys that a token is linked to, itself left out."
    )
    """Best keys that a token is linked to, itself left out."""
    symmetrise: str = option(
        "union", choices=SYMMETRISE, help="An edge where a link goes either way, both ways, or each link as it is."
    )
    """Which links make an edge: `union` either way, `mutual` both ways, `directed` each as it is."""
    quality: str = option(
        "rb", choices=QUALITY, help="What Leiden maximises; rb is the configuration model with resolution."
    )
    """What Leiden maximises: `modularity`, `rb` (Reichardt and Bornholdt's configuration model) or `cpm`."""
    resolution: float | None = option(
        None, metavar="GAMMA", help="The higher, the smaller the communities; not for modularity.",
        shown_default="1.5 for rb",
    )  # fmt: skip
    """The higher, the smaller the communities; 1.5 for `rb` if not given; `modularity` has none."""
    restarts: int = option(10, metavar="N", least=1, help="Times that Leiden is run; the best is kept.")
    """Times that Leiden is run; the best quality is kept."""
    exclude_hubs: float | None = fields.exclude_hubs()
    """Share of all rows from which a key that is their best has no links as a key; None = all have theirs."""
    frequencies: Frequencies | None = fields.frequencies()
    """Tokens by how often they occur; None = the whole vocabulary."""
    most_frequent: int | None = fields.most_frequent(str(_MOST_FREQUENT))
    """How many of these become vertices, the most frequent first."""
    export: Path | None = option(
        None, metavar="FILE", writes=True,
        help="Write the graph to this file too, as GraphML; only an earlier graph is replaced.",
    )  # fmt: skip
    """Where the graph is written as GraphML too; it changes no result."""
    seed: int = fields.seed()
    """Seed of the restarts and of the map."""

    def __post_init__(self) -> None:
        check_options(self)
        self.tokens()
        if self.quality == "modularity":
            if self.resolution is not None:
                raise ValueError(f"--resolution {self.resolution} does not fit modularity; choose --quality rb or cpm")
            return
        if self.resolution is None:
            if self.quality not in _DEFAULT_RESOLUTION:
                raise ValueError(f"--quality {self.quality} needs --resolution, a density of edges such as 0.01")
            object.__setattr__(self, "resolution", _DEFAULT_RESOLUTION[self.quality])
        elif not 0 < self.resolution < float("inf"):
            raise ValueError(f"--resolution {self.resolution} is no number above 0; choose one such as 1.5")

    def tokens(self) -> Frequencies | None:
        """The tokens that become vertices; None = the whole vocabulary.

        Raises:
            ValueError: if there are no frequencies to take the most frequent of.
        """
        return listed(self.frequencies, self.most_frequent, _MOST_FREQUENT)
