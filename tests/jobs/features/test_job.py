"""The features job: its tables against transformers and NumPy, known owners, conventions, resume, plan and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from support.checkpoints import reference
from support.dictionaries import encoded, mixed_values, new_config, old_config, random_tensors, write
from support.families import make, raw_scores
from support.float64 import all_in_float64
from support.interruptions import Stopping, hashes

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.features import tables as declared
from qkatlas.jobs.features.job import FeaturesJob
from qkatlas.jobs.features.plan import plan_features
from qkatlas.jobs.features.spec import Features
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as command
from qkatlas.jobs.plan.shape import Shape, find_shape
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.features import logits, measures, meeting, on_text
from qkatlas.pipeline.features.attention import LayerHeads
from qkatlas.pipeline.features.dictionary import open_dictionaries
from qkatlas.pipeline.features.encoder import Encoder

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"length": 24, "windows": 12, "firings": 5, "top_k": 7}
N, H, F, T, W = 8, 8, 60, 24, 12


def job_of(folder: Path, directory: Path, **spec: Any) -> FeaturesJob:
    asked = Features(**{**SMALL, "directory": str(directory), **spec})
    return FeaturesJob(asked, Model.open("test", folder), open_dictionaries(directory))


def measure(folder: Path, directory: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    return submit(job_of(folder, directory, **spec), out=out, executor=executor or InProcessExecutor(), gpus=0)


def frame(run: Run, table: str) -> pd.DataFrame:
    return pd.read_parquet(str(run.folder / table))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries of a random model: of z in layers 1 and 2, and of what enters layer 1."""
    folder = tmp_path_factory.mktemp("sae")
    write(folder / "z1", new_config("jumprelu", "blocks.1.attn.hook_z", N * H, F), random_tensors("jumprelu", N * H, F),
          np.linspace(-4, -1, F).astype(np.float32))  # fmt: skip
    config = new_config("topk", "blocks.2.attn.hook_z", N * H, F, rescale_acts_by_decoder_norm=True)
    write(folder / "z2", config, random_tensors("topk", N * H, F, 1))
    write(folder / "r", old_config("standard", "blocks.1.hook_resid_pre", 64, F), random_tensors("standard", 64, F, 2))
    return folder


