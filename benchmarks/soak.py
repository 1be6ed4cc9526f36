"""Whether the memory of a server stays flat while it works.

    python -m benchmarks.soak [--minutes N] [--replicas N]

Callers send mixed requests over HTTP and gRPC for some minutes: four networks (one with a free
length), batches of 1 to 8, lengths of 1 to 256, JSON and binary, and now and then one that is
refused (unknown model, wrong shape, broken body) or that nobody waits for. The server is
`atril serve`, or, with `--replicas`, the gateway over that many replicas. The resident memory of
each process is read from /proc once a second; after the warm-up (a quarter of the time, at least 30
seconds) a line is fitted to it by least squares. Flat means that no process grows by more than
`BOUND` of its resident memory in ten minutes. Ends with status 1 if one does.
"""

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.requests import Addresses, binary_target
from benchmarks.servers import embedded, gateway
from benchmarks.serving import machine
from benchmarks.untrained import INPUT, OUTPUT, Untrained, export_untrained, rows_of, serve_as

MODELS = ("lenet5", "vgg11-narrow", "convolution", "convolution-unbatched")
MAX_BATCH_SIZE = 8
MAX_LENGTH = 256
CALLERS = 4
BOUND = 0.02
"""Growth in ten minutes, as a share of the resident memory, that still counts as flat."""

_WINDOW_S = 600.0
_ODD = 0.05
"""Share of requests that are broken or abandoned."""


@dataclass
class Tally:
    """What the callers have seen, until they are told to stop."""

    answers: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)


class Caller:
    """One connection of each protocol, and a seed of its own."""

    def __init__(self, server: Addresses, networks: Mapping[str, Untrained], seed: int) -> None:
        self._server = server
        self._networks = networks
        self._random = random.Random(seed)
        self._http = httpx.Client(base_url=f"http://{server.http}", timeout=60)
        self._channel = grpc.insecure_channel(server.grpc)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def run(self, tally: Tally) -> None:
        """Send until told to stop."""
        while not tally.stop.is_set():
            tally.answers[self._one()] += 1
        self._http.close()
        self._channel.close()

    def _one(self) -> str:
        """Send one request; what came of it."""
        draw = self._random
        model = draw.choice(MODELS)
        count = draw.randint(1, MAX_BATCH_SIZE)
        rows = rows_of(self._networks[model], count, draw.randint(1, MAX_LENGTH))
        if draw.random() < _ODD:
            return self._odd(model, rows)
        way = draw.choice((self._binary, self._json, self._grpc))
        shape = way(model, rows)
        if shape[0] != count:
            raise RuntimeError(f"{model}: {count} rows came back as {shape}")
        return way.__name__.strip("_")

    def _binary(self, model: str, rows: NDArray[np.float32]) -> list[int]:
        target = binary_target(self._server.http, model, INPUT, rows, OUTPUT)
        answer = self._http.post(target.url, content=target.body, headers=dict(target.headers))
        answer.raise_for_status()
        head = int(answer.headers["inference-header-content-length"])
        return list(json.loads(answer.content[:head])["outputs"][0]["shape"])

    def _json(self, model: str, rows: NDArray[np.float32]) -> list[int]:
        answer = self._http.post(f"/v2/models/{model}/infer", json=_body(rows)).raise_for_status()
        return list(answer.json()["outputs"][0]["shape"])

    def _grpc(self, model: str, rows: NDArray[np.float32]) -> list[int]:
        answer = self._stub.ModelInfer(_message(model, rows), timeout=60)
        return list(answer.outputs[0].shape)

    def _odd(self, model: str, rows: NDArray[np.float32]) -> str:
        """A request that is refused, or that nobody waits for."""
        kind = self._random.choice(("unknown", "shape", "broken", "abandoned"))
        if kind == "abandoned":
            call = self._stub.ModelInfer.future(_message(model, rows))
            call.cancel()
            return kind
        if kind == "unknown":
            answer = self._http.post("/v2/models/nothing/infer", json=_body(rows))
        elif kind == "shape":
            answer = self._http.post(f"/v2/models/{model}/infer", json=_body(rows[..., None]))
        else:
            answer = self._http.post(f"/v2/models/{model}/infer", content=b'{"inputs": [{')
        if not 400 <= answer.status_code < 500:
            raise RuntimeError(f"{kind}: {answer.status_code}")
        return kind


