"""What the heads of layer 0 really write at some positions of a text, and what the bag of tokens says they write.

Shapes: B windows, T positions, D model, N heads, G heads of the group, H width of a head, R places: destinations of one
window, or of all windows one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import unturned
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.neurons.block import FirstBlock
from qkatlas.pipeline.neurons.heads import Bag

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DESTINATIONS = 64
"""Destinations of a window that neurons are read at, spread evenly from its quarter on; all where it has no more."""


def destinations(length: int) -> IntArray:
    """Where neurons are read: from a quarter of the window on, so that kernels have room."""
    first = min(max(2, length // 4), length - 1)
    return np.unique(np.linspace(first, length - 1, DESTINATIONS).round().astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What the heads mix at some places of a text, before their output projections; float64 [N, R, H] each.

    Attributes:
        direct_RD: the place's own token and position, as the first norm adds them up; float64 [R, D].
        token: real attention on what tokens give of values, BOS left out.
        position: the same on what positions give of them.
        bos: real attention on BOS, with all of its value but the constant.
        bag: the sum over keys of p f over what tokens give of values at the median position; not yet over d.
        common: the same with the mean kernel of the group in place of the head's own.
        kernel: what positions give of values, under the kernel alone.
        own: the value of the place's own token there, all but the constant.
        bos_value_NH: that of BOS where it stands; float64 [N, H].
        denominator_NR: sum p f and what BOS takes beside it.
        bos_share_NR: the share of that.
        bos_real_NR: the real share of BOS.
    """

    direct_RD: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    bos: torch.Tensor
    bag: torch.Tensor
    common: torch.Tensor
    kernel: torch.Tensor
    own: torch.Tensor
    bos_value_NH: torch.Tensor
    denominator_NR: torch.Tensor
    bos_share_NR: torch.Tensor
    bos_real_NR: torch.Tensor

    def real_stream(self, block: FirstBlock) -> torch.Tensor:
        """The stream that the first MLP reads, float64 [R, D], centred where its norm centres."""
        every = list(range(len(self.token)))
        mixed = self.token + self.position + self.bos
        return block.centred(self.direct_RD + block.write(mixed, every) + block.constant_D)


def mix(
    block: FirstBlock,
    bags: Sequence[Bag],
    tokens_BT: IntArray,
    *,
    group: Sequence[int],
    scale_T: torch.Tensor,
    median_position: int,
    threads: int,
) -> Mixed:
    """Read windows of a text at some of their positions.

    Args:
        block: layer 0.
        bags: of all heads.
        tokens_BT: int64 [B, T], BOS first.
        group: heads whose mean kernel is taken.
        scale_T: float64 [T], the mean over tokens of 1 / sigma.
        median_position: i*, where tokens' values are taken for the bag.
        threads: threads to use; no number depends on it.
    """
    count, length = tokens_BT.shape
    n_R = destinations(length)
    n_heads, width = len(bags), block.value_NDH.shape[2]
    rows = len(n_R)
    names = ("token", "position", "bos", "bag", "common", "kernel", "own")
    mixed = {name: torch.empty((n_heads, count * rows, width), dtype=torch.float64) for name in names}
    numbers = ("denominator_NR", "bos_share_NR", "bos_real_NR")
    found = {name: torch.empty((n_heads, count * rows), dtype=torch.float64) for name in numbers}
    direct_RD = torch.empty((count * rows, block.value_NDH.shape[1]), dtype=torch.float64)
    bos_value_NH = torch.empty((n_heads, width), dtype=torch.float64)
    position_TD = block.rows.positions()
    at_median_D = position_TD[median_position]
    places_R = torch.from_numpy(n_R)

    def of_window(windows: slice) -> None:
        b = windows.start
        own = slice(b * rows, (b + 1) * rows)
        tokens_T = tokens_BT[b]
        token_TD = block.rows.tokens(tokens_T)
        inverse_T1 = block.token_scale(token_TD, position_TD)[:, None]
        star_T1 = block.token_scale(token_TD, at_median_D.expand_as(token_TD))[:, None]
        stream_TD = token_TD + position_TD
        direct_RD[own] = stream_TD[places_R]
        shares, factors, values = [], [], []
        for head, bag in enumerate(bags):
            query_TH, key_TH = unturned(block.heads[head], stream_TD)
            means = bag.means
            scores_RT = means.scores(query_TH[places_R], n_R, key_TH)
            read_RT = means.read(n_R)
            with_bos_RT = read_RT.clone()
            with_bos_RT[:, 0] = torch.from_numpy(n_R < (means.window or means.length))
            real_RT = scores_RT.masked_fill(~with_bos_RT, -torch.inf).softmax(dim=1)
            of_token_TH, of_position_TH = token_TD @ block.value_NDH[head], position_TD @ block.value_NDH[head]
            value_TH = of_token_TH * inverse_T1
            place_TH = of_position_TH * inverse_T1
            keys_RT = real_RT[:, 1:]
            mixed["token"][head, own] = keys_RT @ value_TH[1:]
            mixed["position"][head, own] = keys_RT @ place_TH[1:]
            bos_value_NH[head] = value_TH[0] + place_TH[0]
            mixed["bos"][head, own] = real_RT[:, :1] * bos_value_NH[head]
            mixed["own"][head, own] = (value_TH + place_TH)[places_R]

            query_RH = means.queries_at(n_R)
            kappa_RT = means.kappa(query_RH, n_R).masked_fill(~read_RT, -torch.inf)
            share_RT, factor_T = kappa_RT.softmax(dim=1), bag.factor_V[torch.from_numpy(tokens_T)]
            of_bos_R = means.scores(query_RH, n_R, key_TH)[:, 0] - kappa_RT.logsumexp(dim=1)
            of_bos_R = of_bos_R.masked_fill(~with_bos_RT[:, 0], -torch.inf).exp()
            denominator_R = share_RT @ factor_T + of_bos_R
            found["denominator_NR"][head, own] = denominator_R
            found["bos_share_NR"][head, own] = of_bos_R / denominator_R
            found["bos_real_NR"][head, own] = real_RT[:, 0]
            starred_TH = of_token_TH * star_T1
            mixed["bag"][head, own] = (share_RT * factor_T) @ starred_TH
            mixed["kernel"][head, own] = share_RT @ (of_position_TH * scale_T[:, None])
            shares.append(share_RT)
            factors.append(factor_T)
            values.append(starred_TH)
        common_RT = torch.stack([shares[head] for head in group]).mean(dim=0)
        for head in range(n_heads):
            mixed["common"][head, own] = (common_RT * factors[head]) @ values[head]

    for_blocks(count, of_window, threads, 1)
    return Mixed(direct_RD=direct_RD, bos_value_NH=bos_value_NH, **mixed, **found)


