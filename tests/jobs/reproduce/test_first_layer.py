"""What runs about where the first layer's heads look say of the published figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reference

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.reproduce.first_layer import first_layer
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, facts
from qkatlas.outputs.runs.run import Run

AS_PUBLISHED = ["contextual", "duplicate", "contextual", "detokenisation", "detokenisation", "duplicate", "contextual",
                "detokenisation", "contextual", "contextual", "contextual", "none"]  # fmt: skip


def rows(classes: list[str]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"layer": 0, "head": head, "class": name, "class_margin": 0.1, "width": 10.0 * head,
             "tv_factorised": 0.01 * head}
            for head, name in enumerate(classes)
        ]
    )  # fmt: skip


@pytest.mark.slow
def test_classes_are_counted_and_widths_and_errors_are_medians(
    random_model: Path, finish_run: Callable[..., Path], tmp_path: Path
) -> None:
    model, known = Model.open("test", random_model), facts()
    lost = ["none", *AS_PUBLISHED[1:3], "none", "none", *AS_PUBLISHED[5:8], "none", "none", *AS_PUBLISHED[10:]]
    runs = {
        f"positions {variant}": Run(
            finish_run(tmp_path, "positions", {"positions.parquet": rows(classes)}, {"of": variant})
        )
        for variant, classes in ((DEFINED, AS_PUBLISHED), (PUBLISHED, lost))
    }
    found = first_layer(known, model, runs)
    for figure, right, left in (("contextual", 6, 3), ("detokenization", 3, 1), ("duplicate", 2, 2)):
        assert found[f"heads.{figure}", DEFINED].value == right
        assert found[f"heads.{figure}", PUBLISHED].value == left
    # Heads 0, 2, 6, 8, 9 and 10.
    assert found["positions.width", DEFINED].value == 70
    assert found["positions.error", DEFINED].value == pytest.approx(0.07)
    assert ("positions.error", PUBLISHED) not in found
    weights = reference.tensors_of(random_model)
    x_VTD = weights["wte.weight"][:, None] + weights["wpe.weight"][::8]
    sigma_VT = np.sqrt(x_VTD.var(axis=-1) + 1e-5)
    scale = found["positions.layer_norm", DEFINED]
    assert scale.value == pytest.approx(sigma_VT.mean())
    low, high = np.quantile(sigma_VT, [0.05, 0.95])
    assert f"{low:.4g} to {high:.4g}" in scale.text


def test_without_runs_nothing_but_the_scale_is_compared(random_model: Path) -> None:
    known = facts()
    found = first_layer(known, Model.open("test", random_model), {})
    rest = {key: value for key, value in found.items() if key != ("positions.layer_norm", DEFINED)}
    assert all(value.value is None and value.note for value in rest.values())
    expected = {
        (one.figure, variant)
        for one in known.figures
        for variant in one.variants
        if one.figure in known.data["first_layer"] or one.figure.startswith("positions.")
    }
    assert set(found) == expected
