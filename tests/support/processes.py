"""The real inference service as a process of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_until

_START_S = 60.0
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


class InferenceProcess:
    """A running `python -m atril_inference`, the ports it took and the log lines it wrote."""

    def __init__(self, repository: Path, settings: dict[str, object] | None = None) -> None:
        given = {
            "model_repository": repository,
            "http_port": 0,
            "grpc_port": 0,
            "metrics_port": 0,
            "intra_op_threads": 1,
            "drain_s": 0,
        }
        given.update(settings or {})
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ATRIL_")}
        environment.update({f"ATRIL_INFERENCE_{k.upper()}": str(v) for k, v in given.items()})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atril_inference"],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self._ports: dict[str, int] = {}
        self._spoke = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def stderr(self) -> str:
        """Everything it has written to standard error so far."""
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
            raise RuntimeError(f"the inference service did not start:\n{self.stderr}")
        return self._ports[name]

    def wait_ready(self) -> None:
        """Wait for readiness over HTTP."""
        url = f"{self.http_url}/v2/health/ready"
        wait_until(lambda: self._answers(url), "readiness", deadline_s=_START_S, report=self.stderr)

    def wait_loaded(self, *versions: tuple[str, str]) -> None:
        """Wait until each (model, version) is in the index and no longer loading, ready or not."""
        url = f"{self.http_url}/v2/repository/index"

        def loaded() -> bool:
            entries = httpx.post(url).json()
            done = {
                (e["name"], e.get("version", "")) for e in entries if e.get("state") != "LOADING"
            }
            return done.issuperset(versions)

        wait_until(loaded, f"{versions}", deadline_s=_START_S, report=self.stderr)

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
            raise RuntimeError(f"the inference service ended:\n{self.stderr}")
        return httpx.get(url).status_code == 200

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line)
                if '"event":"serving"' in line:
                    self._ports = json.loads(line)
                    self._spoke.set()
        self._spoke.set()


@contextmanager
def started_server(repository: Path, **settings: object) -> Iterator[InferenceProcess]:
    """The inference service over a repository, ready or not; settings as in `InferenceSettings`."""
    server = InferenceProcess(repository, settings)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_server(repository: Path, **settings: object) -> Iterator[InferenceProcess]:
    """The inference service over a repository, ready."""
    with started_server(repository, **settings) as server:
        server.wait_ready()
        yield server
