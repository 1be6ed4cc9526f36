"""h2load as a load generator: one target, one number of connections, latencies of every request."""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
    return _summary(send(target, connections=connections, seconds=seconds, core=core))


def send(
    target: Target, *, connections: int, seconds: int, core: int, rate: float | None = None
) -> NDArray[np.int64]:
    """Send requests for a time; one row a request: start in µs, status, duration in µs.

    Args:
        target: what to send where.
        connections: connections, each with one request at a time.
        seconds: how long; without a rate after a warm-up of one second.
        core: the core that h2load is pinned to.
        rate: requests a second of all connections together; without it each sends its next request
            as soon as it has the answer to the last.

    Raises:
        RuntimeError: h2load failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(target.body)
        command = [
            "taskset", "-c", str(core),
            "h2load", "-D", str(seconds), "-c", str(connections), "-m", "1",
            "-d", str(body), f"--log-file={log}",
        ]  # fmt: skip
        command += ["--warm-up-time=1"] if rate is None else [f"--rps={rate / connections}"]
        if target.http1:
            command.append("--h1")
        for name, value in target.headers.items():
            command += ["-H", f"{name}: {value}"]
        run = subprocess.run([*command, target.url], capture_output=True, text=True, check=False)
        if run.returncode or not log.is_file():
            raise RuntimeError(f"h2load failed: {run.stderr or run.stdout}")
        return np.loadtxt(log, dtype=np.int64, ndmin=2)


def steady_rate(rows: NDArray[np.int64]) -> float:
    """Requests a second where a request takes a good part of the measurement.

    Requests that began before the measurement or were under way at its end are not in the log, so
    only the middle counts, where every request is; one that is partly in it counts by its part.

    Args:
        rows: what `send` returned, every request answered.

    Raises:
        ValueError: the measurement was shorter than three of the slowest requests.
    """
    start, _, duration = rows.T.astype(np.float64)
    first, last = start.min() + duration.max(), (start + duration).max() - duration.max()
    if last - first < duration.max():
        raise ValueError(f"{duration.max() / 1e6:.1f} s a request: measure for longer")
    inside = np.clip(np.minimum(start + duration, last) - np.maximum(start, first), 0, None)
    return float((inside / duration).sum() / (last - first) * 1e6)


def _summary(rows: NDArray[np.int64]) -> Measurement:
    if not len(rows):
        return Measurement(0.0, float("nan"), float("nan"), 0)
    start, status, duration = rows.T
    good = (status == 200) & (duration >= 0)
    span_s = float((start + duration).max() - start.min()) / 1e6
    p50, p99 = np.percentile(duration[good], (50, 99)) / 1e3 if good.any() else (np.nan, np.nan)
    return Measurement(float(good.sum()) / span_s, float(p50), float(p99), int((~good).sum()))
