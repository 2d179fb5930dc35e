"""The decomposition against NumPy written out pair by pair: exact means and factors, waves, sources, and patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.positions import LENGTH, TOKENS, WIDTH, architecture, head, rows, windows

from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.positions.columns import Kernel, head_columns
from qkatlas.pipeline.positions.comparison import PATTERNS, compare, comparison_columns
from qkatlas.pipeline.positions.decomposition import Decomposition
from qkatlas.pipeline.positions.embedded import ExactKeys, mean_heads
from qkatlas.pipeline.positions.exact_source import exact_factors, exact_means, from_weights
from qkatlas.pipeline.positions.means import Waves
from qkatlas.pipeline.positions.prefix_source import behind_prefix
from qkatlas.pipeline.positions.text_source import from_text, means_of_windows
from qkatlas.pipeline.positions.windows import Windows

ROTARY = Rotary(width=6, theta=50.0)  # two of eight numbers are not turned
LAST = LENGTH - 1


def turn(values_H: np.ndarray, angle: float) -> np.ndarray:
    """Rotary positions written out: numbers j and j + 3 by angle times their frequency."""
    found = values_H.copy()
    for j in range(3):
        w = angle * ROTARY.frequencies()[j]
        found[j] = values_H[j] * np.cos(w) - values_H[j + 3] * np.sin(w)
        found[j + 3] = values_H[j + 3] * np.cos(w) + values_H[j] * np.sin(w)
    return found


def soft(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max())
    return np.asarray(weight / weight.sum())


class Brute:
    """Layer 0 of learned positions: every key of every token at every position."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.rows, self.weights = rows(rng), head(rng)
        weight_V = rng.uniform(size=TOKENS)
        weight_V[0] = 0
        self.weight_V = weight_V / weight_V.sum()
        x_VTD = self.rows.token_VD.astype(float)[:, None] + self.rows.position_TD
        x_VTD -= x_VTD.mean(-1, keepdims=True)
        x_VTD /= np.sqrt((x_VTD**2).mean(-1, keepdims=True) + 1e-5)
        both = (x_VTD * self.weights.gain_D + self.weights.shift_D) @ self.weights.w_qk_D2H + self.weights.b_qk_2H
        self.query_VTH, self.key_VTH = both[..., :WIDTH], both[..., WIDTH:]
        self.input_TD = np.einsum("v,vtd->td", self.weight_V, x_VTD)
        self.query_TH, self.kbar_TH = (np.einsum("v,vth->th", self.weight_V, of) for of in both.reshape(
            TOKENS, LENGTH, 2, WIDTH).transpose(2, 0, 1, 3))  # fmt: skip
        tokens_BT = rng.integers(1, TOKENS, (4, LENGTH))
        tokens_BT[:, 0] = 0
        at = np.arange(LENGTH)
        self.held = Windows(
            tokens_BT=tokens_BT,
            query_BTH=torch.from_numpy(self.query_VTH[tokens_BT, at]),
            key_BTH=torch.from_numpy(self.key_VTH[tokens_BT, at]),
        )

    def taken_apart(self, destination: int | None = None) -> Decomposition:
        a = architecture()
        input_TD = self.rows.mean_input(self.weight_V, threads=1)
        means, average = exact_means(self.weights, a, self.rows, input_TD, destination=destination)
        (factors,) = exact_factors([(self.weights, means)], self.rows, self.weight_V, threads=1)
        return from_weights(self.weights, means, average, factors, self.rows, self.weight_V, self.held)


@pytest.fixture(scope="module")
def brute() -> Brute:
    return Brute()


def test_exact_means_equal_brute_force(brute: Brute) -> None:
    input_TD = brute.rows.mean_input(brute.weight_V, threads=1)
    np.testing.assert_allclose(input_TD, brute.input_TD, atol=1e-14)
    query_TH, key_TH = mean_heads(brute.weights, input_TD)
    np.testing.assert_allclose(query_TH, brute.query_TH, atol=1e-13)
    np.testing.assert_allclose(key_TH, brute.kbar_TH, atol=1e-13)


