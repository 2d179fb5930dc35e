"""What a head does, in a word, by stated thresholds on the columns of its row.

The thresholds lie between what planted heads reach and what heads of random weights do not. Of the latter one was seen
with a kin z of 0.43 (8 dimensions a head) and one with a BOS share of 0.43; none had a behaviour above 0.15
(`python -m benchmarks.labels`). On a learned model states of all tokens have much in common at depth: the median of the
270 heads of SmolLM2-135M has a kin z of 0.54, and offsets alone predict most of them as well as tokens do
(docs/real-model.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkatlas.pipeline.circuit.kin import KIN

NONE, UNRELIABLE = "none", "unreliable"

TOKEN_SHARE = 0.25
"""Share of what offsets leave open within rows that token states predict, below which they tell little of a head; where
positions are learned, a correlation of 0.5."""

BEHAVIOUR_SHARE = 0.3
"""Mean attention from which a head is named after a behaviour on repeats or the token before. A head that finds every
occurrence of the query's token gives the earlier one 0.5, for the query itself is another."""

BOS_SHARE = 0.8
"""Mean attention to BOS from which a head is a sink: higher, since any head may rest on BOS where nothing fits."""

KIN_Z = 0.5
"""Mean kin z that a head which prefers kin to the token itself has at least, in standard deviations of a row."""

SEMANTIC_KIN_Z = 1.0
"""The same of a head that is named for its look-alikes alone: about twice the median head of a learned model."""

OWN_SHARE = 0.3
"""Share of tokens among the 10 that attending to them promotes, or suppresses, most, from which a head is said to copy
or to suppress what it attends to. Chance gives 10/V; random heads of planted checkpoints were seen with 0.03 at most,
the two known heads of SmolLM2-135M with 0.69 and 0.47 (docs/real-model.md)."""

SELF_Z = 0.75
"""Mean self z below whose negative a head dislikes the token itself."""

SELF_RANK_SHARE = 0.2
"""Mean rank of the token itself, as a share of the vocabulary, from which a head that prefers kin suppresses the token.
A random head has 0.5; a head that just prefers its kin has the token itself among the first."""


def token_share(fidelity: float | None, offset_only: float | None) -> float | None:
    """What token states predict of what offsets leave open, as a share of variance: (r^2 - r0^2) / (1 - r0^2).

    Args:
        fidelity: r, correlation within rows of scores from the states with real ones; a negative one predicts nothing.
        offset_only: r0, the same with one state for all tokens; None where positions are learned, for then it is 0.

    Returns:
        The share, negative where offsets alone predict more; None where nothing was measured.
    """
    if fidelity is None:
        return None
    own, alone = max(fidelity, 0.0) ** 2, max(offset_only or 0.0, 0.0) ** 2
    return None if alone >= 1 else (own - alone) / (1 - alone)


def label(row: Mapping[str, Any], vocab_size: int) -> str:
    """Name a head.

    The first rule that holds gives the name. Those marked * rest on token states, and are passed over where
    token_share < 0.25; those with kin need a vocabulary of 160 tokens or more:

    - `self-suppressing semantic` *: kin_z_mean >= 0.5, the suppression index's interval above 0, that of self_z below
      0, and self_rank_mean at least 0.2 of the vocabulary;
    - `previous-token`, `duplicate-token`, `induction`: their score (for induction also the one after 4 tokens) >= 0.3,
      the highest of these first;
    - `semantic` *: kin_z_mean >= 1;
    - `anti-self` *: self_z_mean <= -0.75;
    - `copying`, `suppressing`: ov_self_top10_share or ov_self_lowest10_share >= 0.3, the higher of these first; they
      need a vocabulary of 160 tokens or more, and an OV circuit that was asked for;
    - `BOS sink`: bos_share >= 0.8;
    - `unreliable`: token_share < 0.25.

    Args:
        row: columns of `heads.parquet`; a column that is None or absent names nothing.
        vocab_size: V.

    Returns:
        The name, `unreliable`, or `none`.
    """

    def at_least(name: str, threshold: float) -> bool:
        value = row.get(name)
        return value is not None and value >= threshold

    # Where a tenth of the vocabulary are kin, they are no look-alikes.
    reliable = row.get("token_share") is None or at_least("token_share", TOKEN_SHARE)
    has_kin = reliable and vocab_size >= 10 * KIN
    self_z, self_z_high = row.get("self_z_mean"), row.get("self_z_high")
    below = self_z_high is not None and self_z_high < 0
    suppresses = below and at_least("self_rank_mean", SELF_RANK_SHARE * vocab_size)
    prefers_kin = at_least("kin_z_mean", KIN_Z) and (row.get("suppression_index_low") or 0.0) > 0
    if has_kin and prefers_kin and suppresses:
        return "self-suppressing semantic"
    behaviours = {
        "previous-token": row.get("previous_token_score"),
        "duplicate-token": row.get("duplicate_token_score"),
        "induction": max(
            (row[name] for name in ("induction_score", "prefix_induction_score_4") if row.get(name) is not None),
            default=None,
        ),
    }
    known = {name: score for name, score in behaviours.items() if score is not None and score >= BEHAVIOUR_SHARE}
    if known:
        return max(known, key=lambda name: known[name])
    if has_kin and at_least("kin_z_mean", SEMANTIC_KIN_Z):
        return "semantic"
    if reliable and self_z is not None and self_z <= -SELF_Z:
        return "anti-self"
    written = {
        "copying": row.get("ov_self_top10_share") or 0.0, "suppressing": row.get("ov_self_lowest10_share") or 0.0
    }  # fmt: skip
    strongest = max(written, key=lambda name: written[name])
    if vocab_size >= 10 * KIN and written[strongest] >= OWN_SHARE:
        return strongest
    if at_least("bos_share", BOS_SHARE):
        return "BOS sink"
    return NONE if reliable else UNRELIABLE
