"""Names of heads."""

from __future__ import annotations

import pytest

from qkatlas.pipeline.models.head import Head


def test_a_name_is_read_and_written_back() -> None:
    assert Head.parse("L1H5") == Head(1, 5)
    assert str(Head.parse("L11H10")) == "L11H10"


@pytest.mark.parametrize("text", ["", "L1", "1H5", "l1h5", "L01H5", "L1H5 ", "L-1H5", "L1H5x", "L\u0661H5"])
def test_a_malformed_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        Head.parse(text)


def test_a_head_outside_the_model_is_refused_with_the_limits() -> None:
    Head(11, 11).require_inside(12, 12)
    with pytest.raises(ValueError, match=r"L12H0 is outside the model.*L11H11"):
        Head(12, 0).require_inside(12, 12)
    with pytest.raises(ValueError, match="L0H12"):
        Head(0, 12).require_inside(12, 12)
