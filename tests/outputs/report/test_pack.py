"""Packed data come back as they were, and hold nothing that HTML acts on."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qkatlas.outputs.report.pack import KINDS, Pack, plain, unpack

HOSTILE = ["</script><script>window.pwned=1</script>", "<!--", "]]>", "\x00\x1b", "\u202e", "\ud800", "", " ", "é😀"]


@given(hnp.arrays(st.sampled_from([*map(np.dtype, KINDS)]), hnp.array_shapes(max_dims=2, max_side=8)))
def test_arrays_come_back_bit_for_bit(values: np.ndarray) -> None:
    pack = Pack()
    reference = pack.array(values)
    content = unpack(pack.blocks[reference["block"]])
    kinds = {short: np.dtype(name).newbyteorder("<") for name, short in KINDS.items()}
    again = np.frombuffer(content, kinds[reference["kind"]]).reshape(reference["shape"])
    assert again.tobytes() == values.tobytes()
    assert again.shape == values.shape


def test_big_endian_and_strided_arrays_are_stored_little_endian() -> None:
    values = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    pack = Pack()
    reference = pack.array(values)
    content = unpack(pack.blocks[reference["block"]])
    assert np.frombuffer(content, "<i4").tolist() == [0, 2, 4, 6, 8, 10]


@given(st.lists(st.text(st.characters()) | st.sampled_from(HOSTILE)))
def test_texts_come_back_and_no_block_holds_markup(texts: list[str]) -> None:
    pack = Pack()
    reference = pack.texts(texts)
    blocks = pack.close({"title": "".join(texts), "texts": reference})
    assert json.loads(unpack(blocks[reference["block"]])) == texts
    assert json.loads(unpack(blocks["index"]))["title"] == "".join(texts)
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]+", block) for block in blocks.values())


def test_equal_content_is_kept_once() -> None:
    pack = Pack()
    first, second = (pack.array(np.arange(100, dtype=np.int32)) for _ in range(2))
    pack.array(np.arange(101, dtype=np.int32))
    assert first == second
    assert len(pack.blocks) == 2


@pytest.mark.parametrize(("largest", "kind"), [(255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")])
def test_ids_take_the_smallest_type_that_holds_them(largest: int, kind: str) -> None:
    assert Pack().ids(np.array([0, largest]))["kind"] == kind


def test_a_type_without_a_typed_array_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float16 .* choose from uint8"):
        Pack().array(np.zeros(1, np.float16))


def test_numbers_that_are_none_become_null() -> None:
    assert [plain(value) for value in (1.5, float("nan"), float("-inf"), None, "nan", 3)] == [
        1.5,
        None,
        None,
        None,
        "nan",
        3,
    ]
    with pytest.raises(ValueError, match="not JSON compliant"):
        Pack().close({"value": float("nan")})
