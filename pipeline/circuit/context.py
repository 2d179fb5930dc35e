"""Token states in context: each token read behind the windows of text that it is likeliest behind.

States without attention collapse in the deeper layers of learned models, and those behind one prefix know one context
only. Here a pool of windows is run once; a token is read behind the few of them that make it most probable, and what
enters a layer is averaged over these. Everything is computed in fixed blocks, each on one thread, as in `states`.

Shapes: V tokens, D model, W windows of the pool, C tokens of a window with its prefix, S windows that a token is read
behind, B windows or tokens of one block, R rows of one block: a token behind one window each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32

from qkatlas.pipeline.circuit.kinds import CONTEXT
from qkatlas.pipeline.circuit.states import embedded, require_room
from qkatlas.pipeline.circuit.text_streams import TextStreams
from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import UNEMBEDDING
from qkatlas.pipeline.models.layers import Attention, capped, mlp, norm
from qkatlas.pipeline.models.weights import Weights

IntArray = npt.NDArray[np.int64]


class ContextStates:
    """The states `context` of some tokens, taken from layer to layer; used as `TokenStates` are.

    A token's S streams pass the layers each by itself; its state in front of a layer is their mean. The windows are
    chosen on the way to layer 1, and V S D numbers are held from there on: in front of layer 0 all streams are the
    embedding.

    Attributes:
        layer: the layer whose attention reads the states.
        values_VD: float32 [V, D], the states; a new array for every layer.

    Args:
        weights: the model, with an unembedding.
        windows_WT: int64 [W, T], windows of text, all different.
        prefix: tokens that stand in front of each window.
        draws: windows that a token is read behind, S.
        token_ids: the tokens; None = the whole vocabulary, in its order.
        threads: threads to use; no state depends on it.

    Raises:
        ValueError: if prefix and window leave no position for a token or are outside the vocabulary, or there are fewer
            windows than draws.
    """

    def __init__(
        self,
        weights: Weights,
        windows_WT: IntArray,
        *,
        prefix: Sequence[int] = (),
        draws: int,
        token_ids: Sequence[int] | None = None,
        threads: int,
    ) -> None:
        self.layer = 0
        self._weights = weights
        self._windows_WC = _behind_prefix(weights, windows_WT, prefix)
        self._draws = draws
        self._token_ids = token_ids
        self._threads = threads
        require_draws(draws, len(windows_WT))
        self._windows: TextStreams | None = None
        self._chosen_VS = np.empty((0, draws), np.int64)
        self._streams_VSD = np.empty((0, draws, weights.architecture.d_model), np.float32)
        self.values_VD: Float32[np.ndarray, "V D"] = embedded(weights, token_ids, self._windows_WC.shape[1])

    def advance_to(self, layer: int) -> Float32[np.ndarray, "V D"]:
        """Go on to a layer, this one or a later one, and return its states."""
        while self.layer < layer:
            self._pass_layer()
        return self.values_VD

    def _pass_layer(self) -> None:
        if self._windows is None:
            self._chosen_VS = _likeliest(
                self._weights, self._windows_WC, self._draws, token_ids=self._token_ids, threads=self._threads
            )
            self._windows = TextStreams(self._weights, self._windows_WC, threads=self._threads)
            self._streams_VSD = np.repeat(self.values_VD[:, None], self._draws, axis=1)
        attention, add_mlp = Attention(self._weights, self.layer), mlp(self._weights, self.layer)
        parallel = self._weights.architecture.parallel
        contexts = self._windows.pass_layer(attention, add_mlp)
        values_VD = np.empty_like(self.values_VD)  # workers may still read the old ones

        def pass_tokens(tokens: slice) -> None:
            streams_BSD = self._streams_VSD[tokens]
            x_RD = torch.from_numpy(streams_BSD.reshape(-1, streams_BSD.shape[2]))
            chosen_R = torch.from_numpy(self._chosen_VS[tokens].reshape(-1))
            added_RD = add_mlp(x_RD) if parallel else None
            x_RD += attention.behind(x_RD, contexts[chosen_R])
            x_RD += add_mlp(x_RD) if added_RD is None else added_RD
            sum_BD = streams_BSD[:, 0].astype(np.float64)
            for draw in range(1, self._draws):
                sum_BD += streams_BSD[:, draw]
            values_VD[tokens] = sum_BD / self._draws

        for_blocks(len(values_VD), pass_tokens, self._threads, max(1, BLOCK_ROWS // self._draws))
        self.values_VD = values_VD
        self.layer += 1


def likeliest_windows(
    weights: Weights,
    windows_WT: IntArray,
    *,
    prefix: Sequence[int] = (),
    draws: int,
    token_ids: Sequence[int] | None = None,
    threads: int,
) -> IntArray:
    """For each token the windows that it is likeliest behind, as `ContextStates` chooses them.

    Args:
        weights: the model, with an unembedding.
        windows_WT: int64 [W, T], windows of text, all different.
        prefix: tokens that stand in front of each window.
        draws: windows of a token, S.
        token_ids: the tokens; None = the whole vocabulary.
        threads: threads to use; the result does not depend on it.

    Returns:
        int64 [V, S], the highest p(token | prefix and window) first, equal ones by the number of their window.

    Raises:
        ValueError: as `ContextStates`.
    """
    require_draws(draws, len(windows_WT))
    windows_WC = _behind_prefix(weights, windows_WT, prefix)
    return _likeliest(weights, windows_WC, draws, token_ids=token_ids, threads=threads)


def require_draws(draws: int, windows: int) -> None:
    """Check that there are as many windows as a token is read behind.

    Raises:
        ValueError: if there are fewer.
    """
    if draws > windows:
        raise ValueError(f"--draws {draws} are more than --windows {windows}; choose {windows} draws or fewer")


def _behind_prefix(weights: Weights, windows_WT: IntArray, prefix: Sequence[int]) -> IntArray:
    before_WP = np.broadcast_to(np.array(prefix, np.int64), (len(windows_WT), len(prefix)))
    windows_WC = np.concatenate([before_WP, windows_WT], axis=1)
    a = weights.architecture
    require_room([*prefix, *windows_WT.max(axis=0).tolist()], a, CONTEXT)
    return windows_WC


def _likeliest(
    weights: Weights, windows_WC: IntArray, draws: int, *, token_ids: Sequence[int] | None, threads: int
) -> IntArray:
    a, family = weights.architecture, family_of(weights.architecture)
    windows = TextStreams(weights, windows_WC, threads=threads)
    for _ in range(a.n_layers):
        windows.advance()
    final = norm(family.final_norm(weights))
    unembedding_VD = weights.tensor(family.embedding if a.tied else UNEMBEDDING)
    last_WD = np.empty_like(windows.stream_BTD[:, 0])

    def normalise(rows: slice) -> None:
        last_WD[rows] = final(torch.from_numpy(windows.stream_BTD[rows, -1]))

    for_blocks(len(last_WD), normalise, threads)

    def logits(rows_BD: np.ndarray) -> npt.NDArray[np.float64]:
        logits_BW = (torch.from_numpy(rows_BD) @ torch.from_numpy(last_WD).T).double()
        found: npt.NDArray[np.float64] = capped(logits_BW, a.logit_cap).numpy()
        return found

    # Logits of all windows and tokens would be as large as another embedding or more: they are taken twice instead.
    blocks = -(-len(unembedding_VD) // BLOCK_ROWS)
    mass_NW = np.empty((blocks, len(last_WD)))

    def add_up(rows: slice) -> None:
        mass_NW[rows.start // BLOCK_ROWS] = torch.from_numpy(logits(unembedding_VD[rows])).logsumexp(dim=0).numpy()

    for_blocks(len(unembedding_VD), add_up, threads)
    log_sum_W = torch.from_numpy(mass_NW).logsumexp(dim=0).numpy()
    own_VD = unembedding_VD if token_ids is None else unembedding_VD[list(token_ids)]
    chosen_VS = np.empty((len(own_VD), draws), np.int64)

    def choose(rows: slice) -> None:
        log_p_BW = logits(own_VD[rows]) - log_sum_W
        chosen_VS[rows] = np.argsort(-log_p_BW, axis=1, kind="stable")[:, :draws]

    for_blocks(len(own_VD), choose, threads)
    return chosen_VS
