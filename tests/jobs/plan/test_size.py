"""Where a job runs, if nobody says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.loop.request import Request
from qkatlas.jobs.main import run
from qkatlas.jobs.plan.size import is_small, runs_here
from qkatlas.outputs.runs.run import Run


def test_small_is_what_its_plan_or_its_model_says() -> None:
    jobs = declarations()
    full, ablation = jobs["full-vocab"], jobs["ablation"]
    assert is_small(full, full.spec(), "planted-tiny")
    assert is_small(full, full.spec(), "planted")
    assert not is_small(full, full.spec(), "gpt2-xl")
    assert not is_small(full, full.spec(), "some/hub-name")
    assert not is_small(jobs["head-scan"], jobs["head-scan"].spec(), "planted")
    assert is_small(ablation, ablation.spec(), "planted-tiny")
    assert not is_small(ablation, ablation.spec(), "planted")


@pytest.mark.parametrize(
    ("given", "here"),
    [
        ({}, True),
        ({"in_process": False}, False),
        ({"gpus": 0}, False),
        ({"gpus": 0, "in_process": True}, True),
        ({"gpus": 2}, False),
        ({"address": "auto"}, False),
    ],
)
def test_a_small_job_stays_here_unless_a_cluster_or_its_gpus_are_named(given: dict[str, Any], here: bool) -> None:
    full = declarations()["full-vocab"]
    assert runs_here(Request(model="planted-tiny", **given), full, full.spec(), "planted-tiny") is here


def test_a_large_job_runs_over_ray_unless_asked_otherwise() -> None:
    scan = declarations()["head-scan"]
    assert not runs_here(Request(model="planted"), scan, scan.spec(), "planted")
    assert runs_here(Request(model="planted", in_process=True), scan, scan.spec(), "planted")


def test_a_job_that_goes_on_from_a_run_goes_by_its_tokens(planted_tiny: Path, tmp_path: Path) -> None:
    assert run(["full-vocab", "--model", str(planted_tiny), "--out", str(tmp_path), "--quiet"]) == 0
    (folder,) = tmp_path.iterdir()
    manifest = Run(folder).manifest()
    assert manifest is not None
    assert manifest.provenance is not None
    assert manifest.provenance.executor == "in-process"
    communities = declarations()["communities"]
    request = Request(out=str(tmp_path))
    assert runs_here(request, communities, communities.spec(run=folder.name), "")
    with pytest.raises(ValueError, match="other"):
        runs_here(request, communities, communities.spec(run="other"), "")
