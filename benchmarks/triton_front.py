"""NVIDIA's own C++ Triton server, with its Python back end around the same model.

The wheel `nvidia-pytriton` carries the server; it wants an environment of its own:

    python -m venv .venv-triton && .venv-triton/bin/pip install nvidia-pytriton onnxruntime
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.requests import Addresses
from benchmarks.servers import free_ports, running

_MODEL = """
import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            {model!r}, options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(r, "image").as_numpy() for r in requests]
        (rows,) = self.session.run(["probabilities"], {{"image": np.concatenate(images)}})
        responses, start = [], 0
        for image in images:
            end = start + len(image)
            tensor = pb_utils.Tensor("probabilities", rows[start:end])
            responses.append(pb_utils.InferenceResponse([tensor]))
            start = end
        return responses
"""

_CONFIG = """
name: "lenet5"
backend: "python"
max_batch_size: 64
input { name: "image" data_type: TYPE_FP32 dims: [1, 32, 32] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [10] }
dynamic_batching { }
instance_group { kind: KIND_CPU count: 1 }
"""


@contextlib.contextmanager
def triton_front(environment: Path, model: Path, core: int) -> Iterator[Addresses]:
    """Triton on one core, serving `model`.

    Args:
        environment: virtual environment with nvidia-pytriton and onnxruntime.
        model: the `model.onnx` that the other servers serve.
        core: the core that the server is pinned to.
    """
    (package,) = environment.glob("lib/python3.*/site-packages/pytriton")
    python = package.parents[1].name.removeprefix("python")
    server = package / "tritonserver"
    http, grpc, metrics = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        backends, repository = Path(folder, "backends"), Path(folder, "models")
        shutil.copytree(server / "backends" / "python", backends / "python")
        stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
        shutil.copy(stub, backends / "python")
        version = repository / "lenet5" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(_MODEL.format(model=str(model)))
        (version.parent / "config.pbtxt").write_text(_CONFIG)
        command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}",
            "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--log-verbose=0",
        ]  # fmt: skip
        settings = {
            "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(package.parent),
        }
        addresses = Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        with running(command, settings, core, addresses):
            yield addresses