def calibrated(bags: Sequence[Bag], text: Mixed) -> list[Bag]:
    """Bags with the median denominators and shares of BOS of a text.

    Args:
        bags: of all heads.
        text: of the calibration windows.
    """
    medians = [np.median(values.numpy(), axis=1) for values in (text.denominator_NR, text.bos_share_NR)]
    return [bag.calibrated(float(d), float(share)) for bag, d, share in zip(bags, *medians, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What neurons read at the places of a text, float64 [R, D] each, centred where the second norm centres.

    Attributes:
        real: the stream itself, over its own sigma_2.
        approximate: what the bag says of it, over the median sigma_2.
        group: what the group's heads really write of tokens, over the median sigma_2.
        bag: what the bag says of that.
        common: the same with one kernel for the group.
        windows: B; places of a window follow each other.
    """

    real: Float64Array
    approximate: Float64Array
    group: Float64Array
    bag: Float64Array
    common: Float64Array
    windows: int


def streams_of(
    block: FirstBlock, bags: Sequence[Bag], text: Mixed, *, group: Sequence[int], scale_2: float, windows: int
) -> Streams:
    """Put together what neurons read.

    The approximate stream is made without running the model: the place's own token and position as they are, the
    group's tokens by the bag, what positions give of its values by its kernels, BOS by its median share; each other
    head as if it attended to the place's own token alone.

    Args:
        block: layer 0.
        bags: of all heads, calibrated.
        text: what its heads mix.
        group: heads of the group.
        scale_2: the median sigma_2 of the calibration text.
        windows: B.
    """
    others = [head for head in range(len(bags)) if head not in group]
    by_d = torch.tensor([1 / bag.denominator for bag in bags], dtype=torch.float64)[:, None, None]
    beta = torch.tensor([bag.bos_share for bag in bags], dtype=torch.float64)[:, None, None]
    inside = list(group)
    bag_RD = block.write(text.bag * by_d, inside)
    rest = text.kernel * (1 - beta) + beta * text.bos_value_NH[:, None]
    real_RD = text.real_stream(block)
    approximate_RD = block.centred(
        text.direct_RD + block.write(text.own, others) + bag_RD + block.write(rest, inside) + block.constant_D
    )
    parts = {
        "real": real_RD / block.scale_2(real_RD)[:, None],
        "approximate": approximate_RD / scale_2,
        "group": block.centred(block.write(text.token, inside)) / scale_2,
        "bag": block.centred(bag_RD) / scale_2,
        "common": block.centred(block.write(text.common * by_d, inside)) / scale_2,
    }
    return Streams(**{name: values.numpy() for name, values in parts.items()}, windows=windows)


def median_scale_2(block: FirstBlock, text: Mixed) -> float:
    """sigma_2*: the median over the places of a text of what the second norm divides by."""
    return float(np.median(block.scale_2(text.real_stream(block)).numpy()))
