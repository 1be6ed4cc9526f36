"""h2load as a load generator: one target, one number of connections, latencies of every request."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way to send one request body to one server."""

    name: str
    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    http1: bool = True


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run saw; latencies in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def measure(target: Target, *, connections: int, seconds: int, core: int) -> Measurement:
    """Keep `connections` requests under way for a time.

    Args:
        target: what to send where.
        connections: connections, each with one request at a time.
        seconds: how long, after a warm-up of one second.
        core: the core that h2load is pinned to.

    Raises:
        RuntimeError: h2load failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(target.body)
        command = [
            "taskset", "-c", str(core),
            "h2load", "-D", str(seconds), "--warm-up-time", "1", "-c", str(connections), "-m", "1",
            "-d", str(body), f"--log-file={log}",
        ]  # fmt: skip
        if target.http1:
            command.append("--h1")
        for name, value in target.headers.items():
            command += ["-H", f"{name}: {value}"]
        run = subprocess.run([*command, target.url], capture_output=True, text=True, check=False)
        if run.returncode or not log.is_file():
            raise RuntimeError(f"h2load failed: {run.stderr or run.stdout}")
        return _read_log(log)


def _read_log(log: Path) -> Measurement:
    """Lines of h2load's log: start (microseconds), status, duration (microseconds)."""
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    if not len(rows):
        return Measurement(0.0, float("nan"), float("nan"), 0)
    start, status, duration = rows.T
    good = (status == 200) & (duration >= 0)
    span_s = float((start + duration).max() - start.min()) / 1e6
    p50, p99 = np.percentile(duration[good], (50, 99)) / 1e3 if good.any() else (np.nan, np.nan)
    return Measurement(float(good.sum()) / span_s, float(p50), float(p99), int((~good).sum()))
