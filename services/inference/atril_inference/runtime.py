"""Opening a session of ONNX Runtime, and its errors in clear words."""

import re
from pathlib import Path

import onnxruntime as ort

from atril_common.errors import NotReadyError
from atril_inference.io_binding import GRAPH_ID
from atril_inference.providers import Placement, placement_of, provider_options
from atril_inference.session_options import SessionOptions

_GRAPH_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

_NEWER_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEWER_OPSET = re.compile(r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)")
_PREAMBLE = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+) : (?:/\S*\.(?:cc|h):\d+ .*?\) )?")


def open_session(
    path: Path, options: SessionOptions
) -> tuple[ort.InferenceSession, Placement, ort.RunOptions | None]:
    """Open a model file; with it, where its nodes run and the options of each run, if any.

    Raises:
        NotReadyError: the file is not a model that this runtime can run, or the device that was
            asked for is not in force; the text gives the reason.
    """
    providers = provider_options(options)
    if options.device != "cpu":
        ort.preload_dlls()  # from the wheels of CUDA and cuDNN, where the system has none
    try:
        session = ort.InferenceSession(
            str(path), _session_options(options), providers=providers, enable_fallback=0
        )
    except Exception as err:  # onnxruntime's errors share no base class
        raise NotReadyError(f"{path.name} cannot be loaded: {reason_of(err)}") from err
    return session, placement_of(session, options, path), _run_options(options)


def reason_of(error: Exception) -> str:
    """The first line of an error, without the place in ONNX Runtime's sources."""
    text = str(error)
    if found := _NEWER_IR.search(text):
        return (
            f"it has IR version {found[1]}, and onnxruntime {ort.__version__} reads versions up "
            f"to {found[2]}; export it with an older IR version, or update onnxruntime"
        )
    if found := _NEWER_OPSET.search(text):
        return (
            f"it uses opset {found[1]} of domain {found[2]}, and onnxruntime {ort.__version__} "
            f"reads opsets up to {found[3]}; export it with an older opset, or update onnxruntime"
        )
    text = _PREAMBLE.sub(r"\1: ", text, count=1).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _session_options(options: SessionOptions) -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.intra_op_num_threads = options.intra_op_threads
    made.inter_op_num_threads = options.inter_op_threads
    if options.parallel:
        made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    made.graph_optimization_level = _GRAPH_LEVELS[options.graph_level]
    made.enable_cpu_mem_arena = options.cpu_arena
    made.enable_mem_pattern = options.memory_pattern
    made.log_severity_level = 4  # its errors are raised, and logged by us
    # Threads that spin while idle would take the core from the server itself.
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made.add_session_config_entry("session.inter_op.allow_spinning", "0")
    made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.device_allocator_for_initializers:
        made.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return made


def _run_options(options: SessionOptions) -> ort.RunOptions | None:
    """Options of runs that have no buffers of their own."""
    entries = {}
    arenas = options.arenas_to_shrink
    if options.shrink_arena and not arenas:
        arenas = "cpu:0" if options.device == "cpu" else f"gpu:{options.device_id}"
    if arenas:
        entries["memory.enable_memory_arena_shrinkage"] = arenas
    if options.cuda_graphs:
        entries[GRAPH_ID] = "-1"
    if not entries:
        return None
    made = ort.RunOptions()
    for name, value in entries.items():
        made.add_run_config_entry(name, value)
    return made
