"""Ask a running Prometheus every question of a Grafana dashboard.

    python deploy/ci/check_dashboard.py http://127.0.0.1:9090 deploy/grafana/dashboards/atril.json

Exits 1 when a query is refused or finds nothing: a misspelt metric is not an error to Prometheus.
"""

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT_S = 10.0

VARIABLES = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "5m", "$model": ".*"}
"""What stands for Grafana's variables when Prometheus is asked directly."""


class Query(NamedTuple):
    """One query of one panel, its variables filled in."""

    panel: str
    expr: str


def queries(dashboard: Path) -> list[Query]:
    """Every query of the dashboard, those of its rows' panels too."""
    found = [
        Query(panel["title"], _filled(target["expr"]))
        for panel in _panels(json.loads(dashboard.read_text())["panels"])
        for target in panel.get("targets", [])
    ]
    if not found:
        raise ValueError(f"{dashboard}: no panel has a query")
    return found


def problem(prometheus_url: str, query: Query) -> str | None:
    """What is wrong with the answer, or None for at least one series."""
    url = f"{prometheus_url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode(
        {"query": query.expr}
    )
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as err:
        return json.load(err).get("error", str(err))
    return None if answer["data"]["result"] else "no series"


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


def _filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    if "$" in expr:
        raise ValueError(f"{expr!r} has a variable that is not one of {', '.join(VARIABLES)}")
    return expr


def main() -> int:
    """Check one dashboard; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus_url")
    parser.add_argument("dashboard", type=Path)
    arguments = parser.parse_args()
    asked = queries(arguments.dashboard)
    wrong = [(q, p) for q in asked if (p := problem(arguments.prometheus_url, q)) is not None]
    for query, what in wrong:
        sys.stdout.write(f"{query.panel}: {what}: {query.expr}\n")
    sys.stdout.write(f"{len(asked) - len(wrong)} of {len(asked)} queries answered\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
