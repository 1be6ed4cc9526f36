"""What the inference service serves, on which device, and how much it accepts."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class InferenceSettings(BaseSettings):
    """Settings of the engine and its service; environment prefix `ATRIL_INFERENCE_`."""

    model_config = SettingsConfigDict(
        env_prefix="ATRIL_INFERENCE_", frozen=True, protected_namespaces=()
    )

    model_repository: Path = Path("model_repository")
    device: Literal["cpu", "cuda"] = "cpu"
    """Execution provider that every model must get; a model that does not get it is not ready."""
    intra_op_threads: int = Field(0, ge=0, le=256)
    """Threads of one ONNX Runtime session; 0 takes the container's CPU quota."""
    max_queue_size: int = Field(2048, ge=1, le=1_000_000)
    """Most requests that wait for one model; more are answered 503 at once."""
    host: str = "127.0.0.1"
    http_port: int = Field(9000, ge=0, le=65535)
    grpc_port: int = Field(9001, ge=0, le=65535)
    metrics_port: int = Field(9002, ge=0, le=65535)
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, le=1 << 31)
    drain_s: float = Field(5.0, ge=0, le=300)
    """How long to go on serving after readiness went false on SIGTERM."""
