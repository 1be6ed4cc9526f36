"""The dashboard: queries that parse, over metrics that the services have."""

import importlib.util
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
import yaml

_STAGES = ("request", "queue", "compute_input", "compute_infer", "compute_output")
METRICS = {
    "up",
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_pending_request_count",
    "nv_model_load_duration_secs",
    "atril_model_ready",
    "atril_model_provider",
    "atril_requests_total",
    "atril_request_duration_seconds_bucket",
    *(f"nv_inference_{stage}_duration_us" for stage in _STAGES[1:]),
    *(f"nv_inference_{stage}_duration_histogram_us_bucket" for stage in _STAGES),
}
METRIC = re.compile(r"\b(?:nv|atril)_\w+|\bup\b")


@pytest.fixture(scope="module")
def checker(root: Path) -> ModuleType:
    """The script that asks a running Prometheus the dashboard's questions."""
    spec = importlib.util.spec_from_file_location(
        "check_dashboard", root / "deploy/ci/check_dashboard.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dashboard(root: Path) -> Path:
    """The dashboard that Grafana is given."""
    return root / "deploy/grafana/dashboards/atril.json"


def test_queries_are_over_known_metrics(checker: ModuleType, dashboard: Path) -> None:
    """Every metric in a query is one that the services have; a misspelt one would show nothing."""
    used = {name for query in checker.queries(dashboard) for name in METRIC.findall(query.expr)}
    assert used - METRICS == set()


def test_every_metric_is_shown(checker: ModuleType, dashboard: Path) -> None:
    """No metric in the list above goes unseen."""
    used = {name for query in checker.queries(dashboard) for name in METRIC.findall(query.expr)}
    assert METRICS - used == set()


def test_queries_parse(
    checker: ModuleType, dashboard: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    """Prometheus's own parser accepts every query."""
    rules = [
        {"record": f"panel:{number}", "expr": query.expr}
        for number, query in enumerate(checker.queries(dashboard))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [require_tool("promtool"), "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class _FakePrometheus(BaseHTTPRequestHandler):
    """Knows the series `up`, refuses what mentions `sum(`, and finds nothing for the rest."""

    def do_GET(self) -> None:  # http.server's name for it
        status, answer = 200, {"data": {"result": []}}
        if self.path.endswith("query=up"):
            answer = {"data": {"result": [{"value": [0, "1"]}]}}
        elif "sum" in self.path:
            status, answer = 400, {"error": "parse error"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture
def prometheus_url() -> Iterator[str]:
    """Where the fake answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _FakePrometheus) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("expr", "expected"),
    [("up", None), ("nv_inference_request_sucess", "no series"), ("sum(", "parse error")],
)
def test_checker_tells_a_query_that_finds_nothing_from_one_that_is_refused(
    expr: str, expected: str | None, checker: ModuleType, prometheus_url: str
) -> None:
    """The script objects to an empty answer and passes on why a query was refused."""
    assert checker.problem(prometheus_url, checker.Query("panel", expr)) == expected


def test_panels_are_whole(dashboard: Path) -> None:
    """Panels have ids and titles of their own, a text that explains them, and do not overlap."""
    panels = json.loads(dashboard.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        box = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & taken, panel["title"]
        assert box["x"] + box["w"] <= 24, panel["title"]
        taken |= cells


def test_dashboard_takes_the_source_that_is_provisioned(root: Path, dashboard: Path) -> None:
    """Grafana is told of a Prometheus of the kind that the panels ask for, and where to look."""
    provisioning = root / "deploy/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    scrape = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    panels = json.loads(dashboard.read_text())["panels"]
    assert all(
        panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for panel in panels
        if panel["type"] != "row"
    )
    provider = yaml.safe_load((provisioning / "dashboards/atril.yml").read_text())["providers"][0]
    compose = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]["grafana"]
    mounted = {volume.split(":")[1] for volume in compose["volumes"]}
    assert provider["options"]["path"] in mounted
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{dashboard.name}"
