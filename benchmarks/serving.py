"""How fast LeNet-5 is served, beside the bare ONNX Runtime loop.

    python -m benchmarks.serving [--repository PATH] [--seconds N] [--triton VENV] [--json FILE]

The server is pinned to one core and h2load to another; ONNX Runtime has one thread. Answers are
checked before anything is measured. Figures of different machines cannot be compared: compare
ratios of one run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import measure
from benchmarks.requests import Addresses, Digit, check_answers, digit, newest, targets
from benchmarks.servers import embedded
from benchmarks.triton_front import triton_front

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = (1, 16, 64)

_ROOT = Path(__file__).parents[1]
_PICTURE = _ROOT / "deploy" / "ci" / "digit-3.png"
_PACKAGES = ("atril", "onnxruntime", "uvicorn", "uvloop", "httptools", "orjson", "grpcio")


def bare_loop(model: Path) -> dict[str, float]:
    """Rows a second of the bare loop on the server's core, by batch size."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.bare"]
    run = subprocess.run([*command, str(model)], capture_output=True, check=True, cwd=_ROOT)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def measure_server(name: str, addresses: Addresses, sent: Digit, seconds: int) -> list[Any]:
    """Check a server's answers, then measure it; prints a line a measurement."""
    check_answers(addresses, sent)
    rows = []
    for target in targets(addresses, sent):
        for connections in CONNECTIONS:
            seen = measure(target, connections=connections, seconds=seconds, core=LOAD_CORE)
            print(
                f"{name:10} {target.name:12} {connections:4d} {seen.requests_per_s:10,.0f} "
                f"{seen.p50_ms:9.3f} {seen.p99_ms:9.3f} {seen.failed:7d}",
                flush=True,
            )
            rows.append(
                {
                    "server": name,
                    "protocol": target.name,
                    "connections": connections,
                    "requests_per_s": round(seen.requests_per_s),
                    "p50_ms": round(seen.p50_ms, 3),
                    "p99_ms": round(seen.p99_ms, 3),
                    "failed": seen.failed,
                }
            )
    return rows


def print_ratios(measurements: list[dict[str, Any]]) -> None:
    """Requests a second of ours, divided by Triton's, by protocol and connections."""
    by_server = {
        (m["server"], m["protocol"], m["connections"]): m["requests_per_s"] for m in measurements
    }
    for (server, protocol, connections), ours in by_server.items():
        if server == "embedded":
            ratio = ours / by_server["triton", protocol, connections]
            print(f"embedded / triton  {protocol:12} {connections:4d} {ratio:6.2f}")


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
    parser.add_argument("--seconds", type=int, default=5, help="for each measurement")
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
    with embedded(arguments.repository, SERVER_CORE) as addresses:
        report["measurements"] = measure_server("embedded", addresses, sent, arguments.seconds)
    if arguments.triton:
        model = newest(arguments.repository).resolve()
        with triton_front(arguments.triton.resolve(), model, SERVER_CORE) as addresses:
            report["measurements"] += measure_server("triton", addresses, sent, arguments.seconds)
        print_ratios(report["measurements"])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
