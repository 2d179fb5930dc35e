"""Means of resampled values, compiled: NumPy's own stream and its integers, drawn and looked up in one pass.

A head's interval takes 1000 x V draws. NumPy makes each through a pointer to a function, writes it down and reads it
again, which takes more than twice as long. The bits here are NumPy's, which a test holds them to.

Shapes: N values.

Source:
    M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
    Generation" (2014), XSL-RR 128/64; D. Lemire, "Fast Random Integer Generation in an Interval" (2019).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qkatlas.pipeline.scoring.cpu_compile import compiled, intrinsic

_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645  # of PCG64
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Float64Array = npt.NDArray[np.float64]


@intrinsic
def _step(typing_context, low, high, add_low, add_high):  # type: ignore[no-untyped-def]
    """Take a PCG64 state one step on; return its two halves and the 64 bits that it gives."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        word, wide = ir.IntType(64), ir.IntType(128)
        halves = [builder.zext(argument, wide) for argument in arguments]
        state, increment = (builder.or_(halves[i], builder.shl(halves[i + 1], ir.Constant(wide, 64))) for i in (0, 2))
        state = builder.add(builder.mul(state, ir.Constant(wide, _MULTIPLIER)), increment)
        low = builder.trunc(state, word)
        high = builder.trunc(builder.lshr(state, ir.Constant(wide, 64)), word)
        mixed, turn = builder.xor(low, high), builder.lshr(high, ir.Constant(word, 58))
        rotate = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [word] * 3), "llvm.fshr.i64")
        given = builder.call(rotate, [mixed, mixed, turn])
        return context.make_tuple(builder, signature.return_type, (low, high, given))

    return types.UniTuple(types.uint64, 3)(low, high, add_low, add_high), generate


@compiled
def _resample(state_6, values_N, drawn_N):  # type: ignore[no-untyped-def]
    """Fill `drawn_N` with the values at the places that `Generator.integers(0, N, N)` would draw.

    Each step of the generator gives two words of 32 bits, the low one first; a second one that is not needed waits for
    the next call. A word times N has the place in its upper half, and is passed over where its lower half would favour
    some places.

    Args:
        state_6: uint64, state and increment, the low half of each first; whether a word waits, and that word; changed.
        values_N: float64.
        drawn_N: float64, written to.
    """
    low, high, add_low, add_high = state_6[0], state_6[1], state_6[2], state_6[3]
    waits, waiting = state_6[4] != 0, state_6[5]
    size = len(drawn_N)
    count = np.uint64(len(values_N))
    least = (_LOW + np.uint64(1)) % count
    filled = 0
    while filled < size:
        if waits or filled + 1 == size:  # the first and the last places of a call
            if waits:
                word = waiting
            else:
                low, high, given = _step(low, high, add_low, add_high)
                word, waiting = given & _LOW, given >> _HALF
            waits = not waits
            place = word * count
            if (place & _LOW) >= least:
                drawn_N[filled] = values_N[place >> _HALF]
                filled += 1
            continue
        low, high, given = _step(low, high, add_low, add_high)
        first, second = (given & _LOW) * count, (given >> _HALF) * count
        if (first & _LOW) >= least:
            drawn_N[filled] = values_N[first >> _HALF]
            filled += 1
        if (second & _LOW) >= least:
            drawn_N[filled] = values_N[second >> _HALF]
            filled += 1
    state_6[0], state_6[1], state_6[4], state_6[5] = low, high, np.uint64(waits), waiting


def resampled_means(values_N: Float64Array, seed: np.random.SeedSequence, draws: int) -> Float64Array:
    """Means of as many values, drawn from them with replacement, as there are.

    Args:
        values_N: at least one and at most 2^32 - 1 values.
        seed: of NumPy's generator PCG64.
        draws: how many means.

    Returns:
        float64 [draws], bit for bit `values_N[rng.integers(0, N, N)].mean()` again and again.
    """
    state = np.random.PCG64(seed).state["state"]
    words = [int(state[name]) >> shift & (1 << 64) - 1 for name in ("state", "inc") for shift in (0, 64)]
    state_6 = np.array([*words, 0, 0], np.uint64)
    values_N = np.ascontiguousarray(values_N, np.float64)
    drawn_N, means = np.empty_like(values_N), np.empty(draws)
    for draw in range(draws):
        _resample(state_6, values_N, drawn_N)
        means[draw] = drawn_N.mean()
    return means
