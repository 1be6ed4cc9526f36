"""NVIDIA's GPUs as their driver tells of them, where there are any.

Needs the package `nvidia-ml-py` (module `pynvml`), which the extra `inference-gpu` brings; without
it, or without a driver, there are no GPUs to tell of.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

_MODULE = "pynvml"


class GpuReading(NamedTuple):
    """One GPU now; None where its driver does not tell.

    Utilisation is a share from 0 to 1, power in watts, energy in joules since the driver was
    loaded.
    """

    uuid: str
    utilization: float | None
    memory_total_bytes: float | None
    memory_used_bytes: float | None
    power_usage_w: float | None
    power_limit_w: float | None
    energy_j: float | None


def read_gpus() -> list[GpuReading]:
    """Every GPU of the machine, in the driver's order."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [_reading(nvml, handle) for handle in handles]


def process_bytes(device_id: int) -> int | None:
    """Memory that this process holds on a GPU; None where there is none or it is not told."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(device_id)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            return None
        own = [p.usedGpuMemory for p in processes if p.pid == os.getpid()]
        return own[0] if own else None


@contextmanager
def _nvml() -> Iterator[Any | None]:
    """NVIDIA's management library, opened; None where it cannot be had."""
    if importlib.util.find_spec(_MODULE) is None:
        yield None
        return
    nvml = importlib.import_module(_MODULE)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _reading(nvml: Any, handle: Any) -> GpuReading:
    def ask(question: Callable[[Any], Any], scale: float = 1.0) -> float | None:
        try:
            return float(question(handle)) * scale
        except nvml.NVMLError:
            return None

    uuid = nvml.nvmlDeviceGetUUID(handle)
    return GpuReading(
        uuid=uuid.decode() if isinstance(uuid, bytes) else uuid,
        utilization=ask(lambda h: nvml.nvmlDeviceGetUtilizationRates(h).gpu, 1e-2),
        memory_total_bytes=ask(lambda h: nvml.nvmlDeviceGetMemoryInfo(h).total),
        memory_used_bytes=ask(lambda h: nvml.nvmlDeviceGetMemoryInfo(h).used),
        power_usage_w=ask(nvml.nvmlDeviceGetPowerUsage, 1e-3),
        power_limit_w=ask(nvml.nvmlDeviceGetPowerManagementLimit, 1e-3),
        energy_j=ask(nvml.nvmlDeviceGetTotalEnergyConsumption, 1e-3),
    )
