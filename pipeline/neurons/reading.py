"""All that neurons of the first MLP are measured by: extended embeddings, what neurons read, and texts.

Shapes: V vocabulary, D model, J neurons, B windows, T positions, R places of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import require_representable
from qkatlas.pipeline.models.weights import Weights
from qkatlas.pipeline.neurons.block import FirstBlock
from qkatlas.pipeline.neurons.extended import Moments, extended_embeddings, local_rows, weighted_moments
from qkatlas.pipeline.neurons.groups import random_groups
from qkatlas.pipeline.neurons.heads import Bag, bags_of_heads
from qkatlas.pipeline.neurons.products import product
from qkatlas.pipeline.neurons.text import Mixed, Streams, calibrated, destinations, median_scale_2, mix, streams_of
from qkatlas.pipeline.text import streams as random_streams

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Null:
    """A random group of heads: what its heads really write of tokens, and what the bag says; see `Streams`."""

    group: Float64Array
    bag: Float64Array


@dataclass(frozen=True, kw_only=True)
class HeadRow:
    """What is told of a head; the fields are columns of the table `bags`."""

    head: int
    in_group: bool
    width: float
    denominator: float
    denominator_cv: float
    bos_share: float
    bos_share_real: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What neurons are measured by.

    Attributes:
        extended_VD: float32 [V, D], extended embeddings.
        queries_JD: float32 [J, D], what neurons read of them, over the median sigma_2: their products with extended
            embeddings are contributions.
        read_JD: float64 [J, D], what neurons read of the normalised stream.
        bias_J: float64 [J], biases that no stream is part of, for products with `read_JD`.
        bias_whole_J: float64 [J], the same with what attention adds in any case, over the median sigma_2.
        write_JD: float32 [J, D], outputs.
        moments: of extended embeddings under the tokens' weights.
        weight_V: float64 [V], these.
        contextuality_J: float64 [J], from weights alone; NaN where neither part varies.
        held, shuffled: held-out text, and the same with its tokens shuffled.
        nulls: random groups on held-out text.
        heads: what is told of each head.
        median_position: i*.
        scale_2: the median sigma_2.
        bos: token id of BOS.
    """

    extended_VD: Float32Array
    queries_JD: Float32Array
    read_JD: Float64Array
    bias_J: Float64Array
    bias_whole_J: Float64Array
    write_JD: Float32Array
    moments: Moments
    weight_V: Float64Array
    contextuality_J: Float64Array
    held: Streams
    shuffled: Streams
    nulls: tuple[Null, ...]
    heads: tuple[HeadRow, ...]
    median_position: int
    scale_2: float
    bos: int


def shuffle_text(tokens_BT: IntArray, seed: int) -> IntArray:
    """The same tokens in a random order over all windows, BOS where it was: bags keep nothing of a document."""
    rest = tokens_BT[:, 1:]
    found_BT = tokens_BT.copy()
    found_BT[:, 1:] = random_streams.SHUFFLED_TEXT.generator(seed).permutation(rest.reshape(-1)).reshape(rest.shape)
    return found_BT


