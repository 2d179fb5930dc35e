"""Arrow schemas of what a neurons run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field
from qkatlas.outputs.schemas.head_scan import place_of_head

_FIT = (
    ("r_group", "correlation of what the group's heads write of tokens for this neuron with what the bag says", ""),
    ("fvu_group", "share of its variance that the bag leaves unexplained, offsets and scale counted as errors", ""),
    ("r_common", "r_group of the bag with one kernel for the whole group, the mean of its heads'", ""),
    ("fvu_common", "fvu_group of the same", ""),
    ("r_pre", "correlation of the pre-activation with the one that is made without running the model", ""),
    ("fvu_pre", "share of its variance that this one leaves unexplained", ""),
    ("noise_sd", "standard deviation of the difference of both", "pre-activation"),
    ("agreement", "Cohen's kappa of whether both are above 0; null where neither changes sign", ""),
)
"""Columns about a text: name, what it says, unit."""

FIT = tuple(name for name, _, _ in _FIT)

SHUFFLED = "_shuffled"
"""End of the name of a column of the same on token-shuffled text."""


def _number(name: str, what: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    return field(name, pa.float64(), what, unit=unit, nullable=nullable)


def _tokens(name: str, what: str, k: int) -> list[pa.Field]:
    return [
        field(f"{name}_ids", pa.list_(pa.int32(), k), f"tokens of the {what} contributions", unit="id", shape=f"[{k}]"),
        field(
            f"{name}_values", pa.list_(pa.float32(), k), "their contributions", unit="pre-activation", shape=f"[{k}]"
        ),
    ]


def place_of_neuron() -> list[pa.Field]:
    """The columns that name a neuron."""
    return [
        field("layer", pa.int32(), "layer of the MLP, from 0"),
        field("neuron", pa.int32(), "neuron, from 0"),
    ]


def neurons(k: int) -> pa.Schema:
    """Rows of the table `neurons`.

    Args:
        k: tokens at either end.
    """
    return pa.schema(
        [
            *place_of_neuron(),
            _number(
                "bias",
                "pre-activation of a stream without tokens and positions: its own bias, what it reads of the second "
                "norm's, and of what attention adds whatever is attended to, over the median sigma_2",
                unit="pre-activation",
            ),
            _number("contribution_mean", "weighted mean over tokens of c(u)", unit="pre-activation"),
            _number("contribution_std", "weighted standard deviation of c(u)", unit="pre-activation"),
            _number(
                "contextuality",
                "share of the pre-activation's variance that is between windows of held-out text, ICC(1); below 0 by "
                "chance",
                nullable=True,
            ),
            _number("contextuality_shuffled", "the same on token-shuffled text, where it is chance", nullable=True),
            _number(
                "contextuality_weights",
                "from weights alone: variance of the bag over that of the bag and of the neuron's own token, of "
                "independent tokens",
                nullable=True,
            ),
            *_tokens("top", "highest", k),
            *_tokens("bottom", "lowest", k),
            field(
                "opposite_id", pa.int32(), "neuron whose output has the most negative cosine with this one's",
                unit="neuron", nullable=True,
            ),
            _number("opposite_cosine", "that cosine", nullable=True),
            *(_number(name, f"{what}, on held-out text", unit=unit, nullable=True) for name, what, unit in _FIT),
            *(
                _number(f"{name}{SHUFFLED}", f"{name} on token-shuffled text", unit=unit, nullable=True)
                for name, _, unit in _FIT
            ),
            _number("r_group_null", "mean r_group of random groups of as many heads; null without any", nullable=True),
            _number("r_group_null_std", "its standard deviation over them", nullable=True),
            _number("fvu_group_null", "median fvu_group of random groups of as many heads", nullable=True),
            _number(
                "naive_bayes_r",
                "correlation of c(u) with ln P(u|A) / P(u|B) over the tokens of both texts, weighted by their counts; "
                "null without --classes",
                nullable=True,
            ),
            field(
                "n_latents", pa.int32(), "latents among its 256 strongest tokens; null where none were looked for",
                nullable=True,
            ),
            field(
                "n_latents_null", pa.int32(), "the same among as many random tokens", nullable=True,
            ),
            _number("latent_stability", "mean stability of its latents; null without any", nullable=True),
        ]
    )  # fmt: skip


def _end(name: str, what: str, k: int) -> list[pa.Field]:
    return [
        *_tokens(name, what, k),
        field(
            f"{name}_latents", pa.list_(pa.int32(), k), "latent of each; null where it is in none", shape=f"[{k}]",
            nullable=True,
        ),
    ]  # fmt: skip


def neuron_tokens(k: int) -> pa.Schema:
    """Rows of the table `neuron_tokens`.

    Args:
        k: tokens at either end.
    """
    return pa.schema([*place_of_neuron(), *_end("top", "highest", k), *_end("bottom", "lowest", k)])


LATENTS = pa.schema(
    [
        field("layer", pa.int32(), "layer of the MLP, from 0"),
        field("method", pa.string(), "leiden, of one neuron's strongest tokens, or ica, of the whole layer"),
        field("neuron", pa.int32(), "neuron; null for ica", nullable=True),
        field("latent", pa.int32(), "number of the latent, from 0, the largest first"),
        field("tokens", pa.int32(), "strongest tokens in it; null for ica", nullable=True),
        _number(
            "stability",
            "how far it comes back from other tokens: Jaccard similarity (leiden), or correlation (ica)",
        ),
        _number(
            "contribution", "mean contribution of its tokens to the neuron; null for ica", unit="pre-activation",
            nullable=True,
        ),
        _number("share", "share of the variance of extended embeddings; null for leiden", nullable=True),
        _number("kurtosis", "excess kurtosis of its values over tokens, 0 if normal; null for leiden", nullable=True),
        field(
            "token_ids", pa.list_(pa.field("element", pa.int32())), "its strongest tokens, up to 32", unit="id",
            shape="[<= 32]",
        ),
        field(
            "values", pa.list_(pa.field("element", pa.float64())),
            "their contributions to the neuron (leiden), or values of the component in standard deviations (ica)",
            shape="[<= 32]",
        ),
        field(
            "neuron_ids", pa.list_(pa.field("element", pa.int32())),
            "neurons that read an ica component most; none for leiden", unit="neuron", shape="[<= 8]",
        ),
        field(
            "loadings", pa.list_(pa.field("element", pa.float64())),
            "what a component of one standard deviation adds to their pre-activations", unit="pre-activation",
            shape="[<= 8]",
        ),
    ]
)  # fmt: skip

BAGS = pa.schema(
    [
        *place_of_head(),
        field("in_group", pa.bool_(), "whether it is in the group"),
        _number("width", "positions that its kernel is spread over: 1 / sum p^2", unit="positions"),
        _number("denominator", "d: median on text of sum p f and what BOS takes beside it"),
        _number("denominator_cv", "coefficient of variation of that over the text's places"),
        _number("bos_share", "median share of BOS in it"),
        _number("bos_share_real", "median real attention on BOS"),
        field("median_position", pa.int32(), "i*, at which tokens' values are taken", unit="position"),
        _number("sigma_2", "median of what the second norm divides by; the same for all heads"),
    ]
)
