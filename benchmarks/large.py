"""How much of the bare ONNX Runtime loop is left at the same batch size, for large models.

    python -m benchmarks.large [--seconds N] [--rounds N] [--embedded]

VGG-11 on 3×64×64 and LeNet-5, untrained, behind the inference service (or `atril serve`). The
server is pinned to one core and h2load to another; ONNX Runtime has one thread. Each model is
served with a maximum batch of the size under measurement, once asked by requests that fill it and
once by single rows that the batcher has to put together. The bare loop takes turns with the server.

The share is told twice: by the clock, which is what a caller gets if nothing else runs on the
server's core, and by CPU time, which tells the server's own work from that of others on the core.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Target, send, steady_rate
from benchmarks.requests import Addresses, binary_target
from benchmarks.servers import cpu_seconds, embedded, inference
from benchmarks.serving import LOAD_CORE, SERVER_CORE, machine
from benchmarks.untrained import INPUT, OUTPUT, Untrained, export_untrained, rows_of, serve_as

MODELS = ("vgg11", "lenet5")
BATCH_SIZES = (1, 8, 32)
BAR = 0.9
_ROOT = Path(__file__).parents[1]


class Case(NamedTuple):
    """One model at one batch size, asked in one way."""

    model: str
    network: Untrained
    batch_size: int
    rows: int
    connections: int

    @property
    def served_as(self) -> str:
        """Its name in the repository."""
        return f"{self.model}-{self.batch_size}"

    def target(self, server: Addresses) -> Target:
        """The request."""
        rows = rows_of(self.network, self.rows)
        return binary_target(server.http, self.served_as, INPUT, rows, OUTPUT)


def cases(folder: Path, repository: Path) -> list[Case]:
    """Fill the repository."""
    found = []
    for model in MODELS:
        network = export_untrained(folder, model)
        for size in BATCH_SIZES:
            serve_as(repository, f"{model}-{size}", network, size)
            found.append(Case(model, network, size, rows=size, connections=3))
            if size > 1:
                found.append(Case(model, network, size, rows=1, connections=2 * size))
    return found


class Rate(NamedTuple):
    """Rows a second of the clock, and of CPU time."""

    clock: float
    cpu: float


def bare_loop(case: Case) -> Rate:
    """The loop without a server, on the server's core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.bare"]
    run = subprocess.run(
        [*command, str(case.network.path), str(case.batch_size)],
        capture_output=True,
        check=True,
        cwd=_ROOT,
    )
    return Rate(*json.loads(run.stdout)[str(case.batch_size)])


def served(case: Case, server: Addresses, seconds: int) -> Rate:
    """The same rows through the server."""
    target = case.target(server)
    began_s, cpu_s = time.monotonic(), cpu_seconds(server.pids)
    seen = send(target, connections=case.connections, seconds=seconds, core=LOAD_CORE)
    used = (cpu_seconds(server.pids) - cpu_s) / (time.monotonic() - began_s)
    if (seen[:, 1] != 200).any():
        raise RuntimeError(f"requests failed: {case}")
    rows_per_s = case.rows * steady_rate(seen)
    return Rate(rows_per_s, rows_per_s / used)


def share(case: Case, server: Addresses, seconds: int, rounds: int) -> Rate:
    """Measure a case, print it, return the median shares of the bare loop."""
    pairs = [(bare_loop(case), served(case, server, seconds)) for _ in range(rounds)]
    shares = Rate(
        statistics.median(ours.clock / bare.clock for bare, ours in pairs),
        statistics.median(ours.cpu / bare.cpu for bare, ours in pairs),
    )
    print(
        f"{case.model:8} {case.batch_size:5d} {case.rows:8d} {case.connections:5d} "
        f"{statistics.median(bare.clock for bare, _ in pairs):12,.1f} "
        f"{statistics.median(ours.clock for _, ours in pairs):13,.1f} "
        f"{shares.clock:6.2f} {shares.cpu:8.2f}",
        flush=True,
    )
    return shares


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--embedded", action="store_true", help="measure `atril serve` instead")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("needs two cores: one for the server, one for the load generator")
    print(json.dumps(machine()))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (repository := folder / "repository").mkdir()
        measured = cases(folder, repository)
        start = embedded if arguments.embedded else inference
        server = stack.enter_context(start(repository, SERVER_CORE))
        print("model    batch rows/req  conn  bare rows/s  served rows/s  share  of CPU")
        shares = [share(case, server, arguments.seconds, arguments.rounds) for case in measured]
    large = [s for s, case in zip(shares, measured, strict=True) if case.model == "vgg11"]
    print(
        f"lowest share of the large model: {min(s.clock for s in large):.2f} by the clock, "
        f"{min(s.cpu for s in large):.2f} by CPU time (wanted: {BAR})"
    )


if __name__ == "__main__":
    main()
