"""Threads that the machine really gives, from fake trees of `/proc` and `/sys`."""

import os
from pathlib import Path

import pytest

from atril_inference.threads import available_threads

CGROUP = Path("sys") / "fs" / "cgroup"


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root: Path, files: dict[str, str], own: str = "") -> Path:
    """Write files under `/sys/fs/cgroup`, and `own` as `/proc/self/cgroup`; returns the root."""
    for name, content in files.items():
        path = root / CGROUP / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if own:
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "self" / "cgroup").write_text(own)
    return root


def v1(quota: str, period: str = "100000", folder: str = "cpu") -> dict[str, str]:
    """The files of a version 1 quota."""
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    """No cgroup files at all."""
    assert available_threads(tmp_path) == 8


def test_this_machine_has_at_least_one() -> None:
    """The real tree, whatever it is."""
    assert 1 <= available_threads() <= 8, "the affinity is eight here"


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
        ("100000\n", 8),
        ("100000 0\n", 8),
    ],
)
def test_a_version_2_quota_is_rounded_up_and_bounded(
    tmp_path: Path, content: str, threads: int
) -> None:
    """`cpu.max`: a quota of 1.5 CPUs gives 2, never more than the affinity, never less than 1."""
    assert available_threads(write(tmp_path, {"cpu.max": content})) == threads


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
    assert available_threads(write(tmp_path, v1(quota, period))) == threads


def test_the_smaller_of_both_versions_counts(tmp_path: Path) -> None:
    """A mixed tree: each bounds the process."""
    assert available_threads(write(tmp_path, v1("400000") | {"cpu.max": "200000 100000"})) == 2


def test_a_nested_version_2_group_is_found_by_its_path(tmp_path: Path) -> None:
    """`/proc/self/cgroup` says where the process is; the mount itself has no quota."""
    files = {"pods.slice/pod1/cpu.max": "300000 100000", "pods.slice/cpu.max": "max 100000"}
    assert available_threads(write(tmp_path, files, "0::/pods.slice/pod1\n")) == 3


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    """A pod's bound holds for each of its containers."""
    files = {"pod/box/cpu.max": "400000 100000", "pod/cpu.max": "200000 100000"}
    assert available_threads(write(tmp_path, files, "0::/pod/box\n")) == 2


def test_another_group_is_not_ours(tmp_path: Path) -> None:
    """The quota of a neighbour does not count."""
    files = {"ours/cpu.max": "500000 100000", "neighbour/cpu.max": "100000 100000"}
    assert available_threads(write(tmp_path, files, "0::/ours\n")) == 5


@pytest.mark.parametrize("path", ["/docker/0123456789ab", "/../outside"])
def test_a_path_of_the_host_falls_back_to_the_mount(tmp_path: Path, path: str) -> None:
    """Inside a container the path may be one that only the host sees."""
    root = write(tmp_path, {"cpu.max": "200000 100000"}, f"0::{path}\n")
    (root / "sys" / "fs" / "outside").mkdir()
    (root / "sys" / "fs" / "outside" / "cpu.max").write_text("100000 100000")
    assert available_threads(root) == 2


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_nested_version_1_group_is_found_under_any_mount(tmp_path: Path, mount: str) -> None:
    """The controller `cpu` may share its mount, and its line, with others."""
    own = "5:memory:/other\n4:cpu,cpuacct:/pod/box\n"
    files = v1("-1", folder=mount) | v1("300000", folder=f"{mount}/pod/box")
    assert available_threads(write(tmp_path, files, own)) == 3


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({"cpuset.cpus.effective": "0-2\n"}, 3),
        ({"cpuset.cpus.effective": "1,4-5,7"}, 4),
        ({"cpuset.cpus.effective": "", "cpuset.cpus": "0"}, 1),
        ({"cpuset/cpuset.effective_cpus": "0-1", "cpuset/cpuset.cpus": "0-7"}, 2),
        ({"cpuset/cpuset.cpus": "3"}, 1),
        ({"cpuset.cpus.effective": "all"}, 8),
        ({"cpuset.cpus.effective": "0-3", "cpu.max": "150000 100000"}, 2),
    ],
)
def test_a_cpuset_bounds_the_threads(tmp_path: Path, files: dict[str, str], threads: int) -> None:
    """The CPUs that a container is pinned to, in either version."""
    assert available_threads(write(tmp_path, files)) == threads


def test_a_tree_of_noise_is_no_bound(tmp_path: Path) -> None:
    """Lines and files that make no sense are as good as none."""
    root = write(tmp_path, {"cpu.max": "1 2 3"}, "no colon\n:::\n0::relative\n")
    (root / CGROUP / "cpuset.cpus").write_bytes(b"\xff")
    assert available_threads(root) == 8
