"""The worked example of docs/adding-a-job.md: its package alone makes a job that is in every place where jobs are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-a-job.md").read_text(encoding="utf-8")

# The folder of the example stands beside the other jobs, as it would in `jobs/`.
BESIDE = "import qkatlas.jobs; qkatlas.jobs.__path__.append({folder!r})\n"
COMMAND = "import sys; from qkatlas.jobs.main import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "norms").mkdir()
    files = re.findall(r"```python file=(\S+)\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in files] == ["__init__.py", "spec.py", "job.py", "plan.py", "sections.py"]
    for name, code in files:
        (folder / "norms" / name).write_text(code, encoding="utf-8")
    return folder


def run(example: Path, *arguments: object, program: str = COMMAND, cwd: Path = ROOT) -> str:
    code = BESIDE.format(folder=str(example)) + program
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_it_and_its_options(example: Path) -> None:
    assert re.search(r"^\s+norms\s+Measure how long", run(example, "--help"), re.MULTILINE)
    own = run(example, "norms", "--help")
    assert all(flag in own for flag in ("--layer N", "--states [mlp|mean|bos", "--model", "--seed"))


@pytest.mark.slow
def test_a_plan_is_made_of_the_same_shards(example: Path) -> None:
    plan = json.loads(run(example, "plan", "norms", "--model", "gpt2", "--json"))
    assert (plan["job"], plan["shards"]) == ("norms", 13)


@pytest.mark.slow
def test_it_runs_reports_and_equals_numpy(example: Path, random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run(example, "norms", "--model", random_model, "--layer", 2, "--in-process", "--out", out)
    (folder,) = out.iterdir()
    found = pq.read_table(folder / "norms/L2", partitioning=None).sort_by("token_id")
    weights = reference.in_float64(reference.tensors_of(random_model))
    norm_V = np.linalg.norm(reference.mlp_states(weights, 2), axis=1)
    np.testing.assert_allclose(found["norm"].to_numpy(), norm_V, rtol=1e-5)
    (summary,) = pq.read_table(folder / "norm_summary.parquet").to_pylist()
    np.testing.assert_allclose(summary["norm_median"], np.median(norm_V), rtol=1e-5)
    assert summary["collapsed_share"] == (norm_V > 3 * np.median(norm_V)).mean()
    again = run(example, "norms", "--model", random_model, "--layer", 2, "--in-process", "--out", out)
    assert "finished before" in again
    report = tmp_path / "report.html"
    run(example, "report", "norms", "--runs", out, "--out", report)
    assert "Lengths of states" in page_of(report)


def page_of(report: Path) -> str:
    """The packed index of a report, unpacked."""
    from qkatlas.outputs.report.pack import unpack

    block = re.search(r'<script type="text/plain" id="index">(.*?)</script>', report.read_text(), re.DOTALL)
    assert block is not None
    return unpack(block[1]).decode()


@pytest.mark.slow
def test_the_page_of_tables_describes_its_columns(example: Path) -> None:
    program = f"import runpy; runpy.run_path({str(ROOT / 'docs/tables.py')!r}, run_name='__main__')"
    page = run(example, program=program)
    assert "## `norms/L1/part-*.parquet`" in page
    assert "| `collapsed_share` | float64 |" in page


@pytest.mark.slow
def test_swapped_arguments_of_a_step_are_a_type_error(example: Path, tmp_path: Path) -> None:
    sound = (example / "norms/job.py").read_text().replace("qkatlas.jobs.norms.spec", "norms_spec")
    swapped = sound.replace("shared: States, each: None", "each: None, shared: States")
    assert swapped != sound
    (tmp_path / "norms_spec.py").write_text((example / "norms/spec.py").read_text())
    checked = {}
    for name, code in (("sound", sound), ("swapped", swapped)):
        (tmp_path / f"{name}.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
             str(ROOT / ".mypy_cache"), str(tmp_path / f"{name}.py")],
            cwd=ROOT, capture_output=True, text=True, env={"MYPYPATH": f"{ROOT / 'src'}:{tmp_path}"}, timeout=900,
        )  # fmt: skip
        checked[name] = [line for line in done.stdout.splitlines() if f"{name}.py" in line]
    assert checked["sound"] == []
    assert any("compute" in line or "Step" in line for line in checked["swapped"]), checked
