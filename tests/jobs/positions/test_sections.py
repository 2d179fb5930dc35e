"""What a report shows of positions: the kernels, factors and errors of its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.positions.job import PositionsJob
from qkatlas.jobs.positions.sections import drawn_offsets
from qkatlas.jobs.positions.spec import Positions
from qkatlas.jobs.report.content import Report
from qkatlas.outputs.report.pack import KINDS, unpack
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run


@pytest.fixture(scope="module")
def measured(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    job = PositionsJob(Positions(length=24, windows=2, layers="0-1", heads="2,5"), Model.open("test", worded_model))
    return submit(job, out=tmp_path_factory.mktemp("runs"), executor=InProcessExecutor(), gpus=0).run


def test_offsets_are_even_on_a_logarithmic_axis_and_reach_both_ends() -> None:
    offset_O = drawn_offsets(1023)
    assert (offset_O[0], offset_O[-1]) == (0, 1022)
    assert len(offset_O) <= 48
    assert set(range(6)) <= set(offset_O.tolist())
    steps = np.diff(np.log(offset_O[offset_O > 20] + 1))
    assert steps.max() < 1.5 * steps.min()  # offsets are whole
    np.testing.assert_array_equal(drawn_offsets(3), [0, 1, 2])


@pytest.mark.slow
def test_a_report_holds_what_the_tables_say(measured: Run) -> None:
    _, blocks = Report.of([measured]).content()
    index = json.loads(unpack(blocks["index"]))
    (section,) = [one for one in index["sections"] if one["kind"] == "positions"]

    def read(reference: dict[str, Any]) -> Any:
        content = unpack(blocks[reference["block"]])
        if reference["kind"] == "json":
            return json.loads(content)
        kind = {short: np.dtype(name).newbyteorder("<") for name, short in KINDS.items()}[reference["kind"]]
        return np.frombuffer(content, kind).reshape(reference["shape"])

    kernels, texts, ends, ln_f = (read(section[name]) for name in ("kernels", "texts", "ends", "ln_f"))
    tables = {name: read_whole(measured, name).to_pandas() for name in ("positions", "kernels", "content", "tokens")}
    spelt = tables["tokens"].set_index("token_id")["text"]
    for number, row in enumerate(tables["positions"].itertuples()):
        of_head = {
            name: tables[name][(tables[name].layer == row.layer) & (tables[name]["head"] == row.head)]
            for name in ("kernels", "content")
        }
        kernel = of_head["kernels"].set_index("offset").loc[section["offsets"]]
        for part, name in enumerate(("share", "low", "high")):
            np.testing.assert_allclose(kernels[number, part], kernel[name], rtol=1e-6)
        factors = of_head["content"].sort_values("ln_f", ascending=False)
        for end, chosen in enumerate((factors.head(8), factors.tail(8).iloc[::-1])):
            np.testing.assert_allclose(ln_f[number, end], chosen["ln_f"], rtol=1e-6)
            assert len(set(chosen["ln_f"])) < 8 or [texts[place] for place in ends[number, end]] == [
                spelt[token] for token in chosen["token_id"]
            ]
    shown = section["table"]["columns"]
    for name in ("class", "tv_position", "tv_fixed", "tv_uniform", "reliability"):
        values = tables["positions"].sort_values(["layer", "head"])[name].tolist()
        assert shown[name]["values"] == values
    assert (section["length"], section["destination"]) == (24, None)
