"""Tensors mean what transformers takes them for, under every name; what could mean two things is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import edit_config, edit_weights, reference, rename_weights
from torch.nn import functional

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.tensors import bare
from qkatlas.pipeline.models.weights import ModelWeights

EMBEDDING, UNEMBEDDING = "transformer.wte.weight", "lm_head.weight"


@pytest.fixture
def copy(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def other_head(tensors: dict[str, torch.Tensor]) -> None:
    noise = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(8))
    tensors[UNEMBEDDING] = 0.3 * noise


def move_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UNEMBEDDING] = tensors.pop(EMBEDDING)


def check_logits(folder: Path, like: Path | None = None) -> None:
    tokens_PT = np.random.default_rng(0).integers(0, 211, (2, 12))
    with torch.no_grad():
        expected = reference(like or folder)(torch.from_numpy(tokens_PT)).logits.numpy()
    found = Forward(ModelWeights.read(Checkpoint.open(folder), str(folder))).run(tokens_PT, {}).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.slow
def test_a_head_of_its_own_counts_though_the_configuration_ties_it(copy: Path) -> None:
    edit_weights(copy, other_head)
    checkpoint = Checkpoint.open(copy)
    assert not checkpoint.architecture.tied
    assert checkpoint.identity()["architecture"]["tied"] is False
    check_logits(copy)


def test_an_equal_head_is_tied_and_changes_no_identity(copy: Path, random_model: Path) -> None:
    edit_weights(copy, lambda t: t.update({UNEMBEDDING: t[EMBEDDING].clone()}))
    checkpoint = Checkpoint.open(copy)
    assert checkpoint.architecture == Checkpoint.open(random_model).architecture
    assert UNEMBEDDING not in checkpoint.tensor_names()
    check_logits(copy)


def test_a_tied_model_may_store_its_head_alone(copy: Path, random_model: Path) -> None:
    edit_weights(copy, move_head)
    checkpoint, whole = Checkpoint.open(copy), Checkpoint.open(random_model)
    assert checkpoint.architecture == whole.architecture
    assert sorted(checkpoint.tensor_names()) == sorted(whole.tensor_names())
    np.testing.assert_array_equal(checkpoint.tensor("wte.weight"), whole.tensor("wte.weight"))
    check_logits(copy)


def test_an_untied_model_needs_its_embedding(copy: Path) -> None:
    edit_config(copy, tie_word_embeddings=False)
    edit_weights(copy, move_head)
    with pytest.raises(ValueError, match=r"no tensor 'wte\.weight'"):
        Checkpoint.open(copy)


def test_an_untied_model_without_head_has_no_logits(copy: Path, random_model: Path) -> None:
    edit_config(copy, tie_word_embeddings=False)
    checkpoint = Checkpoint.open(copy)
    checkpoint.require_finite()
    with pytest.raises(ValueError, match=r"no tensor 'lm_head\.weight' .* gives no logits; do without"):
        checkpoint.require_unembedding("do without")
    tokens_PT = np.arange(12).reshape(1, 12)
    model = Forward(ModelWeights.read(checkpoint, "headless"))
    assert np.isnan(model.run(tokens_PT, {}).numpy()).all()
    expected = reference(random_model)(torch.from_numpy(tokens_PT), output_hidden_states=True).hidden_states[2]
    found = model.run(tokens_PT, {}, stop_at_layer=2)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-4)


def test_a_head_of_another_shape_is_refused(copy: Path) -> None:
    edit_weights(copy, lambda t: t.update({UNEMBEDDING: torch.zeros(100, 64)}))
    with pytest.raises(ValueError, match=r"'lm_head\.weight' .* \[100, 64\]"):
        Checkpoint.open(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "transformer.",
        "module.transformer.",
        "module.",
        "_orig_mod.transformer.",
        "_orig_mod.",
        "model.transformer.",
        "model.",
        "base_model.model.transformer.",
        "base_model.model.",
        "module._orig_mod.transformer.",
        "_orig_mod.module.base_model.model.transformer.",
        "module.module.model.transformer.",
        "_fsdp_wrapped_module.transformer.",
    ],
)
def test_wrappers_change_nothing(copy: Path, random_model: Path, prefix: str) -> None:
    edit_weights(copy, other_head)
    plain = Path(shutil.copytree(copy, copy.parent / "plain"))
    outer = prefix.removesuffix("transformer.")
    rename_weights(copy, lambda n: f"{outer}{n}" if n == UNEMBEDDING else prefix + n.removeprefix("transformer."))
    found, expected = Checkpoint.open(copy), Checkpoint.open(plain)
    assert found.architecture == expected.architecture
    assert sorted(found.tensor_names()) == sorted(expected.tensor_names())
    for name in expected.tensor_names():
        np.testing.assert_array_equal(found.tensor(name), expected.tensor(name))
    check_logits(copy, like=plain)


def test_compiled_and_sharded_blocks_have_their_plain_names() -> None:
    assert bare("transformer.h.0._orig_mod.attn.c_attn.weight") == "h.0.attn.c_attn.weight"
    assert bare("h.11._fsdp_wrapped_module._checkpoint_wrapped_module.ln_1.bias") == "h.11.ln_1.bias"
    assert bare("lm_head.weight") == "lm_head.weight"


def test_an_unknown_prefix_is_named(copy: Path) -> None:
    rename_weights(copy, lambda name: f"student.{name}")
    with pytest.raises(ValueError, match=r"no tensor 'wte\.weight', only 'student\.transformer\.wte\.weight', whose"):
        Checkpoint.open(copy)


@pytest.mark.parametrize("second", ["wte.weight", "module.transformer.wte.weight", "_orig_mod.wte.weight"])
def test_two_tensors_of_one_name_are_taken_only_where_they_are_equal(
    copy: Path, random_model: Path, second: str
) -> None:
    edit_weights(copy, lambda t: t.update({second: t[EMBEDDING].clone()}))
    np.testing.assert_array_equal(
        Checkpoint.open(copy).tensor("wte.weight"), Checkpoint.open(random_model).tensor("wte.weight")
    )
    edit_weights(copy, lambda t: t[second][3, 3].add_(1e-3))
    with pytest.raises(ValueError, match=rf"two different tensors .*{second}"):
        Checkpoint.open(copy)
    edit_weights(copy, lambda t: t.update({second: t[second][:100].clone()}))
    with pytest.raises(ValueError, match=rf"{second}.*\[100, 64\]"):
        Checkpoint.open(copy)


def test_two_heads_of_one_name_are_never_chosen_from(copy: Path) -> None:
    edit_weights(copy, other_head)
    edit_weights(copy, lambda t: t.update({f"module.{UNEMBEDDING}": t[UNEMBEDDING] + 1}))
    with pytest.raises(ValueError, match=r"'lm_head\.weight' and 'module\.lm_head\.weight'"):
        Checkpoint.open(copy)


def test_a_tensor_in_two_shards_is_taken_only_where_it_is_equal(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {**dict.fromkeys(tensors, files[0]), EMBEDDING: files[1]}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, copy / files[0])
    save_file({EMBEDDING: tensors[EMBEDDING]}, copy / files[1])
    np.testing.assert_array_equal(Checkpoint.open(copy).tensor("wte.weight"), tensors[EMBEDDING].numpy())
    save_file({EMBEDDING: tensors[EMBEDDING] + 1}, copy / files[1])
    with pytest.raises(ValueError, match=r"two different tensors 'transformer\.wte\.weight', in model-00001"):
        Checkpoint.open(copy)


def test_weights_of_an_adapter_are_not_left_out_silently(copy: Path) -> None:
    name = "transformer.h.0.attn.c_attn.lora_A.default.weight"
    edit_weights(copy, lambda t: t.update({name: torch.ones(4, 64)}))
    with pytest.raises(ValueError, match=r"lora_A.*merge_and_unload"):
        Checkpoint.open(copy)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_numbers_that_are_no_floats_are_refused_and_masks_are_not_looked_at(copy: Path, dtype: torch.dtype) -> None:
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 48, 48, dtype=dtype)}
    edit_weights(copy, lambda t: t.update(mask))
    Checkpoint.open(copy)
    edit_weights(copy, lambda t: t.update({"transformer.h.0.ln_1.bias": torch.ones(64).to(dtype)}))
    with pytest.raises(ValueError, match=r"h\.0\.ln_1\.bias.* numbers; use a float checkpoint"):
        Checkpoint.open(copy)


def test_jobs_take_logits_from_the_head_or_say_that_there_is_none(
    worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qkatlas.jobs.main import run

    folder = Path(shutil.copytree(worded_model, tmp_path / "model"))
    edit_config(folder, tie_word_embeddings=False)
    common = ["--model", str(folder), "--in-process", "--quiet", "--out", str(tmp_path / "runs")]
    for command in (["ablation"], ["steering", "--in-model", "--head", "L1H5"]):
        assert run([command[0], *common, *command[1:]]) == 2
        error = capsys.readouterr().err
        assert "no tensor 'lm_head.weight'" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert run(["full-vocab", *common, "--head", "L2H5"]) == 0
    assert run(["ablation", *common, "--no-loss", "--prompts", "2", "--length", "8", "--targets", "L1H5"]) == 0


@pytest.mark.slow
def test_losses_of_jobs_are_those_of_transformers_with_its_own_head(worded_model: Path, tmp_path: Path) -> None:
    from qkatlas.jobs.main import run

    folder = Path(shutil.copytree(worded_model, tmp_path / "model"))
    edit_weights(folder, other_head)
    common = ["--model", str(folder), "--in-process", "--quiet", "--out", str(tmp_path / "runs"), "--prompts", "3"]
    common += ["--length", "10"]
    assert run(["ablation", *common, "--targets", "L0H1", "--layers", "0"]) == 0
    grid = ["--alpha", "1", "--draws", "0", "--methods", "eigen", "--in-model", "--head", "L1H1"]
    assert run(["steering", *common, *grid]) == 0
    (ablation,) = (tmp_path / "runs").glob("ablation-*")
    (steering,) = (tmp_path / "runs").glob("steering-*")
    tokens_PT = torch.tensor(pq.read_table(ablation / "prompts.parquet")["token_ids"].to_pylist())
    with torch.no_grad():
        logits_PTV = reference(folder)(tokens_PT).logits
    loss = functional.cross_entropy(logits_PTV[:, :-1].transpose(1, 2), tokens_PT[:, 1:]).item()
    found = {row["component"]: row["loss"] for row in pq.read_table(ablation / "losses.parquet").to_pylist()}
    assert found["none"] == pytest.approx(loss, abs=1e-5)
    unsteered = pq.read_table(steering / "in_model.parquet").to_pylist()[0]
    assert unsteered["loss"] == pytest.approx(loss, abs=1e-5)