def read_layer(
    weights: Weights, tokens_BT: IntArray, group: Sequence[int], weight_V: Float64Array, *, seed: int, threads: int
) -> Reading:
    """Prepare everything that neurons of the first MLP are measured by.

    Args:
        weights: the model.
        tokens_BT: int64 [3 B, T], windows: two thirds for medians, one to compare with.
        group: heads of layer 0, by their places.
        weight_V: float64 [V], weights of tokens, which sum to 1; none of BOS.
        seed: of shuffled text and random groups.
        threads: threads to use; no number depends on it.

    Raises:
        ValueError: if the first MLP does not read what heads write, or a contribution would leave float32.
    """
    third = len(tokens_BT) // 3
    block = FirstBlock.of(weights, tokens_BT.shape[1])
    bags, scale_T = bags_of_heads(block, weight_V, threads=threads)
    median_position = int(np.median(destinations(tokens_BT.shape[1])))

    def mixed(windows_BT: IntArray) -> Mixed:
        return mix(
            block, bags, windows_BT, group=group, scale_T=scale_T, median_position=median_position, threads=threads
        )

    fitted = mixed(tokens_BT[: 2 * third])
    bags = calibrated(bags, fitted)
    scale_2 = median_scale_2(block, fitted)
    held_text = mixed(tokens_BT[2 * third :])
    shuffled_text = mixed(shuffle_text(tokens_BT[2 * third :], seed))
    held, shuffled = (
        streams_of(block, bags, text, group=group, scale_2=scale_2, windows=third)
        for text in (held_text, shuffled_text)
    )
    nulls = []
    for drawn in random_groups(group, len(bags), seed=seed):
        of_drawn = streams_of(block, bags, held_text, group=drawn, scale_2=scale_2, windows=third)
        nulls.append(Null(group=of_drawn.group, bag=of_drawn.bag))
    extended_VD = extended_embeddings(block, bags, group, median_position=median_position, threads=threads)
    read_JD = block.read_JD.numpy()
    queries_JD = (read_JD / scale_2).astype(np.float32)
    require_representable({"extended embedding": extended_VD, "neuron": queries_JD}, 1.0)
    moments = weighted_moments(
        lambda rows: torch.from_numpy(extended_VD[rows].astype(np.float64)), weight_V, read_JD.shape[1], threads=threads
    )
    local = weighted_moments(
        local_rows(block, group, median_position=median_position), weight_V, read_JD.shape[1], threads=threads
    )
    constant_1D = block.centred(block.constant_D[None]).numpy() / scale_2
    bias_J = block.bias_J.numpy()
    return Reading(
        extended_VD=extended_VD,
        queries_JD=queries_JD,
        read_JD=read_JD,
        bias_J=bias_J,
        bias_whole_J=bias_J + product(read_JD, constant_1D, threads=threads)[:, 0],
        write_JD=block.write_JD,
        moments=moments,
        weight_V=weight_V,
        contextuality_J=_of_weights(read_JD, moments, local, _spread(bags, group), threads=threads),
        held=held,
        shuffled=shuffled,
        nulls=tuple(nulls),
        heads=tuple(_head_rows(bags, group, fitted)),
        median_position=median_position,
        scale_2=scale_2,
        bos=block.architecture.require_bos(),
    )


def _kernel(bag: Bag) -> torch.Tensor:
    """Shares of a head's kernel at the last position, float64 [T]."""
    last = np.array([bag.means.length - 1])
    return bag.means.pattern(bag.means.queries_at(last), last)[0]


def _spread(bags: Sequence[Bag], group: Sequence[int]) -> float:
    """Sum of the squares of the group's mean kernel: what is left of a variance in a bag of independent tokens."""
    return float(torch.stack([_kernel(bags[head]) for head in group]).mean(dim=0).square().sum())


def _of_weights(read_JD: Float64Array, bag: Moments, local: Moments, spread: float, *, threads: int) -> Float64Array:
    """Share of the bag's variance in that of the bag and of the own token, both of independent tokens."""
    bag_J, local_J = (
        np.einsum("jd,jd->j", product(read_JD, moments.covariance_DD, threads=threads), read_JD)
        for moments in (bag, local)
    )
    both_J = spread * bag_J + local_J
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(both_J > 0, spread * bag_J / both_J, np.nan)


def _head_rows(bags: Sequence[Bag], group: Sequence[int], text: Mixed) -> list[HeadRow]:
    rows = []
    for head, bag in enumerate(bags):
        denominator_R = text.denominator_NR[head].numpy()
        rows.append(
            HeadRow(
                head=head,
                in_group=head in group,
                width=float(1 / _kernel(bag).square().sum()),
                denominator=bag.denominator,
                denominator_cv=float(denominator_R.std() / denominator_R.mean()),
                bos_share=bag.bos_share,
                bos_share_real=float(np.median(text.bos_real_NR[head].numpy())),
            )
        )
    return rows
