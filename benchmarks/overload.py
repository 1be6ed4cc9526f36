"""What is left of the throughput when five times as much is asked as can be done.

    python -m benchmarks.overload [--seconds N] [--factor F] [--gateway]

VGG-11 on 3×64×64 and LeNet-5, untrained, single rows, behind the inference service (or the gateway
over it) with a bounded queue. First the capacity is measured (as many connections as fill two
batches), then requests come at `--factor` times that rate. Goodput is what is answered 200; the
rest must be 503 at once. The share is told by the clock and, for cores that are not alone, by the
server's CPU time.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Target, send, steady_rate
from benchmarks.requests import binary_target
from benchmarks.servers import cpu_seconds, gateway, inference
from benchmarks.serving import LOAD_CORE, SERVER_CORE, machine
from benchmarks.untrained import INPUT, OUTPUT, export_untrained, rows_of, serve_as

MODELS = ("vgg11", "lenet5")
MAX_BATCH_SIZE = 8
QUEUE = 32
CONNECTIONS = 256
"""More than the queue and the batches under way hold, so that there is always one free to ask."""

BAR = 0.9


class Seen(NamedTuple):
    """What a load came to: the log of `send`, and the share of a core that the server used."""

    log: NDArray[np.int64]
    used: float


def load(target: Target, pids: Iterable[int], **how: Any) -> Seen:
    """Send, and look at the server meanwhile."""
    began_s, cpu_s = time.monotonic(), cpu_seconds(pids)
    log = send(target, core=LOAD_CORE, **how)
    return Seen(log, (cpu_seconds(pids) - cpu_s) / (time.monotonic() - began_s))


def overload(target: Target, pids: Iterable[int], seconds: int, factor: float) -> float:
    """Measure one model, print it, return goodput as a share of capacity."""
    alone = load(target, pids, connections=2 * MAX_BATCH_SIZE, seconds=seconds)
    capacity = steady_rate(alone.log)
    flood = load(target, pids, connections=CONNECTIONS, seconds=seconds, rate=factor * capacity)
    start, status, duration = flood.log.T
    span_s = float((start + duration).max() - start.min()) / 1e6
    good, refused = status == 200, status == 503
    goodput = steady_rate(flood.log[good])
    ok, no = (
        np.percentile(duration[kind], (50, 99)) / 1e3 if kind.any() else (np.nan, np.nan)
        for kind in (good, refused)
    )
    print(
        f"{target.name:8} {capacity:9,.1f} {len(duration) / span_s:9,.1f} {goodput:9,.1f} "
        f"{goodput / capacity:6.2f} {goodput / flood.used / (capacity / alone.used):7.2f} "
        f"{refused.sum() / len(duration):8.2f} {int((~good & ~refused).sum()):6d} "
        f"{ok[0]:8.1f} {ok[1]:8.1f} {no[0]:8.1f} {no[1]:8.1f}",
        flush=True,
    )
    return goodput / capacity


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="for each measurement")
    parser.add_argument("--factor", type=float, default=5.0, help="times the capacity")
    parser.add_argument("--gateway", action="store_true", help="through the gateway")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("needs two cores: one for the server, one for the load generator")
    print(json.dumps(machine()))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (repository := folder / "repository").mkdir()
        networks = {model: export_untrained(folder, model) for model in MODELS}
        for model, network in networks.items():
            serve_as(repository, model, network, MAX_BATCH_SIZE, max_queue_size=QUEUE)
        start = gateway if arguments.gateway else inference
        server = stack.enter_context(start(repository, SERVER_CORE))
        print(
            "model     capacity   offered   goodput  share  of CPU  refused  other "
            "  ok p50   ok p99  503 p50  503 p99  (1/s, ms)"
        )
        shares = {
            model: overload(
                binary_target(server.http, model, INPUT, rows_of(network, 1), OUTPUT),
                server.pids,
                arguments.seconds,
                arguments.factor,
            )
            for model, network in networks.items()
        }
    print(f"goodput of the large model: {shares['vgg11']:.2f} of its capacity (wanted: {BAR})")


if __name__ == "__main__":
    main()
