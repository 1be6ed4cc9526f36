"""How fast LeNet-5 is served, beside the bare ONNX Runtime loop.

    python -m benchmarks.serving [--seconds N] [--rounds N] [--gateway] [--triton VENV]

The server is pinned to one core and h2load to another; ONNX Runtime has one thread. Answers are
checked before anything is measured. Figures of different machines cannot be compared: compare
ratios of one run.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import Measurement, measure
from benchmarks.requests import Addresses, Digit, check_answers, digit, newest, targets
from benchmarks.servers import embedded, gateway
from benchmarks.triton_front import triton_front

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = (1, 16, 64)
_PROTOCOLS = 3

_ROOT = Path(__file__).parents[1]
_PICTURE = _ROOT / "deploy" / "ci" / "digit-3.png"
_PACKAGES = ("atril", "onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "grpcio")


def bare_loop(model: Path) -> dict[str, float]:
    """Rows a second of the bare loop on the server's core, by batch size."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.bare"]
    run = subprocess.run([*command, str(model)], capture_output=True, check=True, cwd=_ROOT)
    result: dict[str, tuple[float, float]] = json.loads(run.stdout)
    return {size: rows_per_s for size, (rows_per_s, _) in result.items()}


def measure_servers(
    servers: dict[str, Addresses], sent: Digit, seconds: int, rounds: int
) -> list[dict[str, Any]]:
    """Check every server's answers, then measure them in turn; prints a line a measurement.

    A shared machine is now faster and now slower, so each figure is the median of rounds in which
    the servers take turns.
    """
    for addresses in servers.values():
        check_answers(addresses, sent)
    by_server = {name: targets(addresses, sent) for name, addresses in servers.items()}
    rows = []
    for position, connections in itertools.product(range(_PROTOCOLS), CONNECTIONS):
        seen: dict[str, list[Measurement]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, ways in by_server.items():
                seen[name].append(
                    measure(
                        ways[position], connections=connections, seconds=seconds, core=LOAD_CORE
                    )
                )
        for name, ways in by_server.items():
            rows.append(_row(name, ways[position].name, connections, seen[name]))
    return rows


def _row(server: str, protocol: str, connections: int, seen: list[Measurement]) -> dict[str, Any]:
    row = {
        "server": server,
        "protocol": protocol,
        "connections": connections,
        "requests_per_s": round(statistics.median(m.requests_per_s for m in seen)),
        "p50_ms": round(statistics.median(m.p50_ms for m in seen), 3),
        "p99_ms": round(statistics.median(m.p99_ms for m in seen), 3),
        "failed": sum(m.failed for m in seen),
    }
    print(
        f"{server:10} {protocol:12} {connections:4d} {row['requests_per_s']:10,d} "
        f"{row['p50_ms']:9.3f} {row['p99_ms']:9.3f} {row['failed']:7d}",
        flush=True,
    )
    return row


def print_ratios(measurements: list[dict[str, Any]]) -> None:
    """Requests a second of ours, divided by Triton's, by protocol and connections."""
    by_server = {
        (m["server"], m["protocol"], m["connections"]): m["requests_per_s"] for m in measurements
    }
    for (server, protocol, connections), ours in by_server.items():
        if server != "triton":
            ratio = ours / by_server["triton", protocol, connections]
            print(f"{server:8} / triton  {protocol:12} {connections:4d} {ratio:6.2f}")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, default=_ROOT / "model_repository")
    parser.add_argument("--seconds", type=int, default=2, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument(
        "--gateway", action="store_true", help="measure the gateway over one replica, too"
    )
    parser.add_argument(
        "--triton", type=Path, help="measure Triton too: see benchmarks/triton_front.py"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("needs two cores: one for the server, one for the load generator")
    if not (arguments.repository / "lenet5").is_dir():
        train = [sys.executable, "-m", "atril_cli", "train", "lenet5"]
        subprocess.run([*train, "--repository", str(arguments.repository)], check=True)
    report: dict[str, Any] = {"machine": machine()}
    print(json.dumps(report["machine"]))
    report["bare_onnxruntime"] = bare_loop(newest(arguments.repository))
    for batch_size, rows_per_s in report["bare_onnxruntime"].items():
        print(f"bare ONNX Runtime loop, batch {batch_size:>2}: {rows_per_s:,.0f} rows/s")
    print("server     protocol     conn       req/s    p50 ms    p99 ms  failed")
    sent = digit(arguments.repository, _PICTURE)
    with contextlib.ExitStack() as stack:
        repository = arguments.repository
        servers = {"embedded": stack.enter_context(embedded(repository, SERVER_CORE))}
        if arguments.gateway:
            servers["gateway"] = stack.enter_context(gateway(repository, SERVER_CORE))
        if arguments.triton:
            model, environment = newest(repository).resolve(), arguments.triton.resolve()
            servers["triton"] = stack.enter_context(triton_front(environment, model, SERVER_CORE))
        report["measurements"] = measure_servers(servers, sent, arguments.seconds, arguments.rounds)
    if arguments.triton:
        print_ratios(report["measurements"])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
