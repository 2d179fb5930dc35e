"""The planted checkpoint keeps its promises (about 35 s): a plain NumPy and Hugging Face reading finds its truth."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from safetensors.numpy import save_file

from qkatlas.pipeline.planted.checkpoint import PlantedCheckpoint, PlantedDesign, plant
from qkatlas.pipeline.planted.vocabulary import HOSTILE_TOKENS, byte_alphabet
from qkatlas.pipeline.text.categories import read_categories

Array = NDArray[np.float64]


def write_checkpoint(checkpoint: PlantedCheckpoint, folder: Path) -> Path:
    save_file(checkpoint.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config), encoding="utf-8")
    for name, text in checkpoint.tokenizer_files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def place_of(name: str) -> tuple[int, int]:
    layer, head = (int(number) for number in re.findall(r"\d+", name))
    return layer, head


def attention_scores(checkpoint: PlantedCheckpoint, place: str) -> Array:
    """Scores [V, V] of one head on token states `mlp`."""
    weights, (layer, head) = reference.in_float64(checkpoint.tensors), place_of(place)
    d_head = checkpoint.config["n_embd"] // checkpoint.config["n_head"]
    return reference.head_scores(weights, reference.mlp_states(weights, layer), layer, head, d_head=d_head)


def planted_tokens(checkpoint: PlantedCheckpoint) -> dict[int, str]:
    return {
        token_id: category["name"]
        for category in checkpoint.truth["categories"]
        for word in category["words"]
        for token_id in word["token_ids"]
    }


def top10_figures(checkpoint: PlantedCheckpoint) -> tuple[float, int]:
    """Share of the planted tokens' top-10 keys in their category; how many tokens have themselves in it."""
    scores_VV = attention_scores(checkpoint, checkpoint.truth["target"])
    category_of = planted_tokens(checkpoint)
    same, with_self = 0, 0
    for token_id, name in category_of.items():
        top = np.argsort(-scores_VV[token_id], kind="stable")[:10].tolist()
        same += sum(category_of.get(key) == name for key in top)
        with_self += token_id in top
    return same / (10 * len(category_of)), with_self


def folded(checkpoint: PlantedCheckpoint, place: str) -> Array:
    """W' = diag(w) W_Q W_K^T diag(w), [D, D]."""
    d_head = checkpoint.config["n_embd"] // checkpoint.config["n_head"]
    w_q, w_k = reference.bilinear_factors(reference.in_float64(checkpoint.tensors), *place_of(place), d_head)
    return w_q @ w_k.T


CASES = [
    *({"size": size, "seed": seed} for size in ("tiny", "small") for seed in range(4)),
    {"size": "tiny", "noise": 0.15},
    {"size": "tiny", "skew": 0.3},
    {"size": "tiny", "seed": 3, "noise": 0.1, "skew": 0.2, "head": "L2H4"},
    {"size": "small", "noise": 0.3},
    {"size": "small", "skew": 0.5},
    {"size": "small", "head": "L2H3"},
    {"size": "small", "seed": 2, "noise": 0.2, "skew": 0.3, "head": "L2H11"},
]


@pytest.mark.slow
@pytest.mark.parametrize("design", CASES, ids=lambda design: "-".join(f"{k}{v}" for k, v in design.items()))
def test_look_alikes_fill_the_top_10_and_the_token_itself_is_absent(design: dict[str, Any]) -> None:
    share, with_self = top10_figures(plant(PlantedDesign(**design)))
    clean = not design.get("noise") and not design.get("skew")
    assert share >= (0.99 if clean else 0.95)
    assert with_self == 0


@pytest.mark.slow
def test_noise_makes_the_target_harder() -> None:
    shares = [top10_figures(plant(PlantedDesign(size="tiny", noise=noise)))[0] for noise in (0.0, 0.4, 1.0)]
    assert shares[0] > shares[1] + 0.05 > shares[2] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("skew", [0.0, 0.5])
def test_spectrum_is_written_as_stated(size: str, skew: float) -> None:
    checkpoint = plant(PlantedDesign(size=size, skew=skew, seed=5))
    w = folded(checkpoint, "L1H5")
    found = np.linalg.eigvalsh((w + w.T) / 2)[::-1]
    found = found[np.abs(found) > 1e-5 * np.abs(found).max()]
    stated = np.array(checkpoint.truth["eigenvalues"])
    assert len(found) == checkpoint.truth["shape"]["d_head"]
    assert (stated > 0).sum() == checkpoint.truth["shape"]["n_category_dims"]
    np.testing.assert_allclose(found, stated, rtol=1e-4)
    largest_skew = np.linalg.norm((w - w.T) / 2, 2)
    assert largest_skew == pytest.approx(skew * np.abs(stated).max(), rel=1e-4, abs=1e-5 * np.abs(stated).max())
    assert checkpoint.truth["skew_singular_values"][0] == pytest.approx(largest_skew, rel=1e-4, abs=1e-5)


