"""Every family against transformers in float64: its own pre-softmax scores, hidden states and configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import edit_config, reference, rename_weights
from support.families import EVERY, LLAMA3, SMALL, VARIANTS, YARN, make, raw_scores

from qkatlas.pipeline.circuit.kinds import PREFIX
from qkatlas.pipeline.circuit.projection import bilinear_factors, head_inputs, head_weights, layer_weights, turned
from qkatlas.pipeline.circuit.states import TokenStates, normalise
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.families import architecture_of
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.fidelity import LayerProjection

pytestmark = pytest.mark.slow

PREFIX_TOKENS = (1, 5, 9, 12, 33, 2, 8, 60, 61)
OFFSETS = (0, 1, 3, 6, 11, 23)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in made:
            made[variant] = make(variant, tmp_path_factory.mktemp(variant))
        return made[variant]

    return folder


def close(found: np.ndarray, expected: np.ndarray, relative: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * np.abs(expected).max())


def at_offset(scores_TT: torch.Tensor, offset: int) -> np.ndarray:
    return scores_TT.diagonal(-offset).numpy()


@pytest.mark.parametrize("variant", EVERY)
def test_scores_at_offsets_are_the_models_own(folder_of: Callable[[str], Path], variant: str) -> None:
    folder = folder_of(variant)
    tokens_T = torch.randperm(80, generator=torch.Generator().manual_seed(1))[:28]
    heard, hidden = raw_scores(reference(folder), tokens_T[None])
    checkpoint = Checkpoint.open(folder)
    assert len(heard) == checkpoint.architecture.n_layers
    for layer, scores_1NTT in enumerate(heard):
        states_TD = hidden[layer][0].float().numpy()
        every = layer_weights(checkpoint, layer)
        for offset in (Offsets(d, d) for d in OFFSETS if d < every.n_ctx):
            rows = head_inputs(every, states_TD, offset=offset, threads=1)
            for index in range(checkpoint.architecture.n_heads):
                inputs = head_inputs(head_weights(checkpoint, Head(layer, index)), states_TD, offset=offset, threads=1)
                query_TH = inputs.queries_VH[offset.first :].astype(np.float64)
                dots_T = (query_TH * inputs.keys_VH[: len(query_TH)]).sum(axis=1)
                expected_T = at_offset(scores_1NTT[0, index], offset.first)
                close(inputs.capped(dots_T * inputs.scale), expected_T, 1e-5)
                own = slice(index * inputs.queries_VH.shape[1], (index + 1) * inputs.queries_VH.shape[1])
                np.testing.assert_array_equal(rows.keys_VH[:, own], inputs.keys_VH)
                close(rows.queries_VH[:, own], inputs.queries_VH, 1e-6)


@pytest.mark.parametrize("count", [1, 2, len(PREFIX_TOKENS)])
@pytest.mark.parametrize("variant", EVERY)
def test_states_behind_a_prefix_are_the_models_own(folder_of: Callable[[str], Path], variant: str, count: int) -> None:
    folder = folder_of(variant)
    checkpoint, prefix = Checkpoint.open(folder), PREFIX_TOKENS[:count]
    every_V = torch.arange(checkpoint.architecture.vocab_size)
    tokens_VT = torch.cat([torch.tensor(prefix).expand(len(every_V), -1), every_V[:, None]], dim=1)
    with torch.no_grad():
        hidden = reference(folder)(tokens_VT, output_hidden_states=True).hidden_states
    states = TokenStates(checkpoint, PREFIX, prefix=prefix, threads=2)
    if count == 1:
        bos = TokenStates(checkpoint, "bos", threads=1)
    for layer in range(checkpoint.architecture.n_layers):
        found_VD = states.advance_to(layer)
        np.testing.assert_allclose(found_VD, hidden[layer][:, -1].numpy(), rtol=1e-4, atol=1e-4)
        if count == 1:  # the first token of the prefix is BOS
            np.testing.assert_array_equal(bos.advance_to(layer), found_VD)


@pytest.mark.parametrize("variant", EVERY)
def test_states_without_attention_are_those_of_a_model_whose_attention_is_silent(
    folder_of: Callable[[str], Path], variant: str
) -> None:
    folder = folder_of(variant)
    model, checkpoint = reference(folder), Checkpoint.open(folder)
    for name, module in model.named_modules():
        if name.endswith(("self_attn", "attention")):
            module.register_forward_hook(lambda _, args, out: (torch.zeros_like(out[0]), *out[1:]))
    with torch.no_grad():
        tokens_V1 = torch.arange(checkpoint.architecture.vocab_size)[:, None]
        hidden = model(tokens_V1, output_hidden_states=True).hidden_states
    states = TokenStates(checkpoint, "mlp", threads=2)
    for layer in range(checkpoint.architecture.n_layers):
        np.testing.assert_allclose(states.advance_to(layer), hidden[layer][:, 0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen3", "neox", "llama-yarn"])
def test_a_range_of_offsets_is_the_mean_of_its_scores(folder_of: Callable[[str], Path], variant: str) -> None:
    checkpoint = Checkpoint.open(folder_of(variant))
    weights, states_VD = head_weights(checkpoint, Head(1, 3)), TokenStates(checkpoint, "mlp", threads=1).advance_to(1)

    def scores(offset: Offsets) -> np.ndarray:
        inputs = head_inputs(weights, states_VD, offset=offset, threads=1)
        return inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.T * inputs.scale

    close(scores(Offsets.parse("mean:2-5")), np.mean([scores(Offsets(d, d)) for d in (2, 3, 4, 5)], axis=0), 1e-6)


@pytest.mark.parametrize("form", ["attention", "bilinear"])
@pytest.mark.parametrize("variant", ["llama-biases", "neox", "gemma", "llama-yarn"])
def test_an_offset_can_be_folded_into_the_weights(folder_of: Callable[[str], Path], variant: str, form: str) -> None:
    checkpoint, offset = Checkpoint.open(folder_of(variant)), Offsets(2, 9)
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(2)
    weights = head_weights(checkpoint, Head(2, 4), scores=form)
    inputs = head_inputs(weights, states_VD, offset=offset, threads=1)
    folded = head_inputs(turned(weights, offset), states_VD, threads=1)
    close(folded.queries_VH, inputs.queries_VH, 1e-6)
    close(folded.keys_VH, inputs.keys_VH, 1e-6)
    if form == "bilinear":
        normalised_VD = normalise(states_VD, checkpoint.architecture.norm, threads=1).astype(np.float64)
        w_q_DH, w_k_DH = bilinear_factors(checkpoint, Head(2, 4), offset=offset)
        expected_VV = inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.T
        close(normalised_VD @ w_q_DH @ w_k_DH.T @ normalised_VD.T, expected_VV, 1e-5)


@pytest.mark.parametrize("variant", ["llama-groups-of-3", "llama-yarn", "gemma-2-no-cap", "gemma-2", "qwen3", "neox"])
def test_a_layers_projection_gives_the_scores_of_every_pair_of_positions(
    folder_of: Callable[[str], Path], variant: str
) -> None:
    folder = folder_of(variant)
    tokens_T = torch.randperm(80, generator=torch.Generator().manual_seed(2))[:20]
    heard, hidden = raw_scores(reference(folder), tokens_T[None])
    layer = 1
    projection = LayerProjection.of(Checkpoint.open(folder), layer, hidden[layer][0].float().numpy(), threads=1)
    scores_NTT = projection.scores(torch.arange(20)[None])[0]
    causal_TT = torch.ones(20, 20).tril().bool()
    close(scores_NTT[:, causal_TT].numpy(), heard[layer][0][:, causal_TT].numpy(), 1e-5)


@pytest.mark.parametrize("variant", ["llama", "neox"])
def test_normalised_states_are_centred_only_where_the_model_centres(
    folder_of: Callable[[str], Path], variant: str
) -> None:
    checkpoint = Checkpoint.open(folder_of(variant))
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(1)
    x_VD = states_VD.astype(np.float64)
    if variant == "neox":
        x_VD = x_VD - x_VD.mean(axis=1, keepdims=True)
    expected_VD = x_VD / np.sqrt((x_VD**2).mean(axis=1, keepdims=True) + checkpoint.architecture.norm.eps)
    close(normalise(states_VD, checkpoint.architecture.norm, threads=2), expected_VD, 1e-6)


@pytest.mark.parametrize("variant", ["llama-3", "gemma-3", "neox", "gemma-2"])
def test_bits_do_not_depend_on_threads(folder_of: Callable[[str], Path], variant: str, tmp_path: Path) -> None:
    folder = make(variant, tmp_path, vocab_size=2300)
    checkpoint = Checkpoint.open(folder)
    found = []
    for threads in (1, 5):
        states_VD = TokenStates(checkpoint, PREFIX, prefix=PREFIX_TOKENS, threads=threads).advance_to(2)
        weights = head_weights(checkpoint, Head(2, 1))
        inputs = head_inputs(weights, states_VD, offset=Offsets(3, 3), threads=threads)
        found.append([states_VD.tobytes(), inputs.queries_VH.tobytes(), inputs.keys_VH.tobytes()])
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["llama-3", "gemma-3", "neox"])
def test_half_precision_in_shards_reads_the_same(
    folder_of: Callable[[str], Path], variant: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    half = AutoModelForCausalLM.from_pretrained(folder_of(variant), dtype=dtype)
    half.save_pretrained(tmp_path / "one")
    half.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    one, many = Checkpoint.open(tmp_path / "one"), Checkpoint.open(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert one.architecture == many.architecture
    state = {name.split(".", 1)[-1]: value for name, value in half.state_dict().items()}
    for name in one.tensor_names():
        np.testing.assert_array_equal(one.tensor(name), many.tensor(name))
        if name != "lm_head.weight":
            np.testing.assert_array_equal(one.tensor(name), state[name].float().numpy())


@pytest.mark.parametrize(
    "model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_neox"]
)
def test_what_is_left_out_is_what_transformers_takes(model_type: str) -> None:
    from transformers import AutoConfig

    found, default = architecture_of(Config({"model_type": model_type}, "test")), AutoConfig.for_model(model_type)
    d_head = getattr(default, "head_dim", None) or default.hidden_size // default.num_attention_heads
    assert (found.n_layers, found.n_heads) == (default.num_hidden_layers, default.num_attention_heads)
    assert found.n_kv_heads == getattr(default, "num_key_value_heads", found.n_heads)
    assert (found.d_model, found.d_head, found.d_mlp) == (default.hidden_size, d_head, default.intermediate_size)
    assert (found.vocab_size, found.n_ctx) == (default.vocab_size, default.max_position_embeddings)
    assert (found.bos_token_id, found.tied) == (default.bos_token_id, default.tie_word_embeddings)
    assert found.norm.eps == getattr(default, "rms_norm_eps", getattr(default, "layer_norm_eps", None))
    assert found.activation == getattr(default, "hidden_activation", getattr(default, "hidden_act", None))
    rope = default.rope_parameters.get("full_attention", default.rope_parameters)
    assert found.rotary is not None
    assert found.rotary.theta == rope["rope_theta"]
    assert found.rotary.width == int(d_head * rope.get("partial_rotary_factor", 1.0))
    if model_type.startswith("gemma3"):
        assert found.local_rotary is not None
        assert found.local_rotary.theta == default.rope_parameters["sliding_attention"]["rope_theta"]
    types = (
        getattr(default, "layer_types", None)
        or ["sliding_attention" if getattr(default, "sliding_window", None) else "full_attention"] * found.n_layers
    )
    assert found.windowed == tuple(layer for layer, name in enumerate(types) if name == "sliding_attention")
    assert found.window == (default.sliding_window if found.windowed else None)
    if model_type in ("gemma2", "gemma3_text"):
        assert found.score_width == default.query_pre_attn_scalar
        assert found.logit_cap == default.final_logit_softcapping
    assert found.score_cap == (default.attn_logit_softcapping if model_type == "gemma2" else None)


@pytest.mark.parametrize(
    ("variant", "without", "changes"),
    [
        ("llama-3", ("rope_parameters",), {
            "rope_theta": 500.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        }),
        ("llama-linear", ("rope_parameters",), {"rope_theta": 99, "rope_scaling": {"type": "linear", "factor": 3}}),
        ("llama-theta", ("rope_parameters",), {"rope_theta": 77.0, "rope_scaling": None}),
        ("llama-yarn", ("rope_parameters",), {
            "rope_theta": 900.0, "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"},
        }),
        ("neox", ("rope_parameters",), {"rotary_pct": 0.25, "rotary_emb_base": 10000}),
        ("gemma-3", ("rope_parameters",), {
            "rope_theta": 400.0, "rope_local_base_freq": 60.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }),
        ("llama", ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"), {}),
        ("llama", ("model_type",), {"architectures": ["LlamaForCausalLM"]}),
        ("gemma", (), {"hidden_act": "gelu"}),
        ("qwen2", (), {"sliding_window": None}),
        ("qwen2-windows", ("layer_types",), {}),
    ],
)  # fmt: skip
def test_configurations_as_older_releases_saved_them(
    folder_of: Callable[[str], Path], tmp_path: Path, variant: str, without: tuple[str, ...], changes: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(folder_of(variant), tmp_path / "model"))
    expected = Checkpoint.open(folder).architecture
    edit_config(folder, without=without, **changes)
    assert Checkpoint.open(folder).architecture == expected


def test_a_pattern_of_windows_is_that_of_transformers(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("gemma-3"), tmp_path / "model"))
    edit_config(folder, without=("layer_types",), sliding_window_pattern=2)
    types = reference(folder).config.layer_types
    assert Checkpoint.open(folder).architecture.windowed == (0, 2)
    assert [layer for layer, name in enumerate(types) if name == "sliding_attention"] == [0, 2]


@pytest.mark.parametrize(
    ("variant", "changes", "named"),
    [
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type 'longrope'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor is None"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "factor is '4'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": True}}, "factor is True"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "impossible rotary positions"),
        ("llama", {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "impossible rotary positions"),
        ("llama", {"rope_parameters": {"rope_theta": 0.0}}, "impossible rotary positions"),
        ("llama", {"rope_parameters": {"rope_theta": None}}, "rope_theta is None"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters is [1]"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ from layer to layer"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"),
        ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps -1.0"),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads 4"),
        ("llama", {"num_key_value_heads": 0}, "num_key_value_heads 0"),
        ("llama", {"num_attention_heads": 5}, "num_attention_heads 5"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("llama", {"vocab_size": 10**12}, "vocab_size 1000000000000"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act 'xielu'"),
        ("llama", {"attention_bias": 1}, "attention_bias is 1"),
        ("llama", {"attention_bias": True}, "self_attn.q_proj.bias"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ("llama", {"head_dim": 7}, "impossible rotary positions"),
        ("mistral", {"sliding_window": 0}, "sliding_window 0"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention"] * 2}, "each of 3 layers"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "sliding_window None"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma-2", {"query_pre_attn_scalar": 23.5}, "query_pre_attn_scalar is 23.5"),
        ("gemma-2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma-2", {"attn_logit_softcapping": -50.0}, "attn_logit_softcapping -50.0"),
        ("gemma-2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping"),
        ("gemma-3", {"model_type": "gemma3"}, "model_type 'gemma3'"),
        ("neox", {"rotary_pct": 1.5, "rope_parameters": None}, "impossible rotary positions"),
        ("neox", {"num_attention_heads": 7}, "num_attention_heads 7"),
        ("neox", {"hidden_act": "gelu_10"}, "hidden_act 'gelu_10'"),
    ],
)
def test_what_is_not_computed_exactly_is_refused_by_name(
    folder_of: Callable[[str], Path], tmp_path: Path, variant: str, changes: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(folder_of(variant), tmp_path / "model"))
    edit_config(folder, **changes)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at
        Checkpoint.open(folder)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_unembedding_of_neox_has_two_names(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("neox"), tmp_path / "model"))
    unembedding = reference(folder).get_output_embeddings().weight.detach().float().numpy()
    names = {"embed_out.weight", "lm_head.weight"}
    (stored,) = names & set(Checkpoint.open(folder).tensors.names())
    np.testing.assert_array_equal(Checkpoint.open(folder).tensor("lm_head.weight"), unembedding)
    (other,) = names - {stored}
    rename_weights(folder, lambda name: other if name == stored else name)
    np.testing.assert_array_equal(Checkpoint.open(folder).tensor("lm_head.weight"), unembedding)


def test_offsets_are_written_as_they_are_read() -> None:
    for text in ("0", "1", "17", "mean:1-16", "mean:0-3"):
        assert str(Offsets.parse(text)) == text
    assert list(Offsets.parse("mean:2-4").values()) == [2, 3, 4]
    for text in ("", "-1", "mean:3-1", "mean:1", "1-2", "1.5", "mean:1-2-3", "one", "1\n", "9" * 20):
        with pytest.raises(ValueError, match="malformed"):
            Offsets.parse(text)


def test_offsets_that_mean_nothing_are_refused(folder_of: Callable[[str], Path], random_model: Path) -> None:
    def refused(folder: Path, head: Head, offset: Offsets | None, match: str) -> None:
        checkpoint = Checkpoint.open(folder)
        states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(head.layer)
        with pytest.raises(ValueError, match=match):
            head_inputs(head_weights(checkpoint, head), states_VD, offset=offset, threads=1)

    refused(random_model, Head(1, 1), Offsets(1, 1), "offset 1 has no meaning here")
    refused(folder_of("llama"), Head(1, 1), None, "need an offset")
    refused(folder_of("llama"), Head(1, 1), Offsets(64, 64), "from 0 to 63")
    refused(folder_of("mistral"), Head(1, 1), Offsets(1, 7), "from 0 to 6")
    refused(folder_of("gemma-2"), Head(1, 1), Offsets(1, 4), "caps its scores")


@pytest.mark.parametrize("variant", ["qwen3", "gemma-3"])
def test_heads_that_normalise_queries_and_keys_have_no_bilinear_form(
    folder_of: Callable[[str], Path], variant: str
) -> None:
    checkpoint = Checkpoint.open(folder_of(variant))
    for ask in (
        lambda: bilinear_factors(checkpoint, Head(0, 0), offset=Offsets(1, 1)),
        lambda: head_weights(checkpoint, Head(0, 0), scores="bilinear"),
        lambda: turned(head_weights(checkpoint, Head(0, 0)), Offsets(1, 1)),
    ):
        with pytest.raises(ValueError, match="q_norm, k_norm"):
            ask()


def test_a_prefix_leaves_room_and_is_of_the_vocabulary(folder_of: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(folder_of("llama"))
    TokenStates(checkpoint, PREFIX, prefix=[1] * 63, threads=1)
    with pytest.raises(ValueError, match="needs 65 positions, and the model reads 64"):
        TokenStates(checkpoint, PREFIX, prefix=[1] * 64, threads=1)
    with pytest.raises(ValueError, match="prefix token 97 is outside the vocabulary of 97"):
        TokenStates(checkpoint, PREFIX, prefix=[1, 97], threads=1)


def test_weights_in_memory_give_the_same(folder_of: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(folder_of("gemma-2"))
    memory = ModelWeights.read(checkpoint, "key")
    first, second = (TokenStates(w, "bos", threads=1).advance_to(2) for w in (checkpoint, memory))
    np.testing.assert_array_equal(first, second)


def test_identities_of_other_families_hold_what_changes_scores(folder_of: Callable[[str], Path]) -> None:
    seen = {}
    for variant in VARIANTS:
        architecture: Architecture = Checkpoint.open(folder_of(variant)).architecture
        seen[variant] = json.dumps(architecture.identity(), sort_keys=True)
        assert json.loads(seen[variant]) == architecture.identity()
    assert len(set(seen.values())) == len(seen) - 1  # `dynamic` is the default scaling at every offset
    assert SMALL["vocab_size"] == json.loads(seen["llama"])["vocab_size"]
