"""A job's log is shown once and whole, whatever happens to the connection."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkatlas.cluster.remote_job
from qkatlas.cluster.remote_job import JobState, LostDashboardError, follow, opening_line

STATE = JobState(
    job_id="j",
    status="RUNNING",
    entrypoint="run 'a\nb'",
    command=None,
    started=1.0,
    ended=None,
    exit_code=None,
    message="",
)


class Api:
    """A job whose log is given in pieces, to connections that break after so many of them."""

    def __init__(self, log: str, readings: list[int], cut: int = 5) -> None:
        self._log, self._readings, self._cut = log, readings, cut

    def state(self, job_id: str) -> JobState:
        return STATE if self._readings else replace(STATE, status="SUCCEEDED", exit_code=0)

    def log(self, job_id: str) -> str:
        return self._log

    def tail(self, job_id: str, pause: float) -> Generator[str]:
        pieces = self._readings.pop(0) if self._readings else 0
        for start in range(0, min(pieces * self._cut, len(self._log)), self._cut):
            yield self._log[start : start + self._cut]
            yield ""
        if self._readings:
            raise LostDashboardError("gone")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qkatlas.cluster.remote_job, "_PAUSE", 0.0)


@settings(deadline=None, max_examples=50)
@given(
    lines=st.lists(st.text("ab\n\u00e9", max_size=12), max_size=8),
    readings=st.lists(st.integers(0, 12), max_size=5),
    cut=st.integers(1, 30),
)
def test_each_piece_is_shown_once_though_the_connection_breaks(lines: list[str], readings: list[int], cut: int) -> None:
    written = "".join(lines)
    shown: list[str] = []
    state = follow(Api(f"Ray sets up\n{opening_line(STATE)}{written}", readings, cut), "j", shown.append)
    assert "".join(shown) == written
    assert state.exit_code == 0


def test_a_job_that_never_began_shows_what_ray_wrote() -> None:
    shown: list[str] = []
    follow(Api("no such package\n", [1, 1]), "j", shown.append)
    assert "".join(shown) == "no such package\n"


def test_a_dashboard_that_stays_silent_is_given_up() -> None:
    with pytest.raises(LostDashboardError, match="gone"):
        follow(Api("text", [0] * 10_000), "j", lambda text: None, patience=0.0)
