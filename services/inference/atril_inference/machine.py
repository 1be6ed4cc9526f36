"""The machine's metrics under Triton's names (protocol reference 3.1): host and GPUs."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.registry import Collector

from atril_inference.gpus import GpuReading, read_gpus

_PROC = Path("/proc")
_GPU = ["gpu_uuid"]


class MachineCollector(Collector):
    """Reads the machine at each scrape; what it does not tell has a family without samples.

    Args:
        proc: where the kernel tells of the host; another folder in tests.
    """

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._last = self._cpu_times()
        self._utilization = 0.0

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._host()
        yield from _gpus(read_gpus())

    def _host(self) -> Iterator[Metric]:
        utilization = GaugeMetricFamily(
            "nv_cpu_utilization", "Share of all CPUs that was busy since the last scrape, 0 to 1."
        )
        now = self._cpu_times()
        if now and self._last:
            busy, elapsed = now[0] - self._last[0], now[1] - self._last[1]
            if elapsed > 0:  # else the same tick: what was told a moment ago still holds
                self._utilization = min(1.0, max(0.0, busy / elapsed))
            utilization.add_metric([], self._utilization)
        self._last = now
        yield utilization
        memory = self._memory()
        total = GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the host.")
        used = GaugeMetricFamily("nv_cpu_memory_used_bytes", "Memory of the host in use.")
        if memory:
            total.add_metric([], memory[0])
            used.add_metric([], memory[0] - memory[1])
        yield from (total, used)

    def _cpu_times(self) -> tuple[int, int] | None:
        """Busy ticks and all ticks of all CPUs since the host was started."""
        try:
            line = (self._proc / "stat").read_text(encoding="utf-8").splitlines()[0]
            ticks = [int(field) for field in line.split()[1:9]]  # guest time is in user time
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle, waiting for a disk
        except (OSError, ValueError, IndexError):
            return None

    def _memory(self) -> tuple[int, int] | None:
        """Bytes of the host's memory, and how many of them are to be had."""
        try:
            lines = (self._proc / "meminfo").read_text(encoding="utf-8").splitlines()
            sizes = {
                name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
            }
            return sizes["MemTotal"] * 1024, sizes["MemAvailable"] * 1024
        except (OSError, ValueError, IndexError, KeyError):
            return None


def _gpus(readings: list[GpuReading]) -> Iterator[Metric]:
    for name, text, field in (
        ("nv_gpu_utilization", "Share of time in which the GPU was busy, 0 to 1.", "utilization"),
        ("nv_gpu_memory_total_bytes", "Memory of the GPU.", "memory_total_bytes"),
        ("nv_gpu_memory_used_bytes", "Memory of the GPU in use.", "memory_used_bytes"),
        ("nv_gpu_power_usage", "Power that the GPU draws, watts.", "power_usage_w"),
        ("nv_gpu_power_limit", "Most that it may draw, watts.", "power_limit_w"),
        ("nv_energy_consumption", "Energy since its driver was loaded, joules.", "energy_j"),
    ):
        family = UntypedMetricFamily(name, text, labels=_GPU)
        for reading in readings:
            if (value := getattr(reading, field)) is not None:
                family.add_metric([reading.uuid], value)
        yield family
