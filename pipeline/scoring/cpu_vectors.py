"""Vector instructions for the CPU loops, spelled out where LLVM turns no loop into them.

Each is a numba intrinsic, so it can be called from compiled functions only, and costs no call there. LLVM splits the
vectors as the processor needs, so they run anywhere.

Shapes: R rows, V keys, H head dimensions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types

from qkatlas.pipeline.scoring.cpu_compile import intrinsic

CHUNK = 64
"""Scores that one comparison takes, a bit of its mask each."""
LINE = 16
"""Float32 numbers of a cache line."""


def _chunk_comparison(operator: str) -> Any:
    """Return an intrinsic: (float32 array, start, float32 bound) -> 64-bit mask of `array[start + bit] operator bound`.

    Six times faster than the best loop.
    """

    @intrinsic
    def compare(typing_context, array, start, bound):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            vector = ir.VectorType(ir.FloatType(), CHUNK)
            pointer = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
            scores = builder.load(pointer, align=4)
            undefined = ir.Constant(vector, ir.Undefined)
            zero = ir.Constant(ir.IntType(32), 0)
            bounds = builder.insert_element(undefined, arguments[2], zero)
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), CHUNK), [0] * CHUNK)
            bounds = builder.shuffle_vector(bounds, undefined, lanes)
            return builder.bitcast(builder.fcmp_ordered(operator, scores, bounds), ir.IntType(CHUNK))

        return types.uint64(array, start, bound), generate

    return compare


mask_above = _chunk_comparison(">")
mask_at_least = _chunk_comparison(">=")


@intrinsic
def compare_chunk(typing_context, array, start, low, high, threshold, masks, chunk):  # type: ignore[no-untyped-def]
    """Write to `masks[chunk]` where `array[start : start + CHUNK]` is >= low, in [low, high], and >= threshold.

    Stored sixteen bits at a time: joining such masks in registers takes nearly as long as making them.
    """
    lanes = 16

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def data(position):  # type: ignore[no-untyped-def]
            return cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position]).data

        def spread(bound):  # type: ignore[no-untyped-def]
            undefined = ir.Constant(vector, ir.Undefined)
            same = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(builder.insert_element(undefined, bound, ir.IntType(32)(0)), undefined, same)

        vector, short, wide = ir.VectorType(ir.FloatType(), lanes), ir.IntType(lanes), ir.IntType(64)
        pointer = builder.bitcast(builder.gep(data(0), [arguments[1]]), vector.as_pointer())
        masks_pointer = builder.gep(data(5), [builder.mul(arguments[6], wide(3))])
        masks_pointer = builder.bitcast(masks_pointer, short.as_pointer())
        low, high, threshold = (spread(bound) for bound in arguments[2:5])
        parts = CHUNK // lanes
        for part in range(parts):
            scores = builder.load(builder.gep(pointer, [wide(part)]), align=4)
            at_least = builder.fcmp_ordered(">=", scores, low)
            within = builder.and_(at_least, builder.fcmp_ordered("<=", scores, high))
            survives = builder.fcmp_ordered(">=", scores, threshold)
            for word, mask in enumerate((at_least, within, survives)):
                target = builder.gep(masks_pointer, [wide(parts * word + part)])
                builder.store(builder.bitcast(mask, short), target, align=2)
        return context.get_dummy_value()

    return types.void(array, start, low, high, threshold, masks, chunk), generate


@intrinsic
def count_bits(typing_context, mask):  # type: ignore[no-untyped-def]
    """Return the number of ones of a 64-bit mask."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Return the place of the lowest one of a 64-bit mask that has one."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(typing_context, matrix, row, column):  # type: ignore[no-untyped-def]
    """Ask for the cache line of an entry of a contiguous matrix: a hint, harmless past the end."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(array.shape, 1)
        row, column = (builder.sext(index, width.type) for index in arguments[1:])
        pointer = builder.gep(array.data, [builder.add(builder.mul(row, width), column)])
        flag = ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        builder.call(prefetch, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(matrix, row, column), generate


def _wide_dot(width: int) -> Any:
    """Return an intrinsic: (queries, row, keys, row) -> the fixed-tree dot product of rows of `width`, in registers.

    The tree of `canonical_dot`, vector by vector: a loop with a run-time width takes twice as long.
    """
    lanes = 8

    @intrinsic
    def dot(typing_context, queries, r, keys, u):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            def row_start(position):  # type: ignore[no-untyped-def]
                array = cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position])
                index = arguments[position + 1]
                if index.type.width < 64:
                    index = builder.sext(index, ir.IntType(64))
                return builder.gep(array.data, [builder.mul(index, ir.Constant(ir.IntType(64), width))])

            def load(start, part):  # type: ignore[no-untyped-def]
                pointer = builder.gep(start, [ir.Constant(ir.IntType(64), part * lanes)])
                pointer = builder.bitcast(pointer, ir.VectorType(ir.FloatType(), lanes).as_pointer())
                return builder.fpext(builder.load(pointer, align=4), ir.VectorType(ir.DoubleType(), lanes))

            query, key = row_start(0), row_start(2)
            parts = [builder.fmul(load(query, part), load(key, part)) for part in range(width // lanes)]
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [builder.fadd(parts[i], parts[i + half]) for i in range(half)]
            total, half = parts[0], lanes // 2
            while half >= 1:
                moved = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [(i + half) % lanes for i in range(lanes)])
                total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
                half //= 2
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return types.float64(queries, r, keys, u), generate

    return dot


dot_64 = _wide_dot(64)
dot_128 = _wide_dot(128)
