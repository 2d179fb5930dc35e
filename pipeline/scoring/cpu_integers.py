"""Products of 16-bit integers with exact 32-bit sums, compared before they are stored: `vpdpwssd` of AVX-512 VNNI.

One call multiplies `ROWS` rows by `CHUNK` keys. Their sums stay in 24 registers of 16 lanes over the whole head
dimension, are compared there with three numbers of each row, and only then written, to memory that stays in the
nearest cache. Twice as many products an instruction as float32 allows, and no pass over the scores to compare them.

Layouts: a row is its P pairs of integers, one after the other. Keys lie in chunks of `CHUNK`; within a chunk pair by
pair, the `CHUNK` keys' pairs side by side.

Shapes: R rows, V keys, H head dimensions, P pairs of them, C chunks of a tile.
"""

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.registry import cpu_target

from qkatlas.pipeline.scoring.cpu_compile import intrinsic
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK

ROWS = 6
"""Rows of a block: with four registers of keys to a row, 24 sums, 4 keys and a row's pair fill the 32 registers."""
LANES = 16
_NEEDED = ("avx512f", "avx512bw", "avx512vnni")


def available() -> bool:
    """Whether the code that numba makes here may use the instructions."""
    features = str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")
    return all(f"+{name}" in features for name in _NEEDED)


@intrinsic
def compare_products(  # type: ignore[no-untyped-def]
    typing_context, rows_RH, first, keys, chunk, pairs, low_R, high_R, threshold_R, masks, sums, column
):
    """Multiply rows `first` to `first + ROWS` by a chunk of keys; compare, then store.

    Args:
        typing_context: numba's.
        rows_RH: int16 [R, 2P].
        first: the first row.
        keys: int16, chunks as the module's text lays them out.
        chunk: which chunk.
        pairs: P.
        low_R: int32; bit `key` of `masks[row, chunk of the tile, 0]` says: sum >= low.
        high_R: int32; of the second mask: low <= sum <= high.
        threshold_R: int32; of the third: sum >= threshold.
        masks: uint64 [ROWS, C, 3].
        sums: int32 [ROWS, CHUNK C].
        column: of `sums`, where the chunk goes; a multiple of CHUNK.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide, word = ir.IntType(64), ir.IntType(32)
        vector, halves = ir.VectorType(word, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)
        parts = CHUNK // LANES

        def data(position):  # type: ignore[no-untyped-def]
            return cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position])

        def integer(position):  # type: ignore[no-untyped-def]
            value = arguments[position]
            return builder.sext(value, wide) if value.type.width < 64 else value

        def spread(value):  # type: ignore[no-untyped-def]
            undefined = ir.Constant(vector, ir.Undefined)
            same = ir.Constant(ir.VectorType(word, LANES), [0] * LANES)
            return builder.shuffle_vector(builder.insert_element(undefined, value, word(0)), undefined, same)

        first, chunk, pairs, column = (integer(position) for position in (1, 3, 4, 10))
        # The product alone, whose name and types LLVM has kept for years: it joins the addition to it, as vpdpwssd.
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [halves, halves]), "llvm.x86.avx512.pmaddw.d.512"
        )
        rows_pointer = builder.bitcast(data(0).data, word.as_pointer())
        row_pointers = [
            builder.gep(rows_pointer, [builder.mul(builder.add(first, wide(row)), pairs)]) for row in range(ROWS)
        ]
        key_pointer = builder.bitcast(data(2).data, halves.as_pointer())
        key_pointer = builder.gep(key_pointer, [builder.mul(builder.mul(chunk, pairs), wide(parts))])

        before = builder.block
        loop = builder.append_basic_block("pairs")
        after = builder.append_basic_block("compare")
        builder.branch(loop)
        builder.position_at_end(loop)
        pair = builder.phi(wide)
        pair.add_incoming(wide(0), before)
        zero = ir.Constant(vector, None)
        accumulators = []
        for _ in range(ROWS * parts):
            accumulator = builder.phi(vector)
            accumulator.add_incoming(zero, before)
            accumulators.append(accumulator)
        loaded = [
            builder.load(builder.gep(key_pointer, [builder.add(builder.mul(pair, wide(parts)), wide(part))]), align=2)
            for part in range(parts)
        ]
        totals = []
        for row in range(ROWS):
            pair_of_row = spread(builder.load(builder.gep(row_pointers[row], [pair]), align=2))
            pair_of_row = builder.bitcast(pair_of_row, halves)
            for part in range(parts):
                accumulator = accumulators[row * parts + part]
                totals.append(builder.add(builder.call(multiply, [loaded[part], pair_of_row]), accumulator))
        following = builder.add(pair, wide(1))
        pair.add_incoming(following, loop)
        for accumulator, total in zip(accumulators, totals, strict=True):
            accumulator.add_incoming(total, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, after)
        builder.position_at_end(after)

        masks_data, sums_data = data(8), data(9)
        short = ir.IntType(LANES)
        chunks = builder.extract_value(masks_data.shape, 1)
        columns = builder.extract_value(sums_data.shape, 1)
        masks_pointer = builder.bitcast(masks_data.data, short.as_pointer())
        sums_pointer = sums_data.data
        tile_chunk = builder.udiv(column, wide(CHUNK))
        for row in range(ROWS):
            index = builder.add(first, wide(row))
            low, high, threshold = (
                spread(builder.load(builder.gep(data(position).data, [index]), align=4)) for position in (5, 6, 7)
            )
            target = builder.add(builder.mul(wide(row), columns), column)
            row_sums = builder.bitcast(builder.gep(sums_pointer, [target]), vector.as_pointer())
            target = builder.mul(builder.add(builder.mul(wide(row), chunks), tile_chunk), wide(3 * parts))
            row_masks = builder.gep(masks_pointer, [target])
            for part in range(parts):
                total = totals[row * parts + part]
                at_least = builder.icmp_signed(">=", total, low)
                within = builder.and_(at_least, builder.icmp_signed("<=", total, high))
                survives = builder.icmp_signed(">=", total, threshold)
                for number, mask in enumerate((at_least, within, survives)):
                    place = builder.gep(row_masks, [wide(parts * number + part)])
                    builder.store(builder.bitcast(mask, short), place, align=2)
                builder.store(total, builder.gep(row_sums, [wide(part)]), align=4)
        return context.get_dummy_value()

    arguments = (rows_RH, first, keys, chunk, pairs, low_R, high_R, threshold_R, masks, sums, column)
    return types.void(*arguments), generate