def _body(rows: NDArray[np.float32]) -> dict[str, object]:
    tensor = {"name": INPUT, "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor]}


def _message(model: str, rows: NDArray[np.float32]) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    return message


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


@contextlib.contextmanager
def calling(server: Addresses, networks: Mapping[str, Untrained]) -> Iterator[Tally]:
    """Callers in threads, for as long as the block takes."""
    tally = Tally()
    callers = [Caller(server, networks, seed) for seed in range(CALLERS)]
    threads = [threading.Thread(target=caller.run, args=(tally,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield tally
        if not all(thread.is_alive() for thread in threads):
            raise RuntimeError("a caller failed; its traceback is above")
    finally:
        tally.stop.set()
        for thread in threads:
            thread.join()


def sample(pids: tuple[int, ...], minutes: float) -> NDArray[np.float64]:
    """Resident memory once a second; one row a sample: seconds, then MiB of each process."""
    began_s = time.monotonic()
    rows = []
    for second in itertools.count():
        now_s = time.monotonic() - began_s
        rows.append([now_s, *(resident_mib(pid) for pid in pids)])
        if now_s >= minutes * 60:
            return np.array(rows)
        time.sleep(max(0.0, second + 1 - now_s))
    raise AssertionError("unreachable")


def is_flat(name: str, seconds: NDArray[np.float64], mib: NDArray[np.float64]) -> bool:
    """Fit a line, print it, judge it."""
    slope, _ = np.polyfit(seconds, mib, 1)
    growth = slope * _WINDOW_S
    flat = bool(growth <= BOUND * np.median(mib))
    print(
        f"{name:10} {mib[0]:8.1f} {mib[-1]:8.1f} {mib.max():8.1f} {slope * 60:+10.3f} "
        f"{growth:+12.2f} {BOUND * np.median(mib):8.2f}  {'flat' if flat else 'GROWS'}"
    )
    return flat


def main() -> int:
    """Run, print, return 1 if a process grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--replicas", type=int, default=0, help="soak the gateway over so many replicas"
    )
    arguments = parser.parse_args()
    print(json.dumps(machine()))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (repository := folder / "repository").mkdir()
        networks = {}
        for model in MODELS:
            made = export_untrained(folder, model.removesuffix("-unbatched"))
            size = 0 if model.endswith("-unbatched") else MAX_BATCH_SIZE
            serve_as(repository, model, made, size)
            networks[model] = made
        if arguments.replicas:
            server = stack.enter_context(gateway(repository, None, arguments.replicas))
            names = ["gateway", *(f"replica {i + 1}" for i in range(arguments.replicas))]
        else:
            server = stack.enter_context(embedded(repository, None))
            names = ["server"]
        tally = stack.enter_context(calling(server, networks))
        rows = sample(server.pids, arguments.minutes)
    warm_up_s = max(30.0, arguments.minutes * 60 / 4)
    seconds, *memory = rows[rows[:, 0] >= warm_up_s].T
    if len(seconds) < 10:
        parser.error("too short: nothing is left after the warm-up of 30 s")
    print(f"{sum(tally.answers.values()):,} requests: {dict(sorted(tally.answers.items()))}")
    print(f"after a warm-up of {warm_up_s:.0f} s, {len(seconds)} samples (MiB):")
    print("process       first     last     peak MiB/minute  in 10 minutes  allowed")
    flat = [is_flat(name, seconds, mib) for name, mib in zip(names, memory, strict=True)]
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())