@pytest.fixture(scope="module")
def whole(worded_model: Path, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(worded_model, directory, tmp_path_factory.mktemp("whole"), convention="raw").run


class InModel:
    """What transformers says of the job's own windows, in float64."""

    def __init__(self, folder: Path, directory: Path) -> None:
        self.tokens_WT = job_of(folder, directory)._tokens_WT
        model = reference(folder)
        tokens = torch.from_numpy(self.tokens_WT)
        with all_in_float64():
            scores, _ = raw_scores(model, tokens)
        self.patterns = [layer.softmax(-1).numpy() for layer in scores]
        mixed, hidden = mixed_values(model, tokens)
        self.mixed, self.hidden = ([layer.numpy() for layer in part] for part in (mixed, hidden))
        self.weights = {name: tensor.astype(np.float64) for name, tensor in
                        load_file(folder / "model.safetensors").items()}  # fmt: skip

    def values(self, layer: int) -> np.ndarray:
        """Values [W, T, N, H]."""
        block = f"transformer.h.{layer}"
        x = self.hidden[layer]
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        normed = normed * self.weights[f"{block}.ln_1.weight"] + self.weights[f"{block}.ln_1.bias"]
        qkv = normed @ self.weights[f"{block}.attn.c_attn.weight"] + self.weights[f"{block}.attn.c_attn.bias"]
        return qkv[..., 2 * N * H :].reshape(*x.shape[:2], N, H)


@pytest.fixture(scope="module")
def in_model(worded_model: Path, directory: Path) -> InModel:
    return InModel(worded_model, directory)


def test_tables_are_there_and_say_what_their_schemas_say(whole: Run) -> None:
    assert soundness.faults(whole) == []
    expected = {
        "dictionaries": schemas.DICTIONARIES, "heads": schemas.HEADS, "qk_heads": schemas.QK_HEADS,
        "texts": schemas.TEXTS, "features/L1-z": schemas.features(7, N), "features/L1-residual": schemas.features(7, N),
        "contexts/L2-z": schemas.CONTEXTS, "dfa/L1-z": schemas.DFA, "attribution/L2H3": schemas.ATTRIBUTION,
        "qk/L1H7": schemas.qk(7),
    }  # fmt: skip
    for name, schema in expected.items():
        place = whole.folder / name
        (file,) = [whole.folder / f"{name}.parquet"] if "/" not in name else list(Path(place).glob("*.parquet"))
        found = pq.read_table(file, partitioning=None).schema
        assert found.names == schema.names, name
        for field in schema:
            same = found.field(field.name)
            # Parquet has a name of its own for what is in a list.
            assert str(same.type) == str(field.type).replace("item", "element"), field.name
            assert (same.metadata, same.nullable) == (field.metadata, field.nullable), field.name
    assert set(declared.DFA.kinds) == {declared.FEATURES}
    dictionaries = read_whole(whole, "dictionaries").to_pandas().set_index(["layer", "reads"])
    assert dictionaries.index.tolist() == [(1, "residual"), (1, "z"), (2, "z")]
    assert dictionaries["positions"].tolist() == [W * (T - 1)] * 3
    texts = read_whole(whole, "texts").to_pandas()
    assert len(texts) == W * T
    assert (texts[texts.position == 0].token_id == 1023).all()


@pytest.mark.parametrize("layer", [1, 2])
def test_features_are_those_of_numpy(whole: Run, directory: Path, in_model: InModel, layer: int) -> None:
    config = json.loads((directory / f"z{layer}" / "cfg.json").read_text())
    tensors = load_file(directory / f"z{layer}" / "sae_weights.safetensors")
    z_PX = in_model.mixed[layer][:, 1:].reshape(-1, N * H)
    active_PF, given_back_PX = encoded(config, tensors, z_PX)
    rows = frame(whole, "features").query("layer == @layer and reads == 'z'").set_index("feature").sort_index()
    assert len(rows) == F
    np.testing.assert_allclose(rows["density"], (active_PF > 0).mean(0), atol=1 / len(z_PX) + 1e-9)
    np.testing.assert_allclose(rows["activation_max"], active_PF.max(0), atol=1e-4)
    fvu = np.square(z_PX - given_back_PX).sum() / np.square(z_PX - z_PX.mean(0)).sum()
    (row,) = read_whole(whole, "dictionaries").to_pandas().query("layer == @layer and reads == 'z'").to_dict("records")
    assert row["fvu"] == row["fvu_raw"] == pytest.approx(fvu, rel=1e-4)
    assert row["conventions_differ"]
    assert row["l0"] == pytest.approx((active_PF > 0).sum(1).mean(), rel=1e-3)
    # Owners, by the norms of decoders.
    norms_FN = np.linalg.norm(tensors["W_dec"].astype(np.float64).reshape(F, N, H), axis=2)
    share_FN = norms_FN / norms_FN.sum(1, keepdims=True)
    np.testing.assert_allclose(np.stack(rows["head_shares"]), share_FN, atol=1e-6)
    np.testing.assert_array_equal(rows["head_top"], share_FN.argmax(1))
    np.testing.assert_allclose(rows["head_entropy"], -(share_FN * np.log(share_FN)).sum(1), rtol=1e-6)
    np.testing.assert_allclose(rows["heads_effective"], np.exp(rows["head_entropy"]))
    np.testing.assert_allclose(rows["decoder_norm"], np.linalg.norm(tensors["W_dec"], axis=1), rtol=1e-6)
    # Shares of the covariance of pre-activations, over all positions and where the feature fires.
    parts_PNF = np.einsum("pnh,nhf->pnf", z_PX.reshape(-1, N, H), tensors["W_enc"].astype(np.float64).reshape(N, H, F))
    for feature in range(0, F, 7):
        part_PN = parts_PNF[:, :, feature]
        for name, chosen in (("head_fve", slice(None)), ("head_fve_active", active_PF[:, feature] > 0)):
            some = part_PN[chosen]
            if len(some) < 2:
                assert rows.loc[feature, name] is None
                continue
            covariance = np.cov(np.column_stack([some.sum(1), some]).T)
            expected = covariance[0, 1:] / covariance[0, 0]
            np.testing.assert_allclose(rows.loc[feature, name], expected, atol=2e-3)
            assert sum(rows.loc[feature, name]) == pytest.approx(1, abs=1e-5)
        r2_N = [np.corrcoef(part_PN[:, head], part_PN.sum(1))[0, 1] ** 2 for head in range(N)]
        np.testing.assert_allclose(rows.loc[feature, "head_r2"], r2_N, atol=1e-3)
    if layer == 1:
        np.testing.assert_allclose(rows["density_trained"], 10.0 ** np.linspace(-4, -1, F), rtol=1e-5)
    else:
        assert rows["density_trained"].isna().all()


def test_logits_are_those_of_the_unembedding(whole: Run, directory: Path, in_model: InModel) -> None:
    w, layer = in_model.weights, 1
    tensors = load_file(directory / "z1" / "sae_weights.safetensors")
    written_FD = tensors["W_dec"].astype(np.float64) @ w[f"transformer.h.{layer}.attn.c_proj.weight"]
    written_FD -= written_FD.mean(1, keepdims=True)
    logits_FV = written_FD * w["transformer.ln_f.weight"] @ w["transformer.wte.weight"].T
    logits_FV -= logits_FV.mean(1, keepdims=True)
    rows = frame(whole, "features").query("layer == 1 and reads == 'z'").set_index("feature").sort_index()
    np.testing.assert_allclose(np.stack(rows["logit_top_values"]), -np.sort(-logits_FV)[:, :7], rtol=1e-4)
    np.testing.assert_allclose(np.stack(rows["logit_bottom_values"]), np.sort(logits_FV)[:, :7], rtol=1e-4)
    np.testing.assert_array_equal(np.stack(rows["logit_top_ids"])[:, 0], logits_FV.argmax(1))
    residual = load_file(directory / "r" / "sae_weights.safetensors")["W_dec"].astype(np.float64)
    residual -= residual.mean(1, keepdims=True)
    logits_FV = residual * w["transformer.ln_f.weight"] @ w["transformer.wte.weight"].T
    logits_FV -= logits_FV.mean(1, keepdims=True)
    rows = frame(whole, "features").query("reads == 'residual'").set_index("feature").sort_index()
    np.testing.assert_allclose(np.stack(rows["logit_top_values"]), -np.sort(-logits_FV)[:, :7], rtol=1e-4)
    assert rows["head_top"].isna().all()
    assert rows["head_shares"].isna().all()


def test_sources_are_those_of_transformers_attention(whole: Run, directory: Path, in_model: InModel) -> None:
    layer, tokens_WT = 1, in_model.tokens_WT
    tensors = load_file(directory / "z1" / "sae_weights.safetensors")
    read_NHF = tensors["W_enc"].astype(np.float64).reshape(N, H, F)
    value_WTNH = in_model.values(layer)
    contexts = frame(whole, "contexts").query("layer == 1 and reads == 'z'")
    dfa = frame(whole, "dfa").query("layer == 1")
    pre_WTF = in_model.mixed[1] @ tensors["W_enc"].astype(np.float64) + (
        tensors["b_enc"] - tensors["b_dec"].astype(np.float64) @ tensors["W_enc"].astype(np.float64)
    )
    constant_F = tensors["b_enc"] - tensors["b_dec"].astype(np.float64) @ tensors["W_enc"].astype(np.float64)
    for feature, own in list(contexts.groupby("feature"))[:20]:
        assert own["rank"].tolist() == list(range(1, len(own) + 1))
        assert (np.diff(own["activation"]) <= 0).all()
        sums: dict[tuple[str, int], list[float]] = {}
        for row in own.itertuples():
            w, n = row.window, row.position
            assert row.token_id == tokens_WT[w, n]
            assert row.activation == pytest.approx(pre_WTF[w, n, feature], abs=1e-4)
            dfa_NT = in_model.patterns[layer][w, :, n] * np.einsum("tnh,nh->nt", value_WTNH[w], read_NHF[:, :, feature])
            assert dfa_NT.sum() + constant_F[feature] == pytest.approx(pre_WTF[w, n, feature], abs=1e-6)
            positive_T = np.maximum(dfa_NT.sum(0), 0)
            assert row.source_position == positive_T.argmax()
            assert row.source_token_id == tokens_WT[w, positive_T.argmax()]
            assert row.source_head == dfa_NT[:, positive_T.argmax()].argmax()
            assert row.source_share == pytest.approx(positive_T.max() / positive_T.sum(), abs=1e-4)
            for name, holds_T in relations_by_hand(tokens_WT[w], n).items():
                found = sums.setdefault(name, [0.0, 0.0, 0.0])
                found[0] += positive_T[holds_T].sum() / positive_T.sum() / len(own)
                found[1] += holds_T.sum() / (n + 1) / len(own)
                found[2] += holds_T[positive_T.argmax()] / len(own)
        rows = dfa[dfa.feature == feature]
        assert len(rows) == sum(chance > 0 for _, chance, _ in sums.values())
        for row in rows.itertuples():
            share, chance, best = sums[row.source, -1 if np.isnan(row.value) else int(row.value)]
            assert row.share == pytest.approx(share, abs=1e-4)
            assert row.chance == pytest.approx(chance, abs=1e-9)
            assert row.best_share == pytest.approx(best, abs=1e-9)
            assert row.firings == len(own)


def relations_by_hand(tokens_T: np.ndarray, n: int) -> dict[tuple[str, int], np.ndarray]:
    """What each source is to a destination, pair by pair."""
    found: dict[tuple[str, int], np.ndarray] = {}
    starts = [0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512]
    for i in range(n + 1):
        names: list[tuple[str, int]] = []
        if i == 0:
            names.append(("bos", -1))
        else:
            names.append(("offset", max(start for start in starts if start <= n - i)))
            if i < n and tokens_T[i] == tokens_T[n]:
                names.append(("same_token", -1))
            length = 0
            while i < n and i - 1 - length >= 1 and tokens_T[i - 1 - length] == tokens_T[n - length]:
                length += 1
            if length:
                names += [("induction", -1), ("prefix", min(length, 8))]
        for name in names:
            found.setdefault(name, np.zeros(len(tokens_T), np.bool_))[i] = True
    return found


def test_rows_of_heads_follow_from_those_of_features(whole: Run, directory: Path) -> None:
    features = frame(whole, "features").query("reads == 'z'").set_index(["layer", "feature"]).sort_index()
    heads = read_whole(whole, "heads").to_pandas()
    attribution = frame(whole, "attribution")
    assert len(heads) == 2 * N
    assert len(attribution) == 2 * N * F
    for row in heads.itertuples():
        shares = np.stack(features.loc[row.layer]["head_shares"])[:, row.head]
        order = np.lexsort((np.arange(F), -shares))
        np.testing.assert_array_equal(row.top_features, order[:10])
        own = attribution[(attribution.layer == row.layer) & (attribution["head"] == row.head)]
        assert own["rank"].tolist() == list(range(1, F + 1))
        np.testing.assert_array_equal(own["feature"], order)
        np.testing.assert_allclose(own["share"], shares[order], rtol=1e-6)
        fve = np.stack(features.loc[row.layer]["head_fve"])[:, row.head]
        np.testing.assert_allclose(own["fve"], fve[order], rtol=1e-6)
        chosen = features.loc[row.layer].iloc[order[:10]]
        assert row.top10_share == pytest.approx(shares[order[:10]].mean())
        assert row.top10_entropy == pytest.approx(chosen["head_entropy"].mean())
        assert row.top10_density == pytest.approx(chosen["density"].mean())
        assert row.monosemantic_candidate == (row.views_passed >= 2)
        w_enc = load_file(directory / f"z{row.layer}" / "sae_weights.safetensors")["W_enc"].astype(np.float64)
        unit = (w_enc / np.linalg.norm(w_enc, axis=0))[:, order[:10]]
        cosines = unit.T @ unit
        assert row.encoder_similarity == pytest.approx(cosines[np.triu_indices(10, 1)].mean(), abs=1e-6)


def test_features_of_a_residual_stream_meet_tokens(whole: Run, directory: Path, in_model: InModel) -> None:
    w = in_model.weights
    rows = read_whole(whole, "qk_heads").to_pandas().set_index("head")
    qk = frame(whole, "qk")
    assert len(qk) == N * (2 * F + 1024)
    assert (rows["gap"] < 1e-10).all()
    w_dec = load_file(directory / "r" / "sae_weights.safetensors")["W_dec"].astype(np.float64)
    x_VD = w["transformer.wte.weight"]
    # States `mlp` in front of layer 1.
    centred = x_VD - x_VD.mean(1, keepdims=True)
    inner = (
        centred / np.sqrt(x_VD.var(1, keepdims=True) + 1e-5) * w["transformer.h.0.ln_2.weight"]
        + w["transformer.h.0.ln_2.bias"]
    )
    pre = inner @ w["transformer.h.0.mlp.c_fc.weight"] + w["transformer.h.0.mlp.c_fc.bias"]
    x_VD = (
        x_VD
        + (0.5 * pre * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3))))
        @ w["transformer.h.0.mlp.c_proj.weight"]
        + w["transformer.h.0.mlp.c_proj.bias"]
    )
    gain, shift = w["transformer.h.1.ln_1.weight"], w["transformer.h.1.ln_1.bias"]
    normed_VD = (x_VD - x_VD.mean(1, keepdims=True)) / np.sqrt(x_VD.var(1, keepdims=True) + 1e-5) * gain + shift
    qkv, bias = w["transformer.h.1.attn.c_attn.weight"], w["transformer.h.1.attn.c_attn.bias"]
    sigma = np.sqrt(in_model.hidden[1][:, 1:].var(-1) + 1e-5).reshape(-1)
    for head in (0, 5):
        assert rows.loc[head, "scale_query"] == pytest.approx(1 / np.median(sigma), rel=1e-2)
        query, key = (slice(part * N * H + head * H, part * N * H + (head + 1) * H) for part in (0, 1))
        centred_FD = (w_dec - w_dec.mean(1, keepdims=True)) * gain
        queries_FH = centred_FD @ qkv[:, query] * rows.loc[head, "scale_query"]
        keys_FH = centred_FD @ qkv[:, key] * rows.loc[head, "scale_key"]
        queries_VH, keys_VH = (normed_VD @ qkv[:, own] + bias[own] for own in (query, key))
        for kind, scores in (
            ("feature_to_token", queries_FH @ keys_VH.T), ("token_to_feature", queries_VH @ keys_FH.T),
            ("feature_to_feature", queries_FH @ keys_FH.T),
        ):  # fmt: skip
            own = qk[(qk["head"] == head) & (qk.kind == kind)].sort_values("query_id")
            found = np.stack(own["scores"])
            expected = -np.sort(-scores / np.sqrt(H))[:, :7]
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_both_configurations_are_one_run(worded_model: Path, tmp_path: Path) -> None:
    tensors = random_tensors("topk", N * H, F, 1)
    hook = "blocks.2.attn.hook_z"
    names = []
    for name, config in (("new", new_config("topk", hook, N * H, F)), ("old", old_config("topk", hook, N * H, F))):
        write(tmp_path / name, config, tensors)
        names.append(measure(worded_model, tmp_path / name, tmp_path / "runs").run.folder.name)
    assert names[0] == names[1]
    nudged = {**tensors, "b_enc": tensors["b_enc"] + np.float32(0.01)}
    write(tmp_path / "nudged", new_config("topk", hook, N * H, F), nudged)
    assert measure(worded_model, tmp_path / "nudged", tmp_path / "runs").run.folder.name != names[0]


