"""The real servers, each a process of its own."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_until

_PRINTED = {"OIP, HTTP": "http", "OIP, gRPC": "grpc", "Metrics": "metrics"}
_START_S = 240.0
_STOP_S = 20.0


class Metrics:
    """One scrape of a metrics port."""

    def __init__(self, text: str) -> None:
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self.samples = [s for family in self.families.values() for s in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The value of the one sample with this name and these labels.

        Raises:
            KeyError: there is none, or more than one.
        """
        found = [
            s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()
        ]
        if len(found) != 1:
            raise KeyError(f"{name} {labels}: {len(found)} samples")
        return float(found[0])


class ServerProcess:
    """A server as a process of its own: the ports it took and the lines it wrote.

    Args:
        arguments: after `python -m`.
        settings: environment variables; others that begin with ATRIL_ are taken away.
    """

    def __init__(self, arguments: list[str], settings: dict[str, object]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATRIL_")}
        environment.update({name: str(value) for name, value in settings.items()})
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._ports: dict[str, int] = {}
        self._spoke = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return "".join(self.lines)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log lines, parsed."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    @property
    def http_url(self) -> str:
        """Base URL of its HTTP port."""
        return f"http://127.0.0.1:{self.port('http')}"

    @property
    def grpc_address(self) -> str:
        """Host and port of its gRPC port."""
        return f"127.0.0.1:{self.port('grpc')}"

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self.port('metrics')}/metrics"

    def metrics(self) -> "Metrics":
        """A scrape."""
        return Metrics(httpx.get(self.metrics_url).text)

    def port(self, name: str) -> int:
        """A port in force, from the line that the process logs once it listens."""
        self._spoke.wait(_START_S)
        if name not in self._ports:
            raise RuntimeError(f"it did not start:\n{self.output}")
        return self._ports[name]

    def wait_ready(self) -> None:
        """Wait for readiness over HTTP."""
        url = f"{self.http_url}/v2/health/ready"
        wait_until(lambda: self._answers(url), "readiness", deadline_s=_START_S, report=self.output)

    def wait_loaded(self, *versions: tuple[str, str]) -> None:
        """Wait until each (model, version) is in the index and no longer loading, ready or not."""
        url = f"{self.http_url}/v2/repository/index"

        def loaded() -> bool:
            entries = httpx.post(url).json()
            done = {
                (e["name"], e.get("version", "")) for e in entries if e.get("state") != "LOADING"
            }
            return done.issuperset(versions)

        wait_until(loaded, f"{versions}", deadline_s=_START_S, report=self.output)

    def exit_status(self, deadline_s: float = _STOP_S) -> int:
        """Wait for the process to end; its exit status."""
        status = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        return status

    def stop(self) -> None:
        """End the process, by force if it does not end by itself."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(_STOP_S)
        self._reader.join(_STOP_S)

    def _answers(self, url: str) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended:\n{self.output}")
        return httpx.get(url).status_code == 200

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line)
                self._ports |= self._ports_in(line)
                if {"http", "grpc", "metrics"} <= self._ports.keys():
                    self._spoke.set()
        self._spoke.set()

    def _ports_in(self, line: str) -> dict[str, int]:
        """The ports that a line tells: a service logs them, `atril serve` prints them."""
        if '"event":"serving"' in line:
            logged = json.loads(line)
            return {name: logged[name] for name in ("http", "grpc", "metrics")}
        printed = re.search(r"(OIP, HTTP|OIP, gRPC|Metrics) +(?:http://)?localhost:([0-9]+)", line)
        return {_PRINTED[printed[1]]: int(printed[2])} if printed else {}


def inference_process(repository: Path, settings: dict[str, object]) -> ServerProcess:
    """`python -m atril_inference`; settings as in `InferenceSettings`."""
    given = _on_free_ports(settings) | {"model_repository": repository}
    given.setdefault("intra_op_threads", 1)
    return ServerProcess(["atril_inference"], _prefixed("ATRIL_INFERENCE_", given))


def gateway_process(replicas: list[ServerProcess], settings: dict[str, object]) -> ServerProcess:
    """`python -m atril_gateway` over replicas; settings as in `GatewaySettings`."""
    addresses = ",".join(replica.grpc_address for replica in replicas)
    given = _on_free_ports(settings) | {"replicas": addresses}
    return ServerProcess(["atril_gateway"], _prefixed("ATRIL_GATEWAY_", given))


def all_in_one_process(
    command: str,
    repository: Path,
    settings: dict[str, object],
    inference: dict[str, object] | None = None,
) -> ServerProcess:
    """`atril serve` or `atril run`; settings as in `GatewaySettings` and `InferenceSettings`."""
    given = _prefixed("ATRIL_GATEWAY_", _on_free_ports(settings))
    given |= _prefixed("ATRIL_INFERENCE_", {"intra_op_threads": 1} | (inference or {}))
    return ServerProcess(["atril_cli", command, "--repository", str(repository)], given)


def _on_free_ports(settings: dict[str, object]) -> dict[str, object]:
    return {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "drain_s": 0} | settings


def _prefixed(prefix: str, settings: dict[str, object]) -> dict[str, object]:
    return {f"{prefix}{name.upper()}": value for name, value in settings.items()}


@contextmanager
def started(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server, ready or not, ended afterwards."""
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """A server that is ready, ended afterwards."""
    with started(server):
        server.wait_ready()
        yield server


def started_server(repository: Path, **settings: object) -> AbstractContextManager[ServerProcess]:
    """The inference service over a repository, ready or not; settings as in `InferenceSettings`."""
    return started(inference_process(repository, settings))


def running_server(repository: Path, **settings: object) -> AbstractContextManager[ServerProcess]:
    """The inference service over a repository, ready."""
    return running(inference_process(repository, settings))
