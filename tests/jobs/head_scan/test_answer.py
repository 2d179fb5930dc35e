"""What a head scan says of layers whose token states do not hold."""

from __future__ import annotations

from typing import Any

from qkatlas.jobs.head_scan.answer import doubts
from qkatlas.pipeline.circuit.labels import token_share


def rows_of(layer: int, fidelity: float | None, cosine: float, *, alone: float | None = 0.25) -> list[dict[str, Any]]:
    """Three heads, one of them far off."""
    columns = {"layer": layer, "fidelity_offset_only": alone, "random_cosine": cosine}
    return [
        {**columns, "row_fidelity": value, "token_share": token_share(value, alone)}
        for value in (fidelity, fidelity, 0.9)
    ]


def test_layers_are_told_by_their_median_head_as_ranges() -> None:
    layers = [(0, 0.99, 0.1), (1, 0.4, 0.2), (2, 0.2, 0.95), (3, 0.1, 0.97), (4, 0.8, 0.5), (7, -0.1, 0.91)]
    rows = [row for layer in layers for row in rows_of(*layer)]
    fidelity, collapse = doubts(rows)
    assert fidelity == (
        "token states predict little of most heads in layers 1-3,7: median correlation within rows 0.30, by offsets "
        "alone 0.25"
    )
    assert collapse.startswith("token states have become one in layers 2-3,7: ")


def test_nothing_is_said_where_states_hold_or_nothing_was_measured() -> None:
    assert list(doubts(rows_of(0, 0.9, 0.2) + rows_of(1, 0.6, 0.89))) == []
    assert list(doubts([{"layer": 0, "row_fidelity": None, "random_cosine": None}])) == []
    assert list(doubts([{"layer": 0}])) == []


def test_where_positions_are_learned_no_offsets_are_named() -> None:
    (line,) = doubts(rows_of(5, 0.1, 0.2, alone=None))
    assert line.endswith("layers 5: median correlation within rows 0.10")
