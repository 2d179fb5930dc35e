"""Neurons in a real browser: the chosen one is as the tables say, and the opposite one is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qkatlas.jobs.inputs.resolve import write_checkpoint
from qkatlas.jobs.main import run
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.neurons import with_neurons

pytestmark = pytest.mark.browser


def test_a_neuron_is_chosen_and_its_opposite_found(open_page: Callable[..., Any], tmp_path: Path) -> None:
    write_checkpoint(with_neurons(plant(PlantedDesign(size="tiny"))), tmp_path / "model")
    asked = ["--group", "L0H0,L0H2", "--length", "48", "--windows", "4", "--latents", "2", "--in-process", "--quiet"]
    assert run(["neurons", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "runs"), *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    rows = pd.read_parquet(folder / "neurons.parquet").set_index("neuron")
    texts = pd.read_parquet(folder / "tokens.parquet").set_index("token_id")["text"]
    assert run(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    page = open_page(tmp_path / "report.html")
    select = page.locator("select").first
    chosen = next(int(one) for one in select.locator("option").evaluate_all("all => all.map((one) => one.value)"))
    for neuron in (chosen, None):
        if neuron is None:
            button = page.get_by_role("button", name="Show neuron")
            if button.count() == 0:
                break
            button.click()
            neuron = int(rows.loc[chosen, "opposite_id"])
        assert select.input_value() == str(neuron)
        first = page.locator(".grids table.list tbody tr").first.locator("td").all_inner_texts()
        assert first[0].replace("·", " ").strip() == texts[rows.loc[neuron, "top_ids"][0]].strip()
        fits = page.get_by_role("row", name="heads of the group").locator("td").all_inner_texts()
        assert float(fits[1].replace("\u2212", "-")) == pytest.approx(rows.loc[neuron, "r_group"], abs=6e-3)
