"""Tables of a small vocabulary whose tokens are as hostile to a page as tokens can be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from qkatlas.outputs.schemas import scores as schemas
from qkatlas.outputs.schemas.communities import COMMUNITIES
from qkatlas.outputs.schemas.head_scan import HEADS, SPECTRUM

HOSTILE = (
    b"</script><script>window.pwned=1</script>",
    b"<img src=x onerror=window.pwned=1>",
    b"<svg/onload=window.pwned=1>",
    b"<!--<script>",
    b"]]>${window.pwned=1}`'\"",
    "\u202eright to left\u202c\u2066".encode(),
    b"\x00\x07\x1b[31m\x7f",
    b"\xff\xfe\x80",
    b"",
    b" ",
    b"   three",
    "שלום".encode(),
    "日本é😀".encode(),
    b"&lt;b&gt;",
    b"\r\n\t",
    b"__proto__",
    b"constructor",
)

SIZE, KEYS = 90, 12


def spellings() -> list[bytes]:
    """Hostile tokens first, then words."""
    return [*HOSTILE, *(f" word{number}".encode() for number in range(SIZE - len(HOSTILE)))]


def token_tables(*, raw: bool = False, seed: int = 0) -> dict[str, pa.Table]:
    """Tables of a full-vocab run of L1H5 with random scores, as `path: table`.

    Args:
        raw: put the bytes into column `text` as they are, as far as they are text: no run of ours does that.
        seed: of the scores.
    """
    from qkatlas.pipeline.text.vocabulary import printable

    scores_VV = np.random.default_rng(seed).normal(size=(SIZE, SIZE)).astype(np.float32)
    keys_VK = np.argsort(-scores_VV, axis=1, kind="stable")[:, :KEYS].astype(np.int32)
    ids = pa.array(np.arange(SIZE, dtype=np.int32))
    texts = [one.decode("utf-8", "replace") if raw else printable(one) for one in spellings()]
    own_V = np.diag(scores_VV)
    rank_V = (1 + (scores_VV > own_V[:, None]).sum(axis=1)).astype(np.int32)
    best_V = np.where(keys_VK[:, 0] == np.arange(SIZE), keys_VK[:, 1], keys_VK[:, 0]).astype(np.int32)
    best_score_V = scores_VV[np.arange(SIZE), best_V]
    mean_V, std_V = scores_VV.mean(axis=1), scores_VV.std(axis=1)
    special = pa.array([number == SIZE - 1 for number in range(SIZE)])
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), KEYS)
        for values in (keys_VK, np.take_along_axis(scores_VV, keys_VK.astype(np.int64), axis=1))
    ]
    own = [ids, own_V, rank_V, mean_V, std_V, (own_V - mean_V) / std_V, best_V, best_score_V, best_score_V - own_V]
    topk = pa.Table.from_arrays([ids, *lists], schema=schemas.topk(KEYS))
    half = SIZE // 2
    return {
        "tokens.parquet": pa.table([ids, pa.array(texts), pa.array(spellings()), special], schema=schemas.TOKENS),
        "topk/L1H5/part-00000.parquet": topk.slice(0, half),
        "topk/L1H5/part-00001.parquet": topk.slice(half),
        "self/L1H5/part-00000.parquet": pa.table([pa.array(one) for one in own], schema=schemas.SELF),
    }


def community_table(left_out: int = 0, seed: int = 0) -> pa.Table:
    """A map of five communities and three lone tokens, without the last tokens of the vocabulary."""
    random, size = np.random.default_rng(seed), SIZE - left_out
    community = np.array([5, 6, 7, *(np.arange(size - 3) % 5)], dtype=np.int32)
    places = np.stack([np.cos(community), np.sin(community)]) * 5 + random.normal(size=(2, size))
    columns = [
        np.arange(size, dtype=np.int32),
        community,
        *places.astype(np.float32),
        random.integers(1, 9, size).astype(np.int32),
        random.random(size).astype(np.float32),
    ]
    return pa.table([pa.array(column) for column in columns], schema=COMMUNITIES)


def head_tables(layers: int = 2, heads: int = 3, values: int = 8) -> dict[str, pa.Table]:
    """Tables `heads` and `spectrum` of a head scan; the last head has nothing measured."""
    random = np.random.default_rng(1)
    places = [(layer, head) for layer in range(layers) for head in range(heads)]
    rows = [{"layer": layer, "head": head, "label": "none"} for layer, head in places]
    for row in rows[:-1]:
        row.update({name: float(random.normal()) for name in HEADS.names if name not in row})
    spectrum = [
        {"layer": layer, "head": head, "index": index, "eigenvalue": float(3.5 - index), "singular_value": None}
        for layer, head in places
        for index in range(values)
    ]
    return {
        "heads.parquet": pa.Table.from_pylist(rows, schema=HEADS),
        "spectrum.parquet": pa.Table.from_pylist(spectrum, schema=SPECTRUM),
    }
