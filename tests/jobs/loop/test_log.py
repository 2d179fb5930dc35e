"""The log of a run: what each submission did, with the time, and nothing that a result depends on."""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.interruptions import Stopping, hashes
from support.toy_jobs import ToyJob, compute

from qkatlas.cluster.executor import Grant
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.loop.log import RunLog
from qkatlas.jobs.loop.progress import Progress
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard

COMMITTED = [f"shard {name} committed" for name in ("number-0", "number-1", "number-2", "apart-0")]
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ")


def lines_of(folder: object) -> list[str]:
    """The log without times."""
    text = (Path(str(folder)) / "_state/driver.log").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert all(STAMP.match(line) for line in lines)
    return [STAMP.sub("", line, count=1) for line in lines]


def test_it_tells_each_submission_that_computed_and_what(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        submit(ToyJob(), out=tmp_path, executor=Stopping(3), argv=["submit", "toy", "--head", "L1 H2"])
    (folder,) = tmp_path.iterdir()
    stopped = lines_of(folder)
    assert stopped[0].endswith(": submit toy --head 'L1 H2'")
    assert re.fullmatch(r"toy of toy; workers: \d+, in-process, cpu", stopped[1])
    assert stopped[2] == "a note"
    assert [line.partition(" on ")[0] for line in stopped if line.startswith("shard ")] == COMMITTED[:3]
    assert re.fullmatch(r"shard number-0 committed on abacus, [0-9.]+ s, \d+ MiB", stopped[3])
    assert stopped[-1].startswith("ended by KeyboardInterrupt")
    result = compute(ToyJob(), tmp_path)
    resumed = lines_of(folder)
    assert resumed[: len(stopped)] == stopped
    assert re.match(rf"{result.computed} shards computed, 0 failed: .*committing \d", resumed[-1])
    compute(ToyJob(), tmp_path)  # which computes nothing
    assert lines_of(folder) == resumed
    compute(ToyJob(), tmp_path / "whole")
    assert hashes(result.run) == hashes(compute(ToyJob(), tmp_path / "whole").run)


def test_failures_are_all_in_it(tmp_path: Path) -> None:
    def fails(grant: Grant, shard: Shard, shared: object, each: int) -> Produced:
        raise RuntimeError(f"no {shard.name}\x1b[2J")

    result = compute(ToyJob(write=fails), tmp_path)
    said = [line for line in lines_of(result.run.folder) if "was not computed" in line]
    assert said[0] == "shard number-0 was not computed: RuntimeError: no number-0\\x1b[2J"
    assert len(said) == len(result.failures) == 5


@pytest.mark.parametrize(
    ("verbose", "quiet", "shown"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_verbose_shows_its_lines_and_each_note_once(tmp_path: Path, verbose: bool, quiet: bool, shown: bool) -> None:
    stream = io.StringIO()
    progress = Progress(quiet=quiet, console=Console(file=stream, soft_wrap=True))
    submit(ToyJob(), out=tmp_path, executor=InProcessExecutor(), progress=progress, verbose=verbose)
    printed = stream.getvalue()
    assert ("shard number-0 committed on abacus" in printed) == shown
    assert printed.count("a note") == (not quiet)


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    written: list[str] = []

    def write(lines: str) -> None:
        if "lost" in lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(lines)

    log = RunLog(write)
    log.note("lost")
    log.write()
    log.note("kept")
    log.note("too")
    log.write()
    log.write()
    assert [STAMP.sub("", line) for lines in written for line in lines.split("\n")] == ["kept", "too"]
    assert len(written) == 1