def test_the_convention_is_measured(worded_model: Path, in_model: InModel, tmp_path: Path) -> None:
    """A dictionary trained on folded activations: those of a model whose value biases went to the output bias."""
    w, layer = in_model.weights, 2
    block = f"transformer.h.{layer}"
    values = slice(2 * N * H, 3 * N * H)
    constant_X = (
        w[f"{block}.attn.c_attn.bias"][values] + w[f"{block}.ln_1.bias"] @ w[f"{block}.attn.c_attn.weight"][:, values]
    )
    folded_PX = in_model.mixed[layer][:, 1:].reshape(-1, N * H) - constant_X
    mean_X = folded_PX.mean(0)
    _, _, basis_XX = np.linalg.svd(folded_PX - mean_X, full_matrices=False)
    tensors = {
        "W_enc": np.concatenate([basis_XX, -basis_XX]).T, "W_dec": np.concatenate([basis_XX, -basis_XX]),
        "b_enc": np.zeros(2 * N * H), "b_dec": mean_X,
    }  # fmt: skip
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    config = new_config("topk", f"blocks.{layer}.attn.hook_z", N * H, 2 * N * H, k=16)
    write(tmp_path / "sae", config, tensors)
    run = measure(worded_model, tmp_path / "sae", tmp_path / "runs").run
    (row,) = read_whole(run, "dictionaries").to_pylist()
    assert row["convention"] == "folded"
    assert row["fvu"] == row["fvu_folded"] < row["fvu_raw"]
    _, given_back_PX = encoded(config, tensors, folded_PX)
    expected = np.square(folded_PX - given_back_PX).sum() / np.square(folded_PX - mean_X).sum()
    assert row["fvu_folded"] == pytest.approx(expected, rel=1e-3)
    # Sources count by the same values: those without the constant.
    value_WTNH = in_model.values(layer) - constant_X.reshape(N, H)
    read_NHF = tensors["W_enc"].astype(np.float64).reshape(N, H, -1)
    strongest = frame(run, "contexts").query("rank == 1")
    assert len(strongest) > 100
    raw_differs = 0
    for firing in strongest.itertuples():
        w, n = firing.window, firing.position
        shares = []
        for values in (value_WTNH, in_model.values(layer)):
            read_NT = np.einsum("tnh,nh->nt", values[w], read_NHF[:, :, firing.feature])
            positive_T = np.maximum((in_model.patterns[layer][w, :, n] * read_NT).sum(0), 0)
            shares.append(positive_T.max() / max(positive_T.sum(), 1e-30))
        assert firing.source_share == pytest.approx(shares[0], abs=1e-4)
        raw_differs += abs(shares[1] - shares[0]) > 1e-3
    assert raw_differs > 50
    asked = measure(worded_model, tmp_path / "sae", tmp_path / "runs", convention="raw").run
    (other,) = read_whole(asked, "dictionaries").to_pylist()
    assert (other["convention"], other["fvu"]) == ("raw", row["fvu_raw"])


