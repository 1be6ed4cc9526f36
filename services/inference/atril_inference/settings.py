"""What the inference service serves, on which device, and how much it accepts."""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from atril_common.oip.controls import DEFAULT_MAX_LOAD_BYTES
from atril_common.repository import is_model_name
from atril_inference.control import ALL_MODELS, ControlMode
from atril_inference.declaration import DEFAULT_MAX_BATCH_SIZE
from atril_inference.session_options import ArenaStrategy, ConvolutionSearch, Device


class InferenceSettings(BaseSettings):
    """Settings of the engine and its service; environment prefix `ATRIL_INFERENCE_`."""

    model_config = SettingsConfigDict(
        env_prefix="ATRIL_INFERENCE_", frozen=True, protected_namespaces=()
    )

    model_repository: str = "model_repository"
    """A folder in Triton's layout, or a URL such as `s3://bucket/models`."""
    repository_cache: Path | None = None
    """Where files of a URL are kept over restarts; else they go with the process."""
    model_control_mode: ControlMode = ControlMode.POLL
    """Who changes what is loaded after the start: nobody, the repository, or requests."""
    poll_interval_s: float = Field(5.0, ge=0.05, le=86_400)
    """Seconds between two looks at the repository; a change is loaded once two looks agree."""
    load_models: str = ""
    """Under explicit control: what is loaded at the start, names with commas, or `*`."""
    trial_limit_s: float = Field(120.0, ge=0, le=3600)
    """Seconds for loading a version in a child process first; 0 loads it in this one at once."""
    default_max_batch_size: int = Field(DEFAULT_MAX_BATCH_SIZE, ge=0, le=1 << 16)
    """Of models that can be batched and have no configuration; 0 batches none of them."""
    max_model_bytes: int = Field(64 << 30, ge=1024)
    """Most that the files of one version, or of one load request, may hold."""
    device: Device = "cpu"
    """Execution provider that every model must get; a model that does not get it is not ready."""
    intra_op_threads: int = Field(0, ge=0, le=256)
    """Threads of one ONNX Runtime session; 0 takes the container's CPU quota."""
    inter_op_threads: int = Field(1, ge=1, le=256)
    """Threads for nodes that run beside each other, in models whose `execution_mode` is 1."""
    cpu_arena: bool = True
    """Whether a session keeps the memory of its runs for the next ones."""
    arena_shrinkage: bool = False
    """Whether the device's arena gives back after each run what it does not need; costs time."""
    gpu_memory_limit_bytes: int = Field(0, ge=0)
    """Most that the arena of one session may take on the GPU; 0 is no limit."""
    gpu_arena_strategy: ArenaStrategy = "kNextPowerOfTwo"
    convolution_search: ConvolutionSearch = "HEURISTIC"
    """How cuDNN chooses an algorithm for each new shape; EXHAUSTIVE is slow at each of them."""
    cuda_graphs: bool = False
    """Whether each size of batch is captured as a CUDA graph and replayed."""
    warm_up_budget_s: float = Field(30.0, ge=0, le=3600)
    """Seconds for warming up one version; what its configuration lists is run all the same."""
    response_cache_bytes: int = Field(0, ge=0, le=1 << 40)
    """Most that remembered answers take, of models that enable `response_cache`; 0 is no cache."""
    max_queue_size: int = Field(2048, ge=1, le=1_000_000)
    """Most requests that wait for one model; more are answered 503 at once."""
    host: str = "127.0.0.1"
    http_port: int = Field(9000, ge=0, le=65535)
    grpc_port: int = Field(9001, ge=0, le=65535)
    metrics_port: int = Field(9002, ge=0, le=65535)
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, le=1 << 31)
    max_load_bytes: int = Field(DEFAULT_MAX_LOAD_BYTES, ge=1024, le=1 << 31)
    """Largest load request; a model's files may travel in it."""
    trace_file: Path | None = None
    """Where the trace extension writes; without it no trace can be asked for."""
    grpc_max_connection_age_s: float = Field(0.0, ge=0, le=86_400)
    """About when a gRPC connection is ended and made anew, so that clients spread; 0 is never."""
    grpc_keepalive_s: float = Field(60.0, ge=0, le=86_400)
    """When a silent gRPC client is asked for a sign of life; 0 is never."""
    shared_memory: bool = True
    """Whether clients on this machine may leave tensors in POSIX shared memory that they name."""
    drain_s: float = Field(5.0, ge=0, le=300)
    """How long to go on serving after readiness went false on SIGTERM."""

    @field_validator("model_repository", mode="before")
    @classmethod
    def _as_text(cls, location: object) -> object:
        return str(location) if isinstance(location, Path) else location

    @field_validator("load_models")
    @classmethod
    def _names(cls, text: str) -> str:
        for name in filter(None, text.split(",")):
            if name != ALL_MODELS and not is_model_name(name):
                raise ValueError(f"'{name}' is not a model name")
        return text
