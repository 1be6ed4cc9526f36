"""The metrics as a real Prometheus sees them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.servers import free_ports
from tests.support.processes import ServerProcess
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.tools]


def test_dashboard_finds_its_metrics_in_prometheus(
    task_front: ServerProcess,
    replicas: list[ServerProcess],
    digit_png: bytes,
    require_tool: Callable[[str], str],
    root: Path,
    tmp_path: Path,
) -> None:
    """A real Prometheus scrapes both services, and every query of the dashboard has series."""
    prometheus = require_tool("prometheus")
    (port,) = free_ports(1)
    scraped = {
        "gateway": f"127.0.0.1:{task_front.port('metrics')}",
        "inference": f"127.0.0.1:{replicas[0].port('metrics')}",
    }
    config = tmp_path / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "scrape_configs": [
                    {"job_name": job, "static_configs": [{"targets": [target]}]}
                    for job, target in scraped.items()
                ],
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    process = subprocess.Popen(
        [prometheus, *arguments, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    check = [sys.executable, "deploy/ci/check_dashboard.py", url]
    check.append("deploy/grafana/dashboards/atril.json")

    def all_answered() -> bool:
        for server in (task_front, replicas[0]):
            httpx.post(f"{server.http_url}/v2/models/nothing/infer", content=b"{}")
        httpx.post(
            f"{task_front.http_url}/v1/models/lenet5:classify",
            content=digit_png,
            headers={"content-type": "image/png"},
        )
        return subprocess.run(check, cwd=root, capture_output=True, check=False).returncode == 0

    try:
        wait_until(lambda: _answers(f"{url}/-/ready"), "Prometheus")
        wait_until(all_answered, "every query of the dashboard", deadline_s=60)
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
