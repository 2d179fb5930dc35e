"""A steered head inside the model, against Hugging Face's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.in_model import counted

from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import head_weights
from qkatlas.pipeline.circuit.spectrum import second_moment
from qkatlas.pipeline.circuit.states import TokenStates, normalise
from qkatlas.pipeline.circuit.steering import SteerableHead, folded
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import for_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.steering import InModel, run_steered
from qkatlas.pipeline.text.prompts import CategoryPrompts

HEAD = Head(1, 5)


@pytest.fixture(scope="module")
def prompts() -> CategoryPrompts:
    """Few tokens, so that every prompt repeats some."""
    rng = np.random.default_rng(0)
    categories_PT = rng.integers(0, 3, (3, 14))
    tokens_PT = 1 + categories_PT * 4 + rng.integers(0, 3, (3, 14))
    tokens_PT[:, 0] = 0
    return CategoryPrompts(tokens_PT.astype(np.int64), categories_PT.astype(np.int64))


@pytest.fixture(scope="module")
def steerable(random_model: Path) -> SteerableHead:
    checkpoint = Checkpoint.open(random_model)
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(1)
    moment_DD = second_moment(normalise(states_VD, Norm(kind="layer", eps=1e-5), threads=1), threads=1)
    return SteerableHead(HEAD, head_weights(checkpoint, HEAD), moment_DD)


@pytest.fixture(scope="module")
def run(random_model: Path, steerable: SteerableHead, prompts: CategoryPrompts) -> Callable[[Point], InModel]:
    weights = ModelWeights.read(Checkpoint.open(random_model), "random")

    def run_at(point: Point) -> InModel:
        steered = steerable.at(point).weights
        return for_batches(weights, [prompts], lambda model, here: run_steered(model, HEAD, steered, here), threads=1)[
            0
        ]

    return run_at


def hugging_face(
    folder: Path, change: Callable[[torch.Tensor, torch.Tensor], None], prompts: CategoryPrompts
) -> InModel:
    """The same measures, counted key by key, from a model whose query and key weights were changed."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    attention = model.transformer.h[HEAD.layer].attn.c_attn
    with torch.no_grad():
        change(attention.weight, attention.bias)
        output = model(torch.from_numpy(prompts.tokens_PT), output_attentions=True)
    pattern_PTT = output.attentions[HEAD.layer][:, HEAD.index].double().numpy()
    log_p = output.logits.double().log_softmax(-1).numpy()
    return counted(pattern_PTT, log_p, prompts)


def assert_same(found: InModel, expected: InModel) -> None:
    for name in ("identical_mass_P", "category_mass_P", "bos_mass_P", "loss_P"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5)


def test_the_unsteered_head_leaves_the_model_as_it_is(
    random_model: Path, run: Callable[[Point], InModel], prompts: CategoryPrompts
) -> None:
    expected = hugging_face(random_model, lambda weight, bias: None, prompts)
    assert_same(run(Point(method="unsteered")), expected)
    assert_same(run(Point(method="eigen", alpha=1.0)), expected)


def test_a_moved_head_is_the_model_with_those_weights(
    random_model: Path, steerable: SteerableHead, run: Callable[[Point], InModel], prompts: CategoryPrompts
) -> None:
    """A gradient step keeps the rank, so that it can be written back into the weights, biases moved to match."""
    point = Point(method="gradient", step=0.8)
    own = head_weights(Checkpoint.open(random_model), HEAD)
    moved = folded(steerable.at(point).weights)
    weight_D2H = moved.w_qk_D2H / own.gain_D[:, None]
    bias_2H = moved.b_qk_2H - own.shift_D @ weight_D2H

    def change(weight: torch.Tensor, bias: torch.Tensor) -> None:
        for part in range(2):
            columns = slice(part * 64 + HEAD.index * 8, part * 64 + HEAD.index * 8 + 8)
            weight[:, columns] = torch.from_numpy(weight_D2H[:, part * 8 : part * 8 + 8]).float()
            bias[columns] = torch.from_numpy(bias_2H[part * 8 : part * 8 + 8]).float()

    expected = hugging_face(random_model, change, prompts)
    assert_same(run(point), expected)
    plain = hugging_face(random_model, lambda weight, bias: None, prompts)
    assert np.abs(expected.loss_P - plain.loss_P).max() > 1e-3  # the change is large enough to be seen


def test_masses_are_shares_of_one(run: Callable[[Point], InModel]) -> None:
    for alpha in (2.0, 0.0, -1.0):
        found = run(Point(method="eigen", alpha=alpha))
        masses = np.stack([found.identical_mass_P, found.category_mass_P, found.bos_mass_P])
        assert (masses >= 0).all()
        assert (masses.sum(axis=0) <= 1 + 1e-12).all()
