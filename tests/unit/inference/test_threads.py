"""Threads that the machine really gives, from fake cgroup trees."""

import os
from pathlib import Path

import pytest

from atril_inference.threads import available_threads


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def v1(root: Path, quota: str, period: str) -> None:
    """Write a version 1 tree."""
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu" / "cpu.cfs_period_us").write_text(period)


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    """No cgroup files at all."""
    assert available_threads(tmp_path) == 8


@pytest.mark.parametrize(
    ("content", "threads"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
        ("100000 0\n", 8),
    ],
)
def test_a_version_2_quota_is_rounded_up_and_bounded(
    tmp_path: Path, content: str, threads: int
) -> None:
    """`cpu.max`: a quota of 1.5 CPUs gives 2, never more than the affinity, never less than 1."""
    (tmp_path / "cpu.max").write_text(content)
    assert available_threads(tmp_path) == threads


@pytest.mark.parametrize(
    ("quota", "period", "threads"),
    [
        ("-1", "100000", 8),
        ("250000", "100000", 3),
        ("100000", "100000", 1),
        ("900000", "100000", 8),
        ("x", "100000", 8),
        ("100000", "0", 8),
    ],
)
def test_a_version_1_quota_is_rounded_up_and_bounded(
    tmp_path: Path, quota: str, period: str, threads: int
) -> None:
    """`cpu.cfs_quota_us` over `cpu.cfs_period_us`; -1 is no quota."""
    v1(tmp_path, quota, period)
    assert available_threads(tmp_path) == threads


def test_version_2_goes_before_version_1(tmp_path: Path) -> None:
    """A mixed tree is read as version 2."""
    v1(tmp_path, "400000", "100000")
    (tmp_path / "cpu.max").write_text("200000 100000")
    assert available_threads(tmp_path) == 2