def test_exact_scores_and_factors_equal_brute_force(brute: Brute) -> None:
    found = brute.taken_apart()
    token_UD, position_TD = brute.rows.tokens(slice(None)), brute.rows.positions()
    keys = ExactKeys.of(brute.weights, token_UD, position_TD, brute.rows.inverse_scale(token_UD, position_TD))
    s_VT = brute.weights.scale * np.einsum("h,vth->vt", brute.query_TH[LAST], brute.key_VTH)
    query_1H = torch.from_numpy(brute.query_TH[LAST][None])
    np.testing.assert_allclose(keys.scores(query_1H)[0], s_VT, atol=1e-13)
    kappa_T = brute.weights.scale * brute.kbar_TH @ brute.query_TH[LAST]
    p_T = np.r_[0, soft(kappa_T[1:])]
    c_VT = s_VT - kappa_T
    known = np.arange(1, TOKENS)
    np.testing.assert_array_equal(found.factors.token_ids_X, known)
    np.testing.assert_allclose(found.factors.ln_f_X, (c_VT @ p_T)[known], atol=1e-12)
    assert brute.weight_V @ c_VT @ p_T == pytest.approx(0, abs=1e-12)
    assert found.factors.variance == pytest.approx(brute.weight_V @ c_VT**2 @ p_T, rel=1e-10)
    f_V = np.exp(c_VT @ p_T)
    assert found.factors.mean == pytest.approx(brute.weight_V @ f_V)
    assert found.factors.std == pytest.approx(np.sqrt(brute.weight_V @ (f_V - brute.weight_V @ f_V) ** 2))


def expected_patterns(
    real: np.ndarray, own: tuple[np.ndarray, np.ndarray], fixed: tuple[np.ndarray, np.ndarray]
) -> tuple[dict[str, float], dict[str, float], float]:
    """Distances, divergences and sum p f of one destination: real scores; kappa and ln f of each query."""
    p = soft(real)
    factorised, whole = soft(own[0] + own[1]), soft(fixed[0] + fixed[1])
    guesses = {"factorised": factorised, "fixed": whole, "position": soft(fixed[0]), "content": soft(own[1]),
               "uniform": np.full(len(p), 1 / len(p))}  # fmt: skip
    distances = {name: 0.5 * np.abs(p - guess).sum() for name, guess in guesses.items()}
    divergences = {name: (p * np.log(p / guess)).sum() for name, guess in guesses.items()}
    return distances, divergences, float((soft(fixed[0]) * np.exp(fixed[1])).sum())


def check_comparison(decomposition: Decomposition, held: Windows, pairs: Callable[..., tuple]) -> None:
    """All measures of `compare`, from `pairs(window, destination)`: real scores, and kappa and ln f of both queries."""
    found = compare(decomposition.means, decomposition.content, held, threads=2)
    expected: dict[tuple[str, str], np.ndarray] = {
        (kind, name): np.empty(found.bos_share.shape) for kind in ("tv", "kl") for name in PATTERNS
    }
    d_BR, whole = np.empty(found.bos_share.shape), {}
    for b in range(len(held.tokens_BT)):
        for r, n in enumerate(found.destination_R):
            bos, real, own, fixed = pairs(b, n)
            distances, divergences, d_BR[b, r] = expected_patterns(real, own, fixed)
            whole[b, r] = soft(real), soft(fixed[0] + fixed[1])
            for name in distances:
                expected["tv", name][b, r], expected["kl", name][b, r] = distances[name], divergences[name]
            assert found.bos_share[b, r] == pytest.approx(soft(np.r_[bos, real])[0], abs=1e-12)
            assert found.width[b, r] == pytest.approx(1 / (soft(real) ** 2).sum())
            same = held.tokens_BT[b, 1:n] == held.tokens_BT[b, n]
            if same.any():
                assert found.equal_share[b, r] == pytest.approx(soft(real)[:-1][same].sum())
            else:
                assert np.isnan(found.equal_share[b, r])
    np.testing.assert_allclose(found.denominator, d_BR, rtol=1e-10)
    for b in range(len(d_BR)):
        others_R = np.delete(d_BR, b, axis=0).mean(axis=0)
        for r in range(len(others_R)):
            p, guess = whole[b, r][0], whole[b, r][1] * d_BR[b, r] / others_R[r]
            expected["tv", "denominator"][b, r] = 0.5 * np.abs(p - guess).sum()
            expected["kl", "denominator"][b, r] = (p * np.log(p / guess) - p + guess).sum()
    columns = comparison_columns(found)
    for name in PATTERNS:
        np.testing.assert_allclose(found.distance[name], expected["tv", name], atol=1e-10)
        np.testing.assert_allclose(found.divergence[name], expected["kl", name], atol=1e-10)
        assert columns[f"tv_{name}"] == pytest.approx(np.median(expected["tv", name]))
        assert columns[f"kl_{name}"] == pytest.approx(np.mean(expected["kl", name]))
    late = found.destination_R >= LAST // 4
    assert columns["denominator_mean"] == pytest.approx(d_BR[:, late].mean())
    assert columns["denominator_cv_between"] == pytest.approx(
        np.mean([np.std(d) / np.mean(d) for d in d_BR[:, late].T])
    )
    assert columns["denominator_cv_within"] == pytest.approx(np.mean([np.std(d) / np.mean(d) for d in d_BR[:, late]]))


