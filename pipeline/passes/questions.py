"""Questions that a model answers at some positions, with the model as it is and with one head at a time replaced.

Shapes: P passages of a batch, T positions, A questions of a passage, W answers that are looked up at each: the right
one, and another prompt's; N heads of a layer, H head dimension, D model, M heads that are replaced, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.components import HEAD, Component
from qkatlas.pipeline.passes.replacing import Outputs, changes, heads_of, stacks, streams_without, walk
from qkatlas.pipeline.tasks.prompts import TaskPrompts

QUESTION_ROWS = 256
"""Questions whose logits are held at once."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Passages, the positions whose next token is asked for, and answers to look up there.

    Attributes:
        tokens_PT: int64.
        read_PT: bool, positions that some answer can depend on.
        places_PA: int64, the positions.
        answers_PAW: int64, answers that are looked up.
        partners_PT: int64, for each passage another one; None unless outputs are resampled.
    """

    tokens_PT: IntArray
    read_PT: npt.NDArray[np.bool_]
    places_PA: IntArray
    answers_PAW: IntArray
    partners_PT: IntArray | None = None

    @classmethod
    def of(cls, prompts: TaskPrompts, partner_P: IntArray | None, rows: slice) -> Questions:
        """Some prompts of a task, and after them their controls.

        Args:
            prompts: the task, whole.
            partner_P: for each of its prompts another one, whose controls are the partners of its control; None =
                outputs are not resampled.
            rows: the prompts that are taken.
        """
        some = prompts[rows]
        partners = None
        if partner_P is not None:
            chosen = partner_P[rows]
            partners = np.concatenate([prompts.tokens_PT[chosen], prompts.control_PT[chosen]])
        answers_PAW = np.stack([some.answers_PA, some.shuffled_PA], axis=2)
        return cls(
            tokens_PT=np.concatenate([some.tokens_PT, some.control_PT]),
            read_PT=np.tile(some.read_PT(), (2, 1)),
            places_PA=np.tile(some.places_PA, (2, 1)),
            answers_PAW=np.tile(answers_PAW, (2, 1, 1)),
            partners_PT=partners,
        )

    def repeated(self, times: int) -> Questions:
        """The same passages several times over."""
        rows = np.tile(np.arange(len(self.tokens_PT)), times)
        return Questions(
            tokens_PT=self.tokens_PT[rows], read_PT=self.read_PT[rows], places_PA=self.places_PA[rows],
            answers_PAW=self.answers_PAW[rows],
        )  # fmt: skip


def answer_losses(
    model: Forward, end_PTD: torch.Tensor, questions: Questions, *, gradients: bool = False
) -> torch.Tensor:
    """Mean over a passage's questions of -ln p of each answer, in nats.

    Only what stands at the questions is read out, which spares most of the unembedding.

    Args:
        model: the model.
        end_PTD: what leaves the last layer.
        questions: the passages.
        gradients: whether to keep what gradients are made from.

    Returns:
        float64 [P, W].
    """
    count, asked = questions.places_PA.shape
    row_PA = torch.arange(count, device=end_PTD.device)[:, None]
    stream_RD = end_PTD[row_PA, torch.from_numpy(questions.places_PA).to(end_PTD.device)].flatten(0, 1)
    answers_RW = torch.from_numpy(questions.answers_PAW).to(end_PTD.device).flatten(0, 1)
    losses = []
    with torch.set_grad_enabled(gradients):
        for rows_RD, wanted_RW in zip(stream_RD.split(QUESTION_ROWS), answers_RW.split(QUESTION_ROWS), strict=True):
            logits_RV = model.logits(rows_RD, gradients=gradients)
            losses.append(torch.logsumexp(logits_RV, dim=1, keepdim=True) - logits_RV.gather(1, wanted_RW))
        return torch.cat(losses).double().reshape(count, asked, -1).mean(dim=1)


def measure_without(
    model: Forward,
    questions: Questions,
    heads: Sequence[Head],
    unchanged_PW: np.ndarray,
    *,
    kind: str,
    means: Mapping[int, np.ndarray],
) -> np.ndarray:
    """Measure answers with one head replaced at a time.

    The layers below a head are run once for all of them; from a head's layer on only what follows is run again.

    Args:
        model: the model.
        questions: one batch of passages.
        heads: the heads, ascending.
        unchanged_PW: float64, losses with the model as it is: those of a head whose replacement changes nothing.
        kind: one of `kinds.KINDS`.
        means: for `mean`: mean outputs of the heads of each layer side by side, float32 [N * H].

    Returns:
        float64 [M, P, W].
    """
    layers = range(heads[0].layer, heads[-1].layer + 1)
    losses_MPW = np.tile(unchanged_PW, (len(heads), 1, 1))
    partners = None
    if kind == "resample":
        assert questions.partners_PT is not None, "outputs are resampled from partners"
        partners = walk(model, questions.partners_PT, layers)
    number = {head: place for place, head in enumerate(heads)}
    for layer, clean in walk(model, questions.tokens_PT, layers):
        others: Outputs = {}
        if partners is not None:
            others = next(partners)[1]
        elif kind == "mean":
            others = {heads_of(layer): torch.from_numpy(means[layer]).to(model.device)}
        components = [Component(HEAD, layer, head.index) for head in heads if head.layer == layer]
        changed = [component for component in components if changes(model, component, clean, others)]
        for stack in stacks(changed, questions.tokens_PT.size, model.device):
            stream_STD = torch.cat(streams_without(model, stack, clean, others))
            end_STD = model.go_on(stream_STD, layer + 1, {})
            losses_SW = answer_losses(model, end_STD, questions.repeated(len(stack))).cpu().numpy()
            losses = losses_SW.reshape(len(stack), *unchanged_PW.shape)
            for component, losses_PW in zip(stack, losses, strict=True):
                assert component.head is not None
                losses_MPW[number[Head(layer, component.head)]] = losses_PW
    return losses_MPW
