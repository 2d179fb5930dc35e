"""Which heads `--layers` and `--heads` mean, and which texts mean none."""

from __future__ import annotations

from functools import partial

import pytest

from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.pipeline.models.head import Head

chosen = partial(heads_within, n_layers=3, n_heads=8)


def test_heads_are_chosen_by_layers_numbers_and_names() -> None:
    assert chosen(None, None) == tuple(Head(layer, head) for layer in range(3) for head in range(8))
    assert chosen("1", "0-2,7") == (Head(1, 0), Head(1, 1), Head(1, 2), Head(1, 7))
    assert chosen("0,2", "3") == (Head(0, 3), Head(2, 3))
    assert chosen(None, "L2H1, L0H5,L2H1") == chosen(None, ("L2H1", "L0H5", "L2H1")) == (Head(0, 5), Head(2, 1))


@pytest.mark.parametrize(
    ("layers", "heads", "named"),
    [
        ("3", None, "--layers '3' is outside"),
        ("1-0", None, "--layers '1-0' is outside"),
        ("a", None, "malformed"),
        ("", None, "malformed"),
        (None, "8", "--heads '8' is outside"),
        (None, "L3H0", "L3H0 is outside"),
        (None, "L1", "malformed"),
        (None, ("1",), "malformed"),
        ("1", "L1H5", "exclude each other"),
        ("1", ("L1H5",), "exclude each other"),
    ],
)
def test_what_means_no_heads_is_named(layers: str | None, heads: str | tuple[str, ...] | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        chosen(layers, heads)
