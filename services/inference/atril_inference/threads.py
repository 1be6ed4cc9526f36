"""How many threads the machine really gives us.

A process sees all the processors of its host; what it may use of them is less where a container
bounds it, and a pool with a thread for each processor then throttles itself and its neighbours.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def available_threads(root: Path = _ROOT) -> int:
    """CPUs this process may use: its affinity, and the container's cpuset and quota.

    The quota is the smallest of the process's own cgroup and of every one around it, in versions 1
    and 2 of cgroup, whichever are mounted; one of 1.5 CPUs gives 2. Inside a container the path
    that `/proc/self/cgroup` tells may be the host's, which is not there: then the parts of it that
    are there count, at least the mount itself.

    Args:
        root: where `proc` and `sys` are; another one in tests.
    """
    allowed = len(os.sched_getaffinity(0))
    found = [bound for folder in _cgroups(root) for bound in _bounds(folder)]
    return max(1, min([allowed, *map(math.ceil, found)]))


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the process's cgroups that bound its CPUs, and of those around them."""
    mounts = root / "sys" / "fs" / "cgroup"
    own = {"cpu": PurePosixPath("/"), "cpuset": PurePosixPath("/"), "": PurePosixPath("/")}
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if controller in own:
                own[controller] = PurePosixPath(path)
    yield from _upwards(mounts, own[""])
    for controller in ("cpu", "cpuset"):
        for mount in {controller, *_joint_mounts(mounts, controller)}:
            yield from _upwards(mounts / mount, own[controller])


def _joint_mounts(mounts: Path, controller: str) -> list[str]:
    """Mounts of version 1 that hold several controllers, such as `cpu,cpuacct`."""
    if not mounts.is_dir():
        return []
    return [p.name for p in mounts.iterdir() if controller in p.name.split(",")]


def _upwards(mount: Path, path: PurePosixPath) -> Iterator[Path]:
    """A cgroup and all that it lies in, up to the mount."""
    inside = [] if ".." in path.parts else [part for part in path.parts if part != "/"]
    for length in range(len(inside), -1, -1):
        yield mount.joinpath(*inside[:length])


def _bounds(folder: Path) -> Iterator[float]:
    """How many CPUs a cgroup allows, by each of its files that says so."""
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")  # version 2
    yield from _ratio(quota, period)
    yield from _ratio(
        _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    )
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        if count := _count(_read(folder / name).strip()):
            yield count
            return


def _ratio(quota: str, period: str) -> Iterator[float]:
    """Quota over period; nothing where there is no quota (`max`, -1) or no sense in the file."""
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _count(cpus: str) -> int:
    """Members of a list such as `0-3,8`; 0 where it is empty or makes no sense."""
    count = 0
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return 0
        count += int(last or first) - int(first) + 1
    return count


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