def category_prompts(checkpoint: PlantedCheckpoint, n: int, length: int) -> tuple[NDArray[np.int64], Array]:
    """Prompts [n, 1 + length] of space-led category words after BOS, and the expected keys M [n, q, k]."""
    rng = np.random.default_rng(7)
    categories = planted_tokens(checkpoint)
    words = [word["token_ids"][0] for category in checkpoint.truth["categories"] for word in category["words"]]
    ids = np.concatenate([np.full((n, 1), checkpoint.truth["bos_token_id"]), rng.choice(words, (n, length))], axis=1)
    mask = np.zeros((n, length + 1, length + 1))
    for p, q in np.ndindex(n, length):
        q += 1
        keys = [k for k in range(1, q) if categories[ids[p, k]] == categories[ids[p, q]] and ids[p, k] != ids[p, q]]
        mask[p, q, keys or [0]] = 1.0
    return ids, mask


@pytest.mark.slow
@pytest.mark.parametrize(("size", "place"), [("tiny", "L1H5"), ("tiny", "L2H6"), ("small", "L1H5"), ("small", "L2H3")])
def test_hugging_face_model_shows_every_role(size: str, place: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint = plant(PlantedDesign(size=size, head=place))
    model, report = transformers.GPT2LMHeadModel.from_pretrained(
        write_checkpoint(checkpoint, tmp_path), attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    roles = checkpoint.truth["heads"]
    assert Counter(roles.values()) == {
        "self-suppressing semantic": 1, "semantic": 1, "duplicate-token": 2, "previous-token": 1, "induction": 1,
        "BOS sink": 1, "anti-self": 1,
    }  # fmt: skip
    assert roles[place] == "self-suppressing semantic"

    ids, mask = category_prompts(checkpoint, 4, 63)
    with torch.no_grad():
        patterns = model.eval()(torch.tensor(ids), output_attentions=True).attentions
    surprise = {
        f"L{layer}H{head}": float(-np.log((pattern[:, head].double().numpy() * mask).sum(-1)[:, 1:]).mean())
        for layer, pattern in enumerate(patterns)
        for head in range(pattern.shape[1])
    }
    ordered = sorted(surprise, key=surprise.__getitem__)
    assert ordered[0] == place
    assert surprise[place] < 0.3
    assert surprise[ordered[1]] > surprise[place] + 0.3

    # A random sequence twice: where each pattern head must look from the second copy.
    length = 40
    once = np.random.default_rng(1).choice(np.arange(256, checkpoint.config["vocab_size"] - 1), length, replace=False)
    twice = np.concatenate([[checkpoint.truth["bos_token_id"]], once, once])
    with torch.no_grad():
        patterns = model(torch.tensor(twice[None]), output_attentions=True).attentions
    rows = np.arange(length + 1, 2 * length + 1)
    for name, role in roles.items():
        layer, head = (int(number) for number in re.findall(r"\d+", name))
        pattern = patterns[layer][0, head].numpy()
        if role == "duplicate-token":
            assert pattern[rows, rows - length].mean() > 0.4
        if role == "previous-token":
            assert pattern[rows, rows - 1].mean() > 0.9
        if role == "induction":
            assert pattern[rows, rows - length + 1].mean() > 0.8
        if role == "BOS sink":
            assert pattern[rows, 0].mean() > 0.95


@pytest.mark.slow
def test_semantic_decoy_does_not_suppress_itself_and_anti_self_ignores_categories() -> None:
    checkpoint = plant(PlantedDesign(size="small"))
    category_of = planted_tokens(checkpoint)
    ids = np.array(list(category_of))
    names = np.array(list(category_of.values()))
    mates = (names[:, None] == names[None]) & ~np.eye(len(ids), dtype=bool)
    place = {role: name for name, role in checkpoint.truth["heads"].items()}
    mean_scores = {}
    for role in ("self-suppressing semantic", "semantic", "anti-self"):
        scores = attention_scores(checkpoint, place[role])[np.ix_(ids, ids)]
        rest = scores[names[:, None] != names[None]]
        mean_scores[role] = [(part.mean() - rest.mean()) / rest.std() for part in (scores.diagonal(), scores[mates])]
    self_z, mates_z = mean_scores["self-suppressing semantic"]
    assert self_z < -0.3
    assert mates_z > 2.0
    self_z, mates_z = mean_scores["semantic"]
    assert self_z > 2.0
    assert self_z == pytest.approx(mates_z, abs=0.5)
    self_z, mates_z = mean_scores["anti-self"]
    assert self_z < -2.0
    assert abs(mates_z) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_every_surface_form_is_one_token(size: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = plant(PlantedDesign(size=size, seed=1))
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_checkpoint(checkpoint, tmp_path))
    assert len(tokenizer) == checkpoint.config["vocab_size"]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == checkpoint.config["vocab_size"] - 1
    assert checkpoint.truth["bos_token_id"] == tokenizer.bos_token_id
    words = [word for category in checkpoint.truth["categories"] for word in category["words"]]
    for word in words:
        assert word["surface"][0] == f" {word['word']}"
        for surface, token_id in zip(word["surface"], word["token_ids"], strict=True):
            assert tokenizer.encode(surface) == [token_id]
            assert tokenizer.decode([token_id]) == surface
    prompt = " " + " ".join(word["word"] for word in words[::-1])
    assert tokenizer.encode(prompt) == [word["token_ids"][0] for word in words[::-1]]
    assert tokenizer.decode(tokenizer.encode("naïve 東京 \t!")) == "naïve 東京 \t!"


def test_vocabulary_holds_bytes_and_hostile_tokens() -> None:
    checkpoint = plant(PlantedDesign(size="tiny"))
    vocab = json.loads(checkpoint.tokenizer_files["tokenizer.json"])["model"]["vocab"]
    alphabet = byte_alphabet()
    assert [vocab[character] for character in sorted(alphabet)] == list(range(256))
    assert vocab["!"] == 0  # as in GPT-2
    assert vocab["\u0120"] == 220
    for text in HOSTILE_TOKENS:
        assert "".join(alphabet[byte] for byte in text.encode()) in vocab
    surfaces = [
        form for category in checkpoint.truth["categories"] for word in category["words"] for form in word["surface"]
    ]
    for form in (" Monday", " red", "red", " Blue", " White", "69", " 1918", " You", " his", " Italy"):
        assert surfaces.count(form) == 1


def test_category_list_is_well_formed() -> None:
    categories = read_categories()
    assert len(categories) == 64 == len({name for name, _ in categories})
    assert all(9 <= len(words) <= 14 for _, words in categories)
    words = [word.lower() for _, category in categories for word in category]
    assert len(words) == len(set(words))
    assert all(word.isalnum() and len(word) > 1 for word in words)


@pytest.mark.slow
def test_same_design_same_checkpoint_and_another_seed_another() -> None:
    first, again, other = (plant(PlantedDesign(size="tiny", seed=seed)) for seed in (4, 4, 5))
    assert first.truth == again.truth
    assert first.tokenizer_files == again.tokenizer_files
    assert all(np.array_equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert first.truth["categories"] != other.truth["categories"]
    assert not np.array_equal(first.tensors["transformer.wte.weight"], other.tensors["transformer.wte.weight"])
    assert json.loads(json.dumps(first.truth)) == first.truth
    assert {tensor.dtype for tensor in first.tensors.values()} == {np.dtype(np.float32)}


def test_decoy_in_the_targets_place_moves_aside() -> None:
    roles = plant(PlantedDesign(size="tiny", head="L2H0")).truth["heads"]
    assert roles["L2H0"] == "self-suppressing semantic"
    assert Counter(roles.values())["duplicate-token"] == 2


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"size": "huge"}, "'huge' is unknown"),
        ({"size": "tiny", "head": "L0H3"}, "layer 0"),
        ({"size": "tiny", "head": "L1H8"}, "L1H8 is outside the model"),
        ({"size": "small", "head": "L3H0"}, "L3H0 is outside the model"),
        ({"head": "1.5"}, "is malformed"),
        ({"head": "L1H5\n"}, "is malformed"),
        ({"seed": -1}, "negative"),
        ({"noise": -0.1}, "outside 0 to 10"),
        ({"skew": float("nan")}, "outside 0 to 10"),
    ],
)
def test_impossible_designs_are_refused(design: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PlantedDesign(**design)
    assert "\n" not in str(caught.value)
