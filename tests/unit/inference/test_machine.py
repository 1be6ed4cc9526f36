"""The machine's metrics under Triton's names (3.1), from fake kernels and drivers."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from atril_inference import gpus
from atril_inference.gpus import process_bytes, read_gpus
from atril_inference.machine import MachineCollector

GPU_NAMES = (
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
)


class Scrape:
    """A registry with the machine's metrics in it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(MachineCollector(proc))

    def value(self, name: str, **labels: str) -> float | None:
        """The value of a sample now; None where there is none."""
        return self.registry.get_sample_value(name, labels)


def kernel(folder: Path, stat: str, memory: str = "") -> Path:
    """A folder like `/proc`."""
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"cpu  {stat}\ncpu0 1 2 3\n")
    (folder / "meminfo").write_text(memory)
    return folder


def test_the_host_of_this_process_is_told() -> None:
    """3.1: names without labels, from the real kernel."""
    scrape = Scrape()
    total = scrape.value("nv_cpu_memory_total_bytes")
    used = scrape.value("nv_cpu_memory_used_bytes")
    assert total is not None
    assert used is not None
    assert 0 < used < total


def test_utilization_is_what_was_busy_since_the_last_scrape(tmp_path: Path) -> None:
    """User, nice, system, interrupts and steal are busy; idle and waiting for a disk are not."""
    scrape = Scrape(kernel(tmp_path, "100 0 100 700 100 0 0 0 50 0"))
    kernel(tmp_path, "110 5 110 750 110 5 5 5 60 0")  # 40 ticks of 100
    assert scrape.value("nv_cpu_utilization") == pytest.approx(0.4)
    kernel(tmp_path, "210 5 110 750 110 5 5 5 160 0")
    assert scrape.value("nv_cpu_utilization") == pytest.approx(1.0)


def test_a_scrape_in_the_same_tick_tells_the_same(tmp_path: Path) -> None:
    """No time has passed, so there is nothing new to tell; zero before anything was measured."""
    scrape = Scrape(kernel(tmp_path, "100 0 100 700 100 0 0 0 0 0"))
    assert scrape.value("nv_cpu_utilization") == 0.0
    kernel(tmp_path, "150 0 100 750 100 0 0 0 0 0")
    assert scrape.value("nv_cpu_utilization") == scrape.value("nv_cpu_utilization") == 0.5


def test_memory_in_use_is_what_is_not_available(tmp_path: Path) -> None:
    """Kilobytes in the kernel's file, bytes in the metric; caches do not count as used."""
    memory = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\nHugePages_Total: 0\n"
    scrape = Scrape(kernel(tmp_path, "1 2", memory))
    assert scrape.value("nv_cpu_memory_total_bytes") == 1000 * 1024
    assert scrape.value("nv_cpu_memory_used_bytes") == 400 * 1024


@pytest.mark.parametrize("memory", ["", "MemTotal: 1 kB\n", "nothing\n", "MemTotal: much kB\n"])
def test_a_kernel_that_does_not_tell_has_no_samples(tmp_path: Path, memory: str) -> None:
    """The families are there, empty."""
    scrape = Scrape(kernel(tmp_path, "x", memory))
    for name in ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"):
        assert scrape.value(name) is None
    assert Scrape(tmp_path / "nowhere").value("nv_cpu_utilization") is None


class NvmlError(Exception):
    """What the driver's library raises."""


def nvml(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> list[str]:
    """Install a driver's library that knows two GPUs; returns what was opened and closed."""
    calls: list[str] = []

    def refuse(_: Any) -> None:
        raise NvmlError("not supported")

    module: Any = ModuleType("pynvml")
    module.NVMLError = NvmlError
    module.nvmlInit = lambda: calls.append("open")
    module.nvmlShutdown = lambda: calls.append("close")
    module.nvmlDeviceGetCount = lambda: 2
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUUID = lambda handle: [b"GPU-0", "GPU-1"][handle]
    module.nvmlDeviceGetUtilizationRates = lambda _: SimpleNamespace(gpu=25)
    module.nvmlDeviceGetMemoryInfo = lambda h: SimpleNamespace(total=1000 + h, used=10)
    module.nvmlDeviceGetPowerUsage = lambda _: 70_000
    module.nvmlDeviceGetPowerManagementLimit = refuse
    module.nvmlDeviceGetTotalEnergyConsumption = lambda _: 5_000
    module.nvmlDeviceGetComputeRunningProcesses = lambda h: [
        SimpleNamespace(pid=1, usedGpuMemory=1),
        *([SimpleNamespace(pid=os.getpid(), usedGpuMemory=77)] if h == 1 else []),
    ]
    for name, answer in answers.items():
        setattr(module, name, answer)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda _: object())
    return calls


def test_a_machine_without_the_drivers_library_has_no_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package is optional; the families are there, empty."""
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda _: None)
    assert read_gpus() == []
    assert process_bytes(0) is None
    assert all(Scrape().value(name, gpu_uuid="GPU-0") is None for name in GPU_NAMES)


def test_each_gpu_is_told_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.1: label `gpu_uuid`; a share, bytes, watts and joules."""
    calls = nvml(monkeypatch)
    scrape = Scrape()
    values = {name: scrape.value(name, gpu_uuid="GPU-0") for name in GPU_NAMES}
    assert values == {
        "nv_gpu_utilization": 0.25,
        "nv_gpu_memory_total_bytes": 1000.0,
        "nv_gpu_memory_used_bytes": 10.0,
        "nv_gpu_power_usage": 70.0,
        "nv_gpu_power_limit": None,
        "nv_energy_consumption": 5.0,
    }
    assert scrape.value("nv_gpu_memory_total_bytes", gpu_uuid="GPU-1") == 1001.0
    assert calls.count("open") == calls.count("close") > 0


def test_a_library_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may be installed where no driver is."""

    def refuse() -> None:
        raise NvmlError("driver not loaded")

    nvml(monkeypatch, nvmlInit=refuse)
    assert read_gpus() == []


def test_the_memory_of_this_process_is_told_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes do not count; a driver that refuses tells nothing."""
    nvml(monkeypatch)
    assert process_bytes(1) == 77
    assert process_bytes(0) is None

    def refuse(_: int) -> None:
        raise NvmlError("no such device")

    nvml(monkeypatch, nvmlDeviceGetHandleByIndex=refuse)
    assert process_bytes(7) is None
