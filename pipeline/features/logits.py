"""What a feature adds to the logits of every token, up to the final norm's scale, as a head's OV circuit does.

A feature of z writes through the output projection; one of the residual stream is there already. The final norm's gain,
its centring and the unembedding's own are folded as in `circuit.ov`.

Shapes: V vocabulary, D model, X width of what a dictionary reads, F features, B features of a block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.ov import Unembedding, ov_weights
from qkatlas.pipeline.features.encoder import BLOCK_FEATURES, Encoder
from qkatlas.pipeline.features.kinds import Z
from qkatlas.pipeline.features.similarity import unit_rows
from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks, on_one_thread
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import Weights


def writing(weights: Weights, reads: str, layer: int, unembedding: Unembedding) -> npt.NDArray[np.float64]:
    """From what a dictionary reads to what meets the centred unembedding, float64 [X, D].

    Args:
        weights: the model.
        reads: `z` or `residual`.
        layer: the dictionary's.
        unembedding: the model's, and how it is read.
    """
    a = weights.architecture
    if reads == Z:
        heads = [ov_weights(weights, Head(layer, head), unembedding).w_out_DH.T for head in range(a.n_heads)]
        return np.ascontiguousarray(np.concatenate(heads))
    writes_DD = np.eye(a.d_model)
    if unembedding.centres:
        writes_DD -= 1 / a.d_model
    found: npt.NDArray[np.float64] = writes_DD * unembedding.gain_D
    return found


def written_rows(write_XD: npt.NDArray[np.float64], w_dec_BX: torch.Tensor) -> npt.NDArray[np.float32]:
    """What one unit of some features writes, as it meets the unembedding: float32 [B, D], rounded once."""
    found: npt.NDArray[np.float32] = (w_dec_BX @ torch.from_numpy(write_XD)).numpy().astype(np.float32)
    return found


def logit_metric(unembedding_VD: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """A root of the unembedding's second moments, float64 [D, D]: rows times it have the angles of their logits.

    Args:
        unembedding_VD: float32 [V, D], centred.
    """

    def root() -> npt.NDArray[np.float64]:
        moments_DD = torch.zeros((unembedding_VD.shape[1],) * 2, dtype=torch.float64)
        for start in range(0, len(unembedding_VD), BLOCK_ROWS):
            block = torch.from_numpy(unembedding_VD[start : start + BLOCK_ROWS].astype(np.float64))
            moments_DD += block.T @ block
        values_D, vectors_DD = torch.linalg.eigh(moments_DD)
        found: npt.NDArray[np.float64] = (vectors_DD * values_D.clamp(min=0).sqrt()).numpy()
        return found

    return on_one_thread(root)


def logit_directions(
    encoder: Encoder, write_XD: npt.NDArray[np.float64], metric_DD: npt.NDArray[np.float64], *, threads: int
) -> npt.NDArray[np.float32]:
    """Directions of what features add to logits, as long as 1, float32 [F, D]; their products are cosines of logits.

    Args:
        encoder: the dictionary.
        write_XD: `writing`.
        metric_DD: `logit_metric`.
        threads: threads to use; no number depends on it.
    """
    found_FD = np.empty((encoder.config.d_sae, len(metric_DD)), np.float32)
    metric = torch.from_numpy(metric_DD)

    def direct(features: slice) -> None:
        written_BD = torch.from_numpy(written_rows(write_XD, encoder.written(features)).astype(np.float64))
        found_FD[features] = unit_rows((written_BD @ metric).numpy())

    for_blocks(len(found_FD), direct, threads, BLOCK_FEATURES)
    return found_FD
