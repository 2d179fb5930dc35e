"""GGUF files mean what the checkpoints mean that they were made of, and what transformers reads from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import VARIANTS, make, raw_scores
from support.gguf_files import permuted, real_model, write_gguf

from qkatlas.pipeline.circuit.kinds import PREFIX
from qkatlas.pipeline.circuit.projection import head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.gguf import GgufFile, GgufTensor, _read_header
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets

gguf = pytest.importorskip("gguf")

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
"""Sizes that every quantisation of blocks of 32 divides."""


def same_scores(checkpoint: Checkpoint, model: Any, layers: tuple[int, ...], tolerance: float = 1e-5) -> None:
    tokens_T = torch.arange(5, 29)
    heard, hidden = raw_scores(model, tokens_T[None])
    for layer in layers:
        states_TD = hidden[layer][0].float().numpy()
        largest = heard[layer][0].tril().abs().max().item()
        for index in range(checkpoint.architecture.n_heads):
            weights = head_weights(checkpoint, Head(layer, index))
            for d in (0, 1, 5, 20):
                if weights.n_ctx is not None and d >= weights.n_ctx:
                    continue
                inputs = head_inputs(weights, states_TD, offset=Offsets(d, d), threads=1)
                query_TH = inputs.queries_VH[d:].astype(np.float64)
                found_T = inputs.capped((query_TH * inputs.keys_VH[: len(query_TH)]).sum(axis=1) * inputs.scale)
                expected_T = heard[layer][0, index].diagonal(-d).double().numpy()
                np.testing.assert_allclose(found_T, expected_T, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    ["llama", "llama-groups-of-3", "llama-one-key-head-of-8", "llama-biases", "llama-wide-heads", "llama-theta",
     "llama-linear", "mistral", "qwen2", "qwen3", "gemma", "gemma-2"],
)  # fmt: skip
def test_a_file_gives_the_scores_of_the_checkpoint_it_was_made_of(variant: str, tmp_path: Path) -> None:
    model_type, changes = VARIANTS[variant]
    more = {"query_pre_attn_scalar": changes["head_dim"]} if model_type == "gemma2" else {}
    folder = make(variant, tmp_path / "model", **more)
    original, checkpoint = Checkpoint.open(folder), Checkpoint.open(write_gguf(folder, tmp_path / "model.gguf"))
    checkpoint.require_finite()
    assert sorted(checkpoint.tensor_names()) == sorted(original.tensor_names())
    for name in original.tensor_names():
        expected = original.tensor(name)
        if model_type.startswith("gemma") and "norm" in name:
            expected = expected + np.float32(1)
        np.testing.assert_array_equal(checkpoint.tensor(name), expected)
    same_scores(checkpoint, reference(folder), tuple(range(checkpoint.architecture.n_layers)))


@pytest.mark.slow
def test_a_gemma_3_has_its_two_rotations_and_windows(tmp_path: Path) -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    more = {"layer_types": None, "num_hidden_layers": 7, "query_pre_attn_scalar": 10, "rope_parameters": ropes}
    folder = make("gemma-3", tmp_path / "model", **more)
    checkpoint = Checkpoint.open(write_gguf(folder, tmp_path / "model.gguf"))
    assert checkpoint.architecture.windowed == (0, 1, 2, 3, 4, 6)
    same_scores(checkpoint, reference(folder), (0, 4, 5, 6))


def test_frequencies_are_divided_by_what_the_file_holds(tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "model")
    plain = Checkpoint.open(write_gguf(folder, tmp_path / "plain.gguf")).architecture.rotary
    writer_add = gguf.GGUFWriter.write_header_to_file
    divisors = np.array([1, 2, 4, 8], np.float32)

    def with_divisors(writer: Any, *arguments: Any) -> None:
        writer.add_tensor("rope_freqs.weight", divisors)
        writer_add(writer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_divisors)
        divided = Checkpoint.open(write_gguf(folder, tmp_path / "divided.gguf")).architecture.rotary
        divisors = np.array([1, 2], np.float32)
        with pytest.raises(ValueError, match=r"impossible rope_freqs\.weight"):
            Checkpoint.open(write_gguf(folder, tmp_path / "short.gguf"))
    assert plain is not None
    assert divided is not None
    np.testing.assert_allclose(divided.frequencies(), plain.frequencies() / [1, 2, 4, 8], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("quantisation", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0", "Q4_1"])
def test_dequantised_weights_are_those_that_transformers_reads(quantisation: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make("llama", tmp_path / "model", **WIDE)
    file = write_gguf(folder, tmp_path / "model.gguf", quantisation)
    checkpoint = Checkpoint.open(file)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    state = {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()}
    for name in checkpoint.tensor_names():
        np.testing.assert_array_equal(checkpoint.tensor(name), state[name])
    same_scores(checkpoint, model, (0, 2))


@pytest.mark.parametrize("kind", sorted({*gguf.quants._type_traits, gguf.GGMLQuantizationType.F32}))
def test_every_quantisation_of_the_package_is_read(kind: Any, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    heads, width, columns = 2, 8, max(block, 256)
    raw = np.random.default_rng(0).integers(0, 255, (heads * width, columns // block * size), np.uint8)
    file = tmp_path / "raw.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("blk.0.attn_q.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = gguf.GGUFReader(file).tensors
    name = "layers.0.self_attn.q_proj.weight"
    opened = GgufFile(file, None, {name: GgufTensor.of(tensor)}, {name: heads})  # type: ignore[arg-type]
    expected = gguf.quants.dequantize(raw, kind)
    found = opened.tensor(name)
    assert found.dtype == np.float32
    assert opened.shape(name) == found.shape == (heads * width, columns)
    np.testing.assert_array_equal(permuted(found, heads), expected)


def test_a_vocabulary_is_stepped_over_and_the_rest_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is what the package's own reader says, and no list of the vocabulary was taken apart for it."""
    folder = make("llama", tmp_path / "model")
    words = [f"word {number}" * (number % 3) for number in range(5000)]
    write_header = gguf.GGUFWriter.write_header_to_file

    def with_words(writer: Any, *arguments: Any) -> None:
        writer.add_token_list(words)
        writer.add_token_scores([0.5] * len(words))
        writer.add_token_types([1] * len(words))
        writer.add_array("llama.some_list", [3, 1, 2])
        writer.add_eos_token_id(7)
        write_header(writer, *arguments)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_words)
    file = write_gguf(folder, tmp_path / "model.gguf")
    whole, read = gguf.GGUFReader(file), _read_header(file)
    assert [tensor.data_offset for tensor in read.tensors] == [tensor.data_offset for tensor in whole.tensors]
    lists = {f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")}
    assert whole.fields["tokenizer.ggml.tokens"].contents() == words
    for name, field in whole.fields.items():
        assert read.fields[name].contents() == ([] if name in lists else field.contents())
    assert all(len(read.fields[name].parts) < 10 for name in lists)


def test_a_tensor_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("llama", tmp_path / "model", **WIDE)
    file = write_gguf(folder, tmp_path / "model.gguf", "Q4_1")
    expected = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors
    }
    opened = GgufFile.open(file)
    monkeypatch.setattr("qkatlas.pipeline.models.gguf._BLOCK", 5 * 64)
    for stored in opened.stored.values():
        np.testing.assert_array_equal(stored.read(file), expected[stored.name])
    last = max(opened.stored.values(), key=lambda stored: stored.start)
    with file.open("r+b") as edited:
        edited.truncate(last.start + 4)
    with pytest.raises(ValueError, match=f"ends within its tensor '{last.name}'; copy it again"):
        last.read(file)


