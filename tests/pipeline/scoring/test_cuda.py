"""The CUDA engine on CPU tensors: plain torch directly, Triton kernels through its interpreter (about 15 s)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from qkatlas.pipeline.scoring import cpu, cuda
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.preselection import Preselection
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

SELF = "tests.pipeline.scoring.test_cuda"


def device_scores(queries: Any, keys: Any, row_ids: Any, k: int, fused: bool, device: str = "cpu") -> RowScores:
    """Run the CUDA engine's code path on any device."""
    out = RowScores.unfilled(len(queries), k=k, vocabulary_size=len(keys))
    prepared = PreparedKeys(keys, device=device)
    cuda.score(queries, prepared, np.asarray(row_ids, np.int64), out, k=k, scale=0.125, threads=1, fused=fused)
    return out


def cases() -> list[tuple[Any, Any, Any, int]]:
    """Queries, keys, ids and k: ragged sizes, ties that overflow the lists, outliers, extremes of magnitude."""
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    outlier = normal(500, 24)
    outlier[77] *= 1e5
    uneven = normal(400, 64) * 10.0 ** rng.integers(-20, 18, (400, 1))
    ties = rng.integers(-1, 2, (700, 5)).astype(np.float32)
    some = rng.integers
    return [
        (normal(140, 64), normal(700, 64) + 2, some(0, 700, 140), 5),
        (normal(9, 40), normal(1030, 40), some(0, 1030, 9), 64),
        (normal(7, 24), outlier, [77, 0, 1, 2, 3, 499, 77], 10),
        (ties[:50], ties, np.arange(50), 20),
        (np.zeros((3, 8), np.float32), np.ones((900, 8), np.float32), [0, 5, 899], 4),
        (normal(5, 64), uneven.astype(np.float32), some(0, 400, 5), 7),
        (normal(4, 16) * np.float32(1e-40), normal(300, 16), some(0, 300, 4), 300),
        (normal(3, 3), normal(1, 3), [0, 0, 0], 1),
    ]


def check(fused: bool, device: str = "cpu") -> None:
    for queries, keys, row_ids, k in cases():
        expected = score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=k, scale=0.125)
        result = device_scores(queries, keys, row_ids, k, fused, device)
        for field in fields(RowScores):
            left, right = getattr(expected, field.name), getattr(result, field.name)
            np.testing.assert_array_equal(np.ma.getmaskarray(left), np.ma.getmaskarray(right), err_msg=field.name)
            if not np.ma.getmaskarray(left).any():
                assert left.tobytes() == right.tobytes(), (field.name, len(keys), k)
        check_rectangular(queries, keys, k, fused, device)


def check_rectangular(queries: Any, keys: Any, k: int, fused: bool, device: str) -> None:
    """Rows without own keys, and lowest scores, by the call that everyone makes."""
    for lowest in (False, True):
        expected = score_rows(queries, PreparedKeys(keys), k=k, scale=0.125, lowest=lowest)
        with pytest.MonkeyPatch.context() as patch:
            if device == "cpu":
                patch.setattr(cpu, "score", partial(cuda.score, fused=fused))
            result = score_rows(queries, PreparedKeys(keys, device=device), k=k, scale=0.125, lowest=lowest)
        assert result.key_ids_RK.tobytes() == expected.key_ids_RK.tobytes(), (len(keys), k, lowest)
        assert result.scores_RK.tobytes() == expected.scores_RK.tobytes(), (len(keys), k, lowest)
        assert np.ma.getmaskarray(result.self_rank_R).all()


def test_plain_torch_gives_the_same_bits_as_the_cpu_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "BLOCK_SCORES", 20_000)
    check(fused=False)


def test_imprecise_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = cuda.preselect

    def rounded(frame: Any, centred_VH: torch.Tensor, kept: int) -> Preselection:
        found = plain(frame, centred_VH, kept)
        return found._replace(approximate_C=found.approximate_C.bfloat16().float())

    monkeypatch.setattr(cuda, "preselect", rounded)
    queries, keys, row_ids, k = cases()[0]
    with pytest.raises(RuntimeError, match="TF32"):
        device_scores(queries, keys, row_ids, k, fused=False)


def test_missing_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        PreparedKeys(np.ones((2, 3), np.float32), device="cuda")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_give_the_same_bits_through_the_interpreter() -> None:
    """In a process of its own: triton reads TRITON_INTERPRET when it is imported."""
    code = f"from {SELF} import check; check(fused=True)"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fused", [False, True])
def test_cuda_device_gives_the_same_bits_as_the_cpu_engine(fused: bool) -> None:
    check(fused, "cuda")


@pytest.mark.slow
def test_imports_without_ray_transformers_numba_or_triton() -> None:
    code = (
        "import sys; import qkatlas.pipeline.scoring.engine, qkatlas.pipeline.scoring.cuda;"
        "print(sorted({'ray', 'transformers', 'transformer_lens', 'numba', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