def test_patterns_of_exact_means_equal_brute_force(brute: Brute) -> None:
    s, held = brute.weights.scale, brute.held

    def pairs(b: int, n: int) -> tuple:
        i, u = np.arange(1, n + 1), held.tokens_BT[b, 1 : n + 1]

        def parts(query_H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            kappa = s * brute.kbar_TH[i] @ query_H
            c_UI = s * np.einsum("h,uih->ui", query_H, brute.key_VTH[u][:, i]) - kappa
            return kappa, c_UI @ soft(kappa)

        query_H = brute.query_VTH[held.tokens_BT[b, n], n]
        real = s * brute.key_VTH[u, i] @ query_H
        return s * brute.key_VTH[0, 0] @ query_H, real, parts(query_H), parts(brute.query_TH[n])

    check_comparison(brute.taken_apart(), held, pairs)


def test_patterns_of_text_under_rotary_positions_equal_brute_force() -> None:
    rng = np.random.default_rng(5)
    weights, text = head(rng, ROTARY), windows(rng, 10)
    fitted, held = text[:6], text[6:]
    a, s = architecture(ROTARY), weights.scale
    query_H, key_H = (of[:, 1:].reshape(-1, WIDTH).mean(0).numpy() for of in (fitted.query_BTH, fitted.key_BTH))

    def parts(query_H: np.ndarray, b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        turned = np.array([turn(query_H, n - i) for i in range(1, n + 1)])
        kappa = s * turned @ key_H
        rotated = soft(kappa) @ turned
        return kappa, s * (held.key_BTH[b, 1 : n + 1].numpy() - key_H) @ rotated

    def pairs(b: int, n: int) -> tuple:
        own = held.query_BTH[b, n].numpy()
        real = [s * turn(own, n - i) @ held.key_BTH[b, i].numpy() for i in range(n + 1)]
        return real[0], np.array(real[1:]), parts(own, b, n), parts(query_H, b, n)

    found = from_text(weights, a, 0, fitted, held, destination=None)
    check_comparison(found, held, pairs)
    kappa, _ = parts(query_H, 0, LAST)
    p = soft(kappa)
    turned = [turn(query_H, LAST - i) for i in range(1, LAST + 1)]
    deviation_XH = fitted.key_BTH[:, 1:].reshape(-1, WIDTH).numpy() - key_H
    c_XT = s * deviation_XH @ np.array(turned).T
    assert found.factors.variance == pytest.approx((c_XT**2 @ p).mean())
    token_X = fitted.tokens_BT[:, 1:].reshape(-1)
    for token, ln_f in zip(found.factors.token_ids_X, found.factors.ln_f_X, strict=True):
        assert ln_f == pytest.approx((c_XT @ p)[token_X == token].mean(), abs=1e-12)


@pytest.mark.parametrize("factor", [1.0, 1.7])
def test_waves_are_the_kernel_in_closed_form(factor: float) -> None:
    rng = np.random.default_rng(2)
    rotary = Rotary(
        width=6, theta=50.0, scaling="yarn",
        settings=(("attention_factor", factor), ("factor", 1.0), ("original_max_position_embeddings", 16)),
    )  # fmt: skip
    means = means_of_windows(head(rng, rotary), architecture(rotary), 0, windows(rng))
    waves = Waves.of(means)
    query_H, key_H = means.query_TH[0].numpy(), means.key_TH[0].numpy()
    a, b, c, d = query_H[:3], query_H[3:6], key_H[:3], key_H[3:6]
    w = rotary.frequencies()
    for offset in (0, 1, 7, 20):
        cosine, sine = np.cos(w * offset), np.sin(w * offset)
        turned = ((a * c + b * d) * cosine - (b * c - a * d) * sine).sum() * factor**2
        expected = means.scale * (turned + query_H[6:] @ key_H[6:])
        assert waves.kappa(np.array([float(offset)]))[0] == pytest.approx(expected, abs=1e-12)
        wrong = means.scale * (((a * c + b * d) * cosine + (b * c - a * d) * sine).sum() + query_H[6:] @ key_H[6:])
        assert offset == 0 or abs(wrong - expected) > 1e-3
    kappa_T = means.kappa(means.query_TH, np.array([LAST]))[0].numpy()
    np.testing.assert_allclose(waves.kappa(np.arange(LAST, -1, -1.0)), kappa_T, atol=1e-12)
    assert (waves.amplitude_J >= 0).all()


def test_keys_that_are_the_mean_have_no_content(brute: Brute) -> None:
    rng = np.random.default_rng(7)
    key_TH = torch.from_numpy(rng.standard_normal((LENGTH, WIDTH)))
    text = windows(rng, 8, key_BTH=key_TH.expand(8, -1, -1))
    weights = head(rng)
    found = from_text(weights, architecture(), 1, text[:6], text[6:], destination=None)
    compared = compare(found.means, found.content, text[6:], threads=1)
    np.testing.assert_allclose(compared.denominator, 1, atol=1e-12)
    row = head_columns(found, Kernel.of(found), compared, threads=1)
    assert row["content_share"] == pytest.approx(0, abs=1e-12)
    assert row["denominator_cv_model"] == pytest.approx(0, abs=1e-12)
    assert row["reliability"] < 1  # queries differ
    assert row["tv_factorised"] is None
    assert row["tv_fixed"] == pytest.approx(row["tv_position"])


def test_content_of_text_varies_about_the_mean_of_its_own_position() -> None:
    rng = np.random.default_rng(8)
    weights, text = head(rng), windows(rng, 9)
    fitted = text[:6]
    found = from_text(weights, architecture(), 1, fitted, text[6:], destination=None)
    query_H, key_TH = fitted.query_BTH.mean(0)[LAST].numpy(), fitted.key_BTH.mean(0).numpy()
    p = soft(weights.scale * key_TH[1:] @ query_H)
    score_BT = weights.scale * fitted.key_BTH.numpy() @ query_H
    assert found.factors.variance == pytest.approx(p @ score_BT[:, 1:].var(axis=0, ddof=1))
    c_X = (score_BT - score_BT.mean(0))[:, 1:].ravel()
    token_X = fitted.tokens_BT[:, 1:].ravel()
    expected = [c_X[token_X == token].mean() for token in found.factors.token_ids_X]
    np.testing.assert_allclose(found.factors.ln_f_X, expected, atol=1e-12)


def test_a_chosen_destination_is_that_tokens_query(brute: Brute) -> None:
    found = brute.taken_apart(destination=11)
    np.testing.assert_allclose(found.means.query_TH, brute.query_VTH[11], atol=1e-12)
    np.testing.assert_allclose(found.average.query_TH, brute.query_TH, atol=1e-12)
    rng = np.random.default_rng(1)
    text = windows(rng, 8)
    token = int(text.tokens_BT[0, 5])
    from_windows = from_text(head(rng), architecture(), 1, text[:6], text[6:], destination=token)
    fitted = text[:6]
    beside = fitted.query_BTH - fitted.query_BTH.mean(0)
    own = beside[:, 1:][torch.from_numpy(fitted.tokens_BT[:, 1:] == token)].mean(0)
    np.testing.assert_allclose(from_windows.means.query_TH, fitted.query_BTH.mean(0) + own, atol=1e-12)


def test_dependence_on_the_destination_is_counted_token_by_token(brute: Brute) -> None:
    found = brute.taken_apart()
    compared = compare(found.means, found.content, brute.held, threads=1)
    row = head_columns(found, Kernel.of(found), compared, threads=1)
    s = brute.weights.scale
    mean = soft(s * brute.kbar_TH[1:] @ brute.query_TH[LAST])
    distance_V = np.array(
        [0.5 * np.abs(soft(s * brute.kbar_TH[1:] @ brute.query_VTH[u, LAST]) - mean).sum() for u in range(TOKENS)]
    )
    assert row["destination_dependence"] == pytest.approx(brute.weight_V @ distance_V)
    order = np.argsort(distance_V[1:]) + 1
    assert row["deviant_tokens"] == order[::-1][:5].tolist()
    factors, kappa = found.factors, s * brute.kbar_TH[1:] @ brute.query_TH[LAST]
    assert row["denominator_cv_model"] == pytest.approx(factors.std / factors.mean * np.sqrt((mean**2).sum()))
    of_kappa = mean @ kappa**2 - (mean @ kappa) ** 2
    assert row["content_share"] == pytest.approx(factors.variance / (factors.variance + of_kappa))
    assert row["content_std"] == pytest.approx(np.sqrt(factors.variance))
    reached = np.cumsum(brute.weight_V[order]) >= 0.9
    assert row["destination_dependence_p90"] == pytest.approx(distance_V[order][reached][0])
    assert row["reliability"] == 1


def test_means_behind_a_prefix_are_those_of_all_tokens() -> None:
    rng = np.random.default_rng(4)
    weights, a = head(rng, ROTARY), architecture(ROTARY)
    states_VD = rng.standard_normal((TOKENS, 20)).astype(np.float32)
    weight_V = np.r_[0, rng.uniform(size=TOKENS - 1)]
    weight_V /= weight_V.sum()
    held = windows(rng, 3)
    found = behind_prefix(weights, a, 0, states_VD, weight_V, held, destination=None, threads=2)
    x_VD = states_VD.astype(float) - states_VD.astype(float).mean(1, keepdims=True)
    x_VD /= np.sqrt((x_VD**2).mean(1, keepdims=True) + 1e-5)
    both = (x_VD * weights.gain_D + weights.shift_D) @ weights.w_qk_D2H + weights.b_qk_2H
    query_VH, key_VH = both[:, :WIDTH], both[:, WIDTH:]
    np.testing.assert_allclose(found.means.query_TH[0], weight_V @ query_VH, atol=1e-12)
    np.testing.assert_allclose(found.means.key_TH[0], weight_V @ key_VH, atol=1e-12)
    even = weight_V * (np.arange(TOKENS) % 2 == 0)
    assert found.halves is not None
    np.testing.assert_allclose(found.halves[0].key_TH[0], even @ key_VH / even.sum(), atol=1e-12)
    turned = np.array([turn(weight_V @ query_VH, LAST - i) for i in range(1, LENGTH)])
    c_VT = weights.scale * (key_VH - weight_V @ key_VH) @ turned.T
    p = soft(weights.scale * turned @ (weight_V @ key_VH))
    np.testing.assert_allclose(found.factors.ln_f_X, (c_VT @ p)[1:], atol=1e-12)
    assert found.factors.variance == pytest.approx(weight_V @ c_VT**2 @ p)
    chosen = behind_prefix(weights, a, 0, states_VD, weight_V, held, destination=9, threads=1)
    np.testing.assert_allclose(chosen.means.query_TH[0], query_VH[9], atol=1e-12)


def test_shuffled_positions_are_less_invariant_and_their_scores_stay_exact() -> None:
    """Keys that climb along one direction of the positions decay; with rows of positions shuffled they do not."""
    brute = Brute()
    direction_D = np.linspace(-1, 1, brute.rows.token_VD.shape[1]).astype(np.float32)
    ramp_TD = np.linspace(0, 0.5, LENGTH, dtype=np.float32)[:, None] * direction_D
    order = np.random.default_rng(0).permutation(LENGTH)
    found = {}
    for name, position_TD in (("moving", ramp_TD), ("shuffled", ramp_TD[order])):
        changed = type(brute.rows)(token_VD=brute.rows.token_VD, position_TD=position_TD, norm=brute.rows.norm)
        w_qk_D2H = np.zeros_like(brute.weights.w_qk_D2H)
        w_qk_D2H[:, WIDTH] = direction_D / brute.weights.gain_D
        b_qk_2H = np.r_[20.0, np.zeros(2 * WIDTH - 1)]
        weights = type(brute.weights)(**{**brute.weights.__dict__, "w_qk_D2H": w_qk_D2H, "b_qk_2H": b_qk_2H})
        input_TD = changed.mean_input(brute.weight_V, threads=1)
        means, average = exact_means(weights, architecture(), changed, input_TD, destination=None)
        (factors,) = exact_factors([(weights, means)], changed, brute.weight_V, threads=1)
        whole = from_weights(weights, means, average, factors, changed, brute.weight_V, brute.held)
        compared = compare(means, whole.content, brute.held, threads=1)
        found[name] = head_columns(whole, Kernel.of(whole), compared, threads=1)["translation_invariance"]
        token_UD, at_TD = changed.tokens(slice(None)), changed.positions()
        keys = ExactKeys.of(weights, token_UD, at_TD, changed.inverse_scale(token_UD, at_TD))
        x_VTD = changed.token_VD.astype(float)[:, None] + position_TD
        x_VTD -= x_VTD.mean(-1, keepdims=True)
        x_VTD /= np.sqrt((x_VTD**2).mean(-1, keepdims=True) + 1e-5)
        key_VTH = ((x_VTD * weights.gain_D + weights.shift_D) @ w_qk_D2H + b_qk_2H)[..., WIDTH:]
        query_1H = means.queries_at(np.array([LAST]))
        expected_VT = weights.scale * key_VTH @ query_1H[0].numpy()
        np.testing.assert_allclose(keys.scores(query_1H)[0], expected_VT, atol=1e-12)
    assert found["moving"] > 0.9
    assert found["shuffled"] < found["moving"] - 0.2