def test_what_is_not_computed_exactly_is_refused_by_name(tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "model")

    def refusal(file: Path) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at
            Checkpoint.open(file)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for number, (metadata, named) in enumerate((
        ({"llama__attention__scale": 0.5}, "llama.attention.scale"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count 4"),
        ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.type 'yarn'"),
        ({"llama__expert_count": 8}, "llama.expert_count"),
        ({"split__count": 3}, "llama-gguf-split --merge"),
    )):  # fmt: skip
        assert named in refusal(write_gguf(folder, tmp_path / f"{number}.gguf", **metadata))
    whole = write_gguf(folder, tmp_path / "whole.gguf").read_bytes()
    for name, content, named in (
        ("empty.gguf", b"", "no sound GGUF file"),
        ("short.gguf", whole[:100], "no sound GGUF file"),
        ("half.gguf", whole[: len(whole) // 2], "no sound GGUF file"),
        ("text.gguf", b"a text and nothing else" * 9, "no sound GGUF file"),
        ("other.gguf", whole.replace(b"llama", b"mamba"), "architecture 'mamba'"),
        ("named.gguf", whole.replace(b"blk.1.attn_norm", b"blk.1.attn_gate"), "'blk.1.attn_gate.weight'"),
        ("lacks.gguf", whole.replace(b"llama.block_count", b"llama.block_kount"), "llama.block_count"),
    ):
        (tmp_path / name).write_bytes(content)
        assert named in refusal(tmp_path / name)


def test_a_directory_of_one_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    file = write_gguf(make("llama", tmp_path / "model"), tmp_path / "only" / "model.gguf")
    assert Checkpoint.open(tmp_path / "only").identity() == Checkpoint.open(file).identity()
    (tmp_path / "only" / "second.gguf").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"model\.gguf, second\.gguf; name one"):
        Checkpoint.open(tmp_path / "only")


@pytest.fixture(scope="module")
def real() -> Checkpoint:
    return Checkpoint.open(real_model())


@pytest.fixture(scope="module")
def real_reference() -> Any:
    from transformers import AutoModelForCausalLM

    file = real_model()
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.real
def test_the_real_model_is_what_its_metadata_says(real: Checkpoint) -> None:
    a = real.architecture
    assert (a.n_layers, a.n_heads, a.n_kv_heads, a.d_model, a.d_head) == (30, 9, 3, 576, 64)
    assert (a.vocab_size, a.n_ctx, a.bos_token_id, a.tied) == (49152, 8192, 1, True)
    assert a.rotary is not None
    assert a.rotary.theta == 100_000


@pytest.mark.real
def test_weights_and_scores_of_the_real_model_are_those_of_transformers(real: Checkpoint, real_reference: Any) -> None:
    state = {name.removeprefix("model."): value for name, value in real_reference.state_dict().items()}
    for name in real.tensor_names():
        np.testing.assert_array_equal(real.tensor(name), state[name].numpy(), err_msg=name)
    same_scores(real, real_reference, (0, 7, 29))


@pytest.mark.real
def test_the_real_model_knows_the_capital_of_italy(real: Checkpoint) -> None:
    (tokens,) = (
        field.contents() for name, field in gguf.GGUFReader(real.path).fields.items() if name == "tokenizer.ggml.tokens"
    )
    *prefix, last = (tokens.index(word) for word in ("The", "Ġcapital", "Ġof", "ĠItaly", "Ġis"))
    states = TokenStates(real, PREFIX, prefix=prefix, token_ids=[last], threads=2)
    x_D = states.advance_to(real.architecture.n_layers)[0].astype(np.float64)
    normed_D = x_D / np.sqrt((x_D**2).mean() + real.architecture.norm.eps) * real.tensor("norm.weight")
    assert tokens[int(np.argmax(real.tensor("embed_tokens.weight") @ normed_D))] == "ĠRome"
