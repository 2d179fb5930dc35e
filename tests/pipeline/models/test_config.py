"""config.json is read as transformers' GPT2Config reads it, or refused in one line that names the setting."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import edit_config, reference
from transformers import GPT2Config

from qkatlas.pipeline.circuit.projection import head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.families import architecture_of
from qkatlas.pipeline.models.head import Head

GPT2 = {"model_type": "gpt2"}


@pytest.fixture
def copy(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the text
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def check_scores(folder: Path) -> None:
    """Scores of a prompt's own states give the attention that transformers computes in float64."""
    model, checkpoint = reference(folder), Checkpoint.open(folder)
    tokens_1T = torch.arange(20)[None]
    with torch.no_grad():
        out = model(tokens_1T, output_hidden_states=True, output_attentions=True)
    for layer in range(checkpoint.architecture.n_layers):
        states_TD = out.hidden_states[layer][0].float().numpy()
        for head in range(checkpoint.architecture.n_heads):
            inputs = head_inputs(head_weights(checkpoint, Head(layer, head)), states_TD, threads=1)
            scores_TT = inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.T * inputs.scale
            scores_TT = torch.from_numpy(scores_TT).masked_fill(~torch.ones(20, 20).tril().bool(), -torch.inf)
            np.testing.assert_allclose(scores_TT.softmax(-1).numpy(), out.attentions[layer][0, head].numpy(), atol=1e-5)
    with torch.no_grad():
        embedded_VD = model.transformer.wte.weight
        block = model.transformer.h[0]
        expected_VD = embedded_VD + block.mlp(block.ln_2(embedded_VD))
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(1)
    np.testing.assert_allclose(states_VD, expected_VD.numpy(), atol=1e-4)


def test_what_is_left_out_is_what_transformers_takes() -> None:
    found, default = architecture_of(Config(GPT2, "test")), GPT2Config()
    assert (found.n_layers, found.n_heads, found.d_model) == (default.n_layer, default.n_head, default.n_embd)
    assert (found.vocab_size, found.n_ctx) == (default.vocab_size, default.n_positions)
    assert (found.bos_token_id, found.norm.eps) == (default.bos_token_id, default.layer_norm_epsilon)
    assert (found.tied, found.activation) == (default.tie_word_embeddings, default.activation_function)
    assert found.d_mlp == 4 * default.n_embd
    assert found.score_scale(3) == 1 / 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "changes"),
    [
        (("model_type",), {"architectures": ["GPT2LMHeadModel"]}),
        (("model_type",), {"architectures": ["GPT2Model"]}),
        (("model_type", "n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights"), {}),
        (("n_embd", "n_layer"), {"hidden_size": 64, "num_hidden_layers": 3}),
        (("n_head", "n_positions"), {"num_attention_heads": 8, "max_position_embeddings": 48}),
        ((), {"num_attention_heads": 4}),  # the alias counts, as in transformers
        ((), {"num_hidden_layers": 2}),
        ((), {"n_inner": None}),
        ((), {"n_inner": 256}),
        ((), {"scale_attn_by_inverse_layer_idx": True}),
        ((), {"scale_attn_weights": False}),
        ((), {"layer_norm_epsilon": 0.03}),
        ((), {"activation_function": "relu"}),
        ((), {"n_ctx": 12, "layer_norm_eps": 0.5, "pruned_heads": {"0": [1]}, "rope_theta": 3.0}),  # no settings of it
        ((), {"architectures": ["LlamaForCausalLM"]}),  # model_type counts
        ((), {"quantization_config": None, "bos_token_id": None}),
    ],
)
def test_configurations_as_others_save_them_give_the_models_own_scores(
    copy: Path, without: tuple[str, ...], changes: dict[str, Any]
) -> None:
    edit_config(copy, without=without, **changes)
    if "model_type" in without:  # AutoModel asks for it; GPT2LMHeadModel, which is named, does not
        ours = Path(shutil.copytree(copy, copy.parent / "ours"))
        edit_config(copy, model_type="gpt2")
        assert Checkpoint.open(ours).architecture == Checkpoint.open(copy).architecture
    check_scores(copy)


