"""Names of choices about graphs, without the code that they choose: requests are checked before it is loaded."""

from __future__ import annotations

SYMMETRISE = ("union", "mutual", "directed")
"""What becomes of the links t -> u: an edge where either exists, an edge where both exist, or every link as it is."""

QUALITY = ("modularity", "rb", "cpm")
"""Quality functions: modularity, the configuration model of Reichardt and Bornholdt, the constant Potts model."""