def test_a_run_that_is_stopped_goes_on(worded_model: Path, directory: Path, whole: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(worded_model, directory, tmp_path, Stopping(12), convention="raw")
    result = measure(worded_model, directory, tmp_path, convention="raw")
    assert 0 < result.computed < 6 + 3 * N
    assert hashes(result.run) == hashes(whole)
    assert measure(worded_model, directory, tmp_path, convention="raw").computed == 0


def test_no_product_is_shared_by_threads(
    worded_model: Path, directory: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small products are the same however they are shared, so that it is where each is made that is looked at."""
    seen: dict[str, set[int]] = {}

    def watched(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watch(*arguments: Any, **named: Any) -> Any:
            seen.setdefault(name, set()).add(torch.get_num_threads())
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, watch)

    for name in ("patterns", "values", "constant"):
        watched(LayerHeads, name)
    for name in ("read", "encode", "input", "written"):
        watched(Encoder, name)
    for owner, name in (
        (measures, "written_rows"), (measures, "normalise"), (measures, "explained"), (meeting, "feature_vectors"),
        (meeting, "side_parts"), (logits, "unit_rows"), (on_text, "folded"),
    ):  # fmt: skip
        watched(owner, name)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run = measure(worded_model, directory, tmp_path, convention="raw").run
        assert hashes(run) == hashes(whole)
        measure(worded_model, directory, tmp_path, convention="folded")
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 14
    assert seen == {name: {1} for name in seen}


@pytest.mark.cluster
def test_ray_leaves_the_same_files(worded_model: Path, directory: Path, whole: Run, tmp_path: Path) -> None:
    asked = ["--length", "24", "--windows", "12", "--firings", "5", "--top-k", "7", "--convention", "raw", "--quiet"]
    out = ["--model", str(worded_model), "--out", str(tmp_path), "--ray"]
    assert command(["features", str(directory), *out, *asked]) == 0
    (folder,) = tmp_path.iterdir()
    assert hashes(Run(folder)) == hashes(whole)


def test_a_plan_has_the_shards_and_tables_of_the_run(worded_model: Path, directory: Path, whole: Run) -> None:
    spec = Features(**SMALL, directory=str(directory))
    plan = plan_features(Shape.read(worded_model), spec)
    manifest = whole.manifest()
    assert manifest is not None
    assert list(plan.shards) == [committed.shard for committed in manifest.shards]
    rows = {table.name: table for table in plan.tables}
    for name in ("features", "attribution", "heads", "qk", "qk_heads", "dictionaries", "texts", "tokens"):
        assert rows[name].rows == read_whole(whole, name).num_rows, name
    assert rows["contexts"].rows >= read_whole(whole, "contexts").num_rows
    planted = plan_features(find_shape("planted-tiny"), Features())
    assert len(planted.shards) == 4 + 4 * 8


def test_every_family_has_features(planted_tiny: Path, tmp_path: Path) -> None:
    """Grouped queries, rotary positions, RMSNorm, norms of heads, a soft cap: from the first shard to the manifest."""
    for variant, (n_heads, width) in {"qwen3-biases": (6, 8), "gemma-2": (6, 10)}.items():
        folder = make(variant, tmp_path / variant, vocab_size=1024, bos_token_id=1023, eos_token_id=1023)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(planted_tiny / file, folder / file)
        x = n_heads * width
        write(tmp_path / f"{variant}-sae" / "z", new_config("gated", "blocks.1.attn.hook_z", x, 40),
              random_tensors("gated", x, 40))  # fmt: skip
        write(tmp_path / f"{variant}-sae" / "r", new_config("topk", "blocks.0.hook_resid_post", 48, 40),
              random_tensors("topk", 48, 40))  # fmt: skip
        run = measure(folder, tmp_path / f"{variant}-sae", tmp_path / "runs", windows=4).run
        assert soundness.faults(run) == []
        heads = read_whole(run, "qk_heads").to_pandas()
        assert (heads["gap"] < 1e-10).all()
        assert heads["score_std"].min() > 0.01
        fve = np.stack(frame(run, "features").query("reads == 'z'")["head_fve"])
        np.testing.assert_allclose(fve.sum(1), 1, atol=1e-5)
        differ = read_whole(run, "dictionaries").to_pandas().set_index("reads")["conventions_differ"]
        assert differ["z"] == (variant == "qwen3-biases")  # the other has no value biases
        assert not differ["residual"]  # which RMSNorm reads as it is


REFUSED = {
    "shape": (N * H, {"d_in": 63}, "tensor W_enc of"),
    "width": (N * H + 8, {}, "reads 72 numbers, but z of model"),
    "layer": (N * H, {"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, "and the model has layers 0 to 2"),
    "architecture": (N * H, {"architecture": "matching_pursuit"}, "architecture 'matching_pursuit', which is not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line_and_exit_code_2(
    case: str, worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    width, changes, message = REFUSED[case]
    config = {**new_config("standard", "blocks.1.attn.hook_z", width, F), **changes}
    write(tmp_path / "sae", config, random_tensors("standard", width, F))
    asked = ["features", str(tmp_path / "sae"), "--model", str(worded_model), "--out", str(tmp_path), "--in-process"]
    assert command(asked) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize(("asked", "message"), [
    (["--layers", "0"], "--layers 0 have no dictionary; there are those of layers 1, 1, 2"),
    (["--windows", "9999"], "--windows 9999 of 64 positions are more than"),
    (["--length", "65"], "--length 65 is more than the 64 positions"),
    (["--offset", "2"], "has no meaning in a gpt2 model"),
    (["--top-k", "5000"], "more than the vocabulary holds"),
    (["--convention", "both"], "choose one of"),
])  # fmt: skip
def test_requests_that_cannot_be_met(
    asked: list[str], message: str, worded_model: Path, directory: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where = [str(directory), "--model", str(worded_model), "--out", str(tmp_path), "--in-process"]
    assert command(["features", *where, *asked]) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_ones_own_comes_without_dictionaries(
    worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["features", "--model", str(worded_model), "--out", str(tmp_path), "--in-process"]) == 2
    assert "comes without dictionaries of features; give SAE_DIR" in capsys.readouterr().err