def test_another_order_of_the_same_arithmetic_changes_nothing(copy: Path, random_model: Path) -> None:
    edit_config(copy, reorder_and_upcast_attn=True)  # in float64 transformers computes it by other kernels only
    assert Checkpoint.open(copy).architecture == Checkpoint.open(random_model).architecture


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "n_inner"])
@pytest.mark.parametrize("value", ["3", True, 2.0, [3], {"a": 1}, float("nan"), "x" * 5000])
def test_a_size_that_is_no_whole_number_is_refused_by_both(copy: Path, name: str, value: object) -> None:
    edit_config(copy, **{name: value})
    assert f"{name} is " in refusal(copy)
    with pytest.raises(Exception, match=name):
        reference(copy)


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"])
def test_a_size_that_is_null_is_refused_by_both(copy: Path, name: str) -> None:
    edit_config(copy, **{name: None})
    assert f"{name} is None" in refusal(copy)
    with pytest.raises(Exception, match=name):
        reference(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("layer_norm_epsilon", value) for value in ("1e-5", True, 1, 0, None, [1e-5])),
        *(("scale_attn_weights", value) for value in ("true", 1, 0, None)),
        *(("scale_attn_by_inverse_layer_idx", value) for value in ("false", 1, None)),
        *(("reorder_and_upcast_attn", value) for value in ("x", 1)),
        *(("tie_word_embeddings", value) for value in ("true", 1, None)),
        *(("add_cross_attention", value) for value in ("false", 0, None)),
        *(("activation_function", value) for value in (None, ["gelu"], "GELU", "")),
        *(("bos_token_id", value) for value in ("0", True, 0.0, [0])),
        ("quantization_config", {}),
    ],
)
def test_a_setting_of_another_kind_is_refused_by_both(copy: Path, name: str, value: object) -> None:
    edit_config(copy, **{name: value})
    message = refusal(copy)
    assert name in message or "quantised" in message
    if name == "layer_norm_epsilon" and type(value) is int:
        return  # seen refused by transformers and seen taken, in one version, by what else the process had loaded
    with pytest.raises(Exception):  # noqa: B017, PT011 - transformers' own errors are of many kinds
        reference(copy)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon nan"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon inf"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon -1e-05"),
        ({"n_head": -2}, "n_head -2"),
        ({"n_head": 0}, "n_head 0"),
        ({"n_layer": 0}, "n_layers 0"),
        ({"n_layer": -3}, "n_layers -3"),
        ({"n_inner": 0}, "d_mlp 0"),
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"n_positions": 0}, "n_ctx 0"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"model_type": "GPT2"}, "'GPT2'"),
        ({"model_type": "gpt_bigcode"}, "'gpt_bigcode'"),
        ({"model_type": 3}, "model_type 3"),
        ({"model_type": None, "architectures": None}, "architecture None"),
        ({"model_type": None, "architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
    ],
)
def test_what_cannot_be_is_refused_by_name(copy: Path, changes: dict[str, Any], named: str) -> None:
    edit_config(copy, **changes)
    assert named in refusal(copy)


@pytest.mark.parametrize("bos", [-1, 211, 10**30])
def test_a_bos_outside_the_vocabulary_is_none(copy: Path, bos: int) -> None:
    edit_config(copy, bos_token_id=bos)
    assert Checkpoint.open(copy).architecture.bos_token_id is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_layer": 10**9}, "n_layers 1000000000"),
        ({"n_layer": 9_000}, "no tensor 'h.3.ln_1.weight'"),
        ({"n_layer": 9_999, "n_head": 64}, "9999 layers of 64 heads"),
        ({"vocab_size": 10**12}, "vocab_size 1000000000000"),
        ({"vocab_size": 2**24}, "[211, 64], but config.json says [16777216, 64]"),
        ({"n_positions": 10**12}, "n_ctx 1000000000000"),
        ({"n_positions": 2**31 - 1}, "[48, 64], but config.json says [2147483647, 64]"),
        ({"n_inner": 10**11}, "d_mlp 100000000000"),
        ({"n_inner": 10**8}, "[64, 256], but config.json says [64, 100000000]"),
        ({"n_embd": 2**28}, "[211, 64], but config.json says [211, 268435456]"),
        ({"n_embd": 10**4000}, "n_embd is 1000000"),
        ({"n_inner": 10**4000}, "of many digits"),
    ],
)
def test_an_impossible_size_ends_at_once_in_constant_memory(copy: Path, changes: dict[str, int], named: str) -> None:
    edit_config(copy, **changes)
    tracemalloc.start()
    try:
        assert named in refusal(copy)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "\ufeff{}", "", "{", "1", '"gpt2"', "null"])
def test_a_file_that_is_no_configuration_is_one_line(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    assert "config.json" in refusal(copy)
    (copy / "config.json").write_bytes(b"\xff\xfe{}")
    assert "config.json" in refusal(copy)
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    assert "config.json" in refusal(copy)


def test_a_plan_of_an_impossible_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qkatlas.jobs.main import run

    for changes, named in (({"n_layer": 10**9}, "n_layers 1000000000"), ({"vocab_size": 10**12}, "vocab_size 10000")):
        (tmp_path / "config.json").write_text(json.dumps({**GPT2, **changes}))
        assert run(["plan", "head-scan", "--model", str(tmp_path)]) == 2
        assert named in capsys.readouterr().err
