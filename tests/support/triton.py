"""NVIDIA's own Triton server over the repository of the conformance tests.

The wheel `nvidia-pytriton` carries the C++ server with its Python back end, in which each model is
a few lines around ONNX Runtime. It wants an environment of its own:

    python -m venv .venv-triton && .venv-triton/bin/pip install nvidia-pytriton onnxruntime
    python -m tests.support.triton .venv-triton                    # the conformance suite
    python -m tests.support.triton .venv-triton COMMAND ARGUMENT…  # any other command

A command finds the server's addresses in place of `{http}` and `{grpc}` in its arguments.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from tests.support.repositories import write_conformance_repository
from tests.support.waiting import wait_until

_START_S = 240.0
_STOP_S = 30.0
_WATCH_S = 0.1
_SHARED_BYTES = 32 * 1024 * 1024

_SUITE = (
    "pytest", "tests/conformance", "--oip-http", "{http}", "--oip-grpc", "{grpc}",
    "--ignore", "tests/conformance/test_connections.py",  # of HTTP itself, at length
)  # fmt: skip

_MODEL = """
import json
import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.batching = int(config["max_batch_size"]) > 0
        self.decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests):
        if self.decoupled:
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            for request in requests:
                request.get_response_sender().send(self.alone(request), flags=final)
            return None
        if self.batching and len(requests) > 1:
            try:
                return self.together(requests)
            except Exception:
                pass  # shapes that do not go together: one by one
        return [self.alone(request) for request in requests]

    def alone(self, request):
        try:
            return self.response(self.run({n: self.tensor(request, n) for n in self.inputs}))
        except Exception as err:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(err)))

    def together(self, requests):
        rows = [len(self.tensor(request, self.inputs[0])) for request in requests]
        feeds = {
            n: np.concatenate([self.tensor(request, n) for request in requests])
            for n in self.inputs
        }
        outputs, ends = self.run(feeds), np.cumsum(rows)
        return [
            self.response([output[end - count : end] for output in outputs])
            for count, end in zip(rows, ends)
        ]

    def run(self, feeds):
        return self.session.run(self.outputs, feeds)

    def response(self, outputs):
        tensors = []
        for name, output in zip(self.outputs, outputs):
            if output.dtype == object:
                flat = np.array([text.encode() for text in output.ravel()] or [], dtype=object)
                output = flat.reshape(output.shape)
            tensors.append(pb_utils.Tensor(name, output))
        return pb_utils.InferenceResponse(tensors)

    @staticmethod
    def tensor(request, name):
        array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        if array.dtype == object:
            flat = np.array([item.decode() for item in array.ravel()] or [], dtype=object)
            return flat.reshape(array.shape)
        return array
"""


def wrap_repository(root: Path) -> None:
    """Have every model of a repository served by the Python back end."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        path = folder / "config.pbtxt"
        config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        config.backend = "python"
        if not config.instance_group:
            config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
        for version in folder.glob("[0-9]*"):
            (version / "model.py").write_text(_MODEL, encoding="utf-8")


@contextlib.contextmanager
def triton(environment: Path, repository: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Triton over a repository; yields its HTTP URL and its gRPC address.

    Args:
        environment: virtual environment with nvidia-pytriton and onnxruntime.
        repository: of models for the Python back end.
        options: further arguments of `tritonserver`.
    """
    environment = environment.absolute()
    (package,) = environment.glob("lib/python3.*/site-packages/pytriton")
    python = package.parents[1].name.removeprefix("python")
    server = package / "tritonserver"
    http, grpc, metrics = (_free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        backends = Path(folder, "backends")
        shutil.copytree(server / "backends" / "python", backends / "python")
        stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
        shutil.copy(stub, backends / "python")
        command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-default-byte-size={_SHARED_BYTES}",
            f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}",
            "--http-address=127.0.0.1", "--grpc-address=127.0.0.1",
            "--disable-auto-complete-config", *options,
        ]  # fmt: skip
        settings = os.environ | {
            "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(package.parent),
            "OMP_NUM_THREADS": "1",
        }
        with _kept_running(command, settings):
            url = f"http://127.0.0.1:{http}"
            wait_until(lambda: _answers(url), "readiness", deadline_s=_START_S)
            yield url, f"127.0.0.1:{grpc}"


@contextlib.contextmanager
def _kept_running(command: list[str], settings: dict[str, str]) -> Iterator[None]:
    """A process that is started anew when it ends: some requests end Triton."""
    process = subprocess.Popen(command, env=settings)
    ending = threading.Event()

    def keep() -> None:
        nonlocal process
        while not ending.wait(_WATCH_S):
            if process.poll() is not None:
                process = subprocess.Popen(command, env=settings)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        ending.set()
        keeper.join()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    """Serve the conformance models while a command runs; its exit status."""
    environment, command = Path(arguments[0]), arguments[1:] or _SUITE
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_conformance_repository(repository)
        wrap_repository(repository)
        options = ("--model-control-mode=explicit", "--load-model=*")
        with triton(environment, repository, *options) as (http, grpc):
            resolved = [part.replace("{http}", http).replace("{grpc}", grpc) for part in command]
            return subprocess.run(resolved, check=False).returncode


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
