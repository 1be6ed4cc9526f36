"""Where the gateway listens, what it accepts and where its inference replicas are."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from atril_common.oip.controls import DEFAULT_MAX_LOAD_BYTES


class GatewaySettings(BaseSettings):
    """Settings of the gateway; environment prefix `ATRIL_GATEWAY_`."""

    model_config = SettingsConfigDict(env_prefix="ATRIL_GATEWAY_", frozen=True)

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=0, le=65535)
    grpc_port: int = Field(8001, ge=0, le=65535)
    metrics_port: int = Field(8002, ge=0, le=65535)
    replicas: str = "127.0.0.1:9001"
    """gRPC addresses of the inference replicas, `host:port`, separated by commas. A name that
    resolves to several addresses (a headless service) stands for one replica each."""
    request_timeout_s: float = Field(30.0, gt=0, le=600)
    max_queue_size: int = Field(2048, ge=1, le=1_000_000)
    """Most requests that wait here for one model of the replicas; more are answered 503 at once. A
    limit in the model's own configuration, times the replicas, comes before it."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, le=1 << 31)
    max_load_bytes: int = Field(DEFAULT_MAX_LOAD_BYTES, ge=1024, le=1 << 31)
    """Largest load request; a model's files may travel in it."""
    trace_file: Path | None = None
    """Where the trace extension writes; without it no trace can be asked for."""
    max_image_pixels: int = Field(50_000_000, ge=1, le=1_000_000_000)
    """Largest width × height of one picture that is decoded."""
    max_pictures: int = Field(256, ge=1, le=4096)
    """Most pictures in one request."""
    decode_threads: int = Field(2, ge=1, le=64)
    """How many requests with big pictures are decoded at once."""
    max_pending_decodes: int = Field(64, ge=1, le=4096)
    """How many requests with big pictures may be decoded or wait for it; more are refused."""
    grpc_max_connection_age_s: float = Field(0.0, ge=0, le=86_400)
    """About when a gRPC connection is ended and made anew, so that clients spread; 0 is never."""
    grpc_keepalive_s: float = Field(60.0, ge=0, le=86_400)
    """When a silent gRPC client is asked for a sign of life; 0 is never."""
    shared_memory: bool = True
    """Whether clients on this machine may leave tensors in POSIX shared memory that they name."""
    drain_s: float = Field(5.0, ge=0, le=300)
    """How long to go on serving after readiness went false on SIGTERM."""
