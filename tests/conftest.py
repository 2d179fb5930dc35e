"""Checkpoints that tests share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from support.object_store import Server

# No test may ask a hub; set before any library that reads it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


# A machine that others share is slow at times; what a property costs is no part of it.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["QKATLAS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def finish_run() -> Callable[..., Path]:
    """Write a finished run that holds given tables; returns its folder."""

    def finish(out: Path, job: str, tables: Mapping[str, pa.Table], spec: Mapping[str, object] | None = None) -> Path:
        from qkatlas.outputs.runs.identity import identify
        from qkatlas.outputs.runs.journal import Receipt
        from qkatlas.outputs.runs.layout import placed
        from qkatlas.outputs.runs.provenance import Provenance
        from qkatlas.outputs.runs.run import Run
        from qkatlas.outputs.runs.shard import Shard

        model = {"architecture": {"vocab_size": 1}, "weights_sha256": "0" * 64, "vocabulary_sha256": "0" * 64}
        request = identify(job, spec or {}, model)
        run = Run(out / f"{job}-{request.run_id}")
        with run.driving():
            shards = run.plan_or_load(request, [Shard("all", "all", {"start": 0, "stop": 1})], bool)
            parts = tuple(run.write_table(path, placed(table, path)) for path, table in tables.items())
            run.record(Receipt(shard="all", inputs="i", parts=parts))
            run.commit(request, shards, [], provenance=Provenance(model="test", finished="2026-01-01T00:00:00+00:00"))
        return Path(run.folder)

    return finish


@pytest.fixture(scope="session")
def store_server() -> Iterator[Server]:
    """An S3 server with the bucket `atlas`."""
    from support.object_store import serve

    with serve() as server:
        server.make_bucket("atlas")
        yield server


@pytest.fixture(scope="session")
def make_random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a GPT-2 with random weights, biases and LayerNorm weights, and no structure; returns its directory."""

    def make(seed: int = 0, std: float = 0.2, **config: object) -> Path:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = {"n_layer": 3, "n_head": 8, "n_embd": 64, "vocab_size": 211, "n_positions": 48}
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": 0, "eos_token_id": 0, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * std + (1.0 if "ln_" in name and "weight" in name else 0))
        folder = tmp_path_factory.mktemp("random-model")
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def random_model(make_random_model: Callable[..., Path]) -> Path:
    return make_random_model()


@pytest.fixture(scope="session")
def planted_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qkatlas.jobs.inputs.resolve import write_planted
    from qkatlas.pipeline.planted.checkpoint import PlantedDesign

    folder = tmp_path_factory.mktemp("planted") / "tiny"
    write_planted(PlantedDesign(size="tiny"), folder)
    return folder


@pytest.fixture(scope="session")
def worded_model(make_random_model: Callable[..., Path], planted_tiny: Path) -> Path:
    """A random GPT-2 whose tokens are words, so that it can be prompted with categories."""
    folder = make_random_model(5, vocab_size=1024, n_positions=64, bos_token_id=1023, eos_token_id=1023)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(planted_tiny / file, folder / file)
    return folder


@pytest.fixture(scope="session")
def planted_truth(planted_tiny: Path) -> dict:
    return json.loads((planted_tiny / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def reference_scores() -> Callable[..., np.ndarray]:
    """Scores of a head over the vocabulary in NumPy float64, from the raw safetensors: [V, V]."""
    from reference import vocabulary_scores

    return vocabulary_scores
