"""Labels: each rule, and what comes first where several hold."""

from __future__ import annotations

from typing import Any

import pytest

from qkatlas.pipeline.circuit.labels import label, token_share

PLAIN = {
    "kin_z_mean": 0.0, "self_z_mean": 0.0, "self_rank_mean": 500.0, "suppression_index_low": -0.1, "bos_share": 0.1,
    "previous_token_score": 0.02, "duplicate_token_score": 0.02, "induction_score": 0.02,
    "prefix_induction_score_4": 0.02,
}  # fmt: skip
KIN = {"kin_z_mean": 2.0, "suppression_index_low": 0.5, "self_z_mean": -0.2, "self_z_high": -0.1}


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({}, "none"),
        (KIN, "self-suppressing semantic"),
        ({**KIN, "self_rank_mean": 30.0}, "semantic"),
        ({**KIN, "suppression_index_low": -0.1}, "semantic"),
        ({**KIN, "self_z_high": 0.1}, "semantic"),
        ({**KIN, "self_z_high": None}, "semantic"),
        ({**KIN, "kin_z_mean": 0.6}, "self-suppressing semantic"),
        ({**KIN, "kin_z_mean": 0.6, "self_rank_mean": 30.0}, "none"),
        ({**KIN, "token_share": 0.26}, "self-suppressing semantic"),
        ({**KIN, "token_share": 0.24}, "unreliable"),
        ({"token_share": 0.24}, "unreliable"),
        ({"token_share": 0.24, "self_z_mean": -2.0}, "unreliable"),
        ({"token_share": -0.2, "induction_score": 0.6}, "induction"),
        ({"token_share": -0.2, "bos_share": 0.95}, "BOS sink"),
        ({**KIN, "bos_share": 0.99}, "self-suppressing semantic"),
        ({**KIN, "self_rank_mean": 1.0, "duplicate_token_score": 0.5}, "duplicate-token"),
        ({"self_z_mean": -2.0}, "anti-self"),
        ({"self_z_mean": -2.0, "self_rank_mean": 990.0, "suppression_index_low": 1.0}, "anti-self"),
        ({"self_z_mean": -2.0, "previous_token_score": 0.9}, "previous-token"),
        ({"induction_score": 0.6}, "induction"),
        ({"prefix_induction_score_4": 0.6}, "induction"),
        ({"induction_score": 0.6, "previous_token_score": 0.7}, "previous-token"),
        ({"bos_share": 0.95}, "BOS sink"),
        ({"bos_share": 0.6}, "none"),
        (dict.fromkeys(PLAIN), "none"),
    ],
)
def test_rules(columns: dict[str, Any], name: str) -> None:
    assert label({**PLAIN, **columns}, 1000) == name
    assert label({}, 1000) == "none"
    assert label({"kin_z_mean": 1.0, "self_rank_mean": 900.0}, 1000) == "semantic"


def test_where_most_tokens_are_kin_no_head_prefers_them() -> None:
    assert label({**PLAIN, **KIN}, 159) == "none"
    assert label({**PLAIN, **KIN}, 160) == "self-suppressing semantic"


@pytest.mark.parametrize(
    ("fidelity", "offset_only", "share"),
    [
        (0.5, None, 0.25), (0.5, 0.0, 0.25), (0.5, -0.4, 0.25), (-0.9, None, 0.0), (None, 0.3, None), (0.9, 1.0, None),
        (0.8, 0.6, 0.28 / 0.64), (0.6, 0.6, 0.0), (0.3, 0.6, -0.27 / 0.64),
    ],
)  # fmt: skip
def test_what_tokens_predict_beyond_offsets(
    fidelity: float | None, offset_only: float | None, share: float | None
) -> None:
    found = token_share(fidelity, offset_only)
    assert found is None if share is None else found == pytest.approx(share)
