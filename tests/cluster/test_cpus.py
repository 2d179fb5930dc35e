"""Cores that a process may use: affinity, and quotas of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkatlas.cluster import cpus


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CASES = {
    "no control groups": ({}, None),
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "a group around": (
        {
            "proc/self/cgroup": "0::/pod/one\n",
            "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/pod/one/cpu.max": "400000 100000\n",
        },
        2.0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "version 1 without quota": (
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "only the cpu controller counts": (
        {
            "proc/self/cgroup": "1:cpuset:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quota_of_control_groups(tmp_path: Path, case: str) -> None:
    files, expected = CASES[case]
    assert cpus.cpu_quota(make(tmp_path, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.2, 1), (2.5, 3), (64.0, 8)])
def test_cores_are_no_more_than_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert cpus.local_cpus() == expected
