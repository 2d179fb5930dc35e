"""States that are kept between runs: the same bits, whatever became of the files."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qkatlas.pipeline.circuit import kept
from qkatlas.pipeline.circuit.kept import KeptStates
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint


def disk_with(monkeypatch: pytest.MonkeyPatch, *, free: int) -> None:
    """Let the cache's disk of 1000 GiB have so many bytes free, whatever this machine's has."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1000 << 30, free=free))


class Counting(TokenStates):
    """States that count the layers they pass."""

    passed = 0

    def _pass_layer(self) -> None:
        Counting.passed += 1
        super()._pass_layer()


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SMALLEST", 1)
    disk_with(monkeypatch, free=100 << 30)
    Counting.passed = 0


def opened(random_model: Path, cache: Path | None, *, every_layer: bool = False, **identity: object) -> KeptStates:
    weights = Checkpoint.open(random_model)
    return KeptStates(
        lambda: Counting(weights, "mlp", threads=1),
        {"model": "a", **identity},
        cache=cache,
        every_layer=every_layer,
    )


def expected(random_model: Path, layer: int) -> np.ndarray:
    return TokenStates(Checkpoint.open(random_model), "mlp", threads=1).advance_to(layer)


def test_what_was_kept_is_read_and_equal_in_every_bit(random_model: Path, tmp_path: Path) -> None:
    first = opened(random_model, tmp_path)
    assert np.array_equal(first.advance_to(2), expected(random_model, 2))
    assert Counting.passed == 2
    again = opened(random_model, tmp_path)
    assert again.layer == 0
    assert np.array_equal(again.values_VD, expected(random_model, 0))
    found_VD = again.advance_to(2)
    assert found_VD.dtype == np.float32
    assert np.array_equal(found_VD, expected(random_model, 2))
    assert again.layer == 2
    assert Counting.passed == 2
    assert opened(random_model, tmp_path).advance_to(1).tobytes() == expected(random_model, 1).tobytes()
    assert Counting.passed == 3  # only the layer that was asked for is kept


def test_every_layer_is_kept_where_nothing_can_go_on(random_model: Path, tmp_path: Path) -> None:
    opened(random_model, tmp_path, every_layer=True).advance_to(2)
    again = opened(random_model, tmp_path, every_layer=True)
    for layer in (1, 2):
        assert np.array_equal(again.advance_to(layer), expected(random_model, layer))
    assert Counting.passed == 2


def test_layers_that_are_missing_are_computed_behind_those_that_are_there(random_model: Path, tmp_path: Path) -> None:
    opened(random_model, tmp_path).advance_to(1)
    again = opened(random_model, tmp_path)
    for layer in (1, 2):
        assert np.array_equal(again.advance_to(layer), expected(random_model, layer))


def test_another_identity_or_code_has_files_of_its_own(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(random_model, tmp_path).advance_to(1)
    opened(random_model, tmp_path, prefix=[1]).advance_to(1)
    assert Counting.passed == 2
    monkeypatch.setattr(kept, "_code", lambda: "newer")
    opened(random_model, tmp_path).advance_to(1)
    assert Counting.passed == 3
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 3


@pytest.mark.parametrize("harm", ["a bit", "cut", "empty", "a folder", "other metadata"])
def test_a_file_that_was_harmed_is_made_again(random_model: Path, tmp_path: Path, harm: str) -> None:
    opened(random_model, tmp_path).advance_to(1)
    (file,) = tmp_path.glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    if harm == "a bit":
        content[-5] ^= 1
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-100])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(bytes(content).replace(b"sha256", b"sha257", 1))
    assert np.array_equal(opened(random_model, tmp_path).advance_to(1), expected(random_model, 1))
    assert Counting.passed == 2


def test_without_a_cache_or_where_it_cannot_be_written_states_are_computed(random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (None, tmp_path / "file"):
        assert np.array_equal(opened(random_model, cache).advance_to(1), expected(random_model, 1))


def test_what_was_not_used_for_longest_makes_room(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = expected(random_model, 1).nbytes
    monkeypatch.setattr(kept, "LARGEST", 4 * size)
    for number, age in enumerate((300, 100, 200)):
        opened(random_model, tmp_path, number=number).advance_to(1)
        (newest,) = [file for file in tmp_path.glob("*/*.safetensors") if file.stat().st_mtime > time.time() - 50]
        os.utime(newest, (time.time() - age, time.time() - age))
    monkeypatch.setattr(kept, "LARGEST", 2 * size + 2000)  # two files and their headers, so that two must go
    opened(random_model, tmp_path, number=9).advance_to(1)
    new, old = sorted(time.time() - file.stat().st_mtime for file in tmp_path.glob("*/*.safetensors"))
    assert new < 50
    assert 90 < old < 150


def test_a_full_disk_is_left_alone_and_abandoned_halves_go(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = expected(random_model, 1).nbytes
    opened(random_model, tmp_path).advance_to(1)
    (folder,) = tmp_path.iterdir()
    for name, age in ((".001-1.part", 2 * 86400), (".001-2.part", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    opened(random_model, tmp_path).advance_to(2)
    assert {file.name for file in folder.glob(".*")} == {".001-2.part"}
    disk_with(monkeypatch, free=kept.SPARE_BYTES + size - 1)
    opened(random_model, tmp_path, number=1).advance_to(1)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2
    disk_with(monkeypatch, free=kept.SPARE_BYTES + size)
    opened(random_model, tmp_path, number=1).advance_to(1)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 3
