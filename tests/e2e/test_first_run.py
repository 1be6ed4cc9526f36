"""`make run` as a new user meets it."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Run
from tests.support.processes import all_in_one_process, running

pytestmark = pytest.mark.slow


def test_first_run_says_what_it_did(first_run: Run) -> None:
    """It prints the accuracy against its bar, the parity, where it published and all addresses."""
    output = first_run.server.output
    accuracy = re.search(r"quality +test_accuracy (0\.\d+) .*the bar is 0\.9700", output)
    assert accuracy
    assert float(accuracy[1]) >= 0.97
    assert re.search(r"parity +lenet5: PyTorch and ONNX Runtime within .* in 3 cases", output)
    assert f"published  {first_run.repository / 'lenet5' / '1'}" in output
    assert f"Serving lenet5 from {first_run.repository}" in output


def test_printed_curl_line_works_when_pasted(first_run: Run) -> None:
    """The line that is printed, run by a shell as it stands, answers that the digit is a 3."""
    pasted = re.search(r"^curl .*?}'$", first_run.server.output, re.DOTALL | re.MULTILINE)
    assert pasted
    answered = subprocess.run(
        ["bash", "-c", pasted[0]], capture_output=True, text=True, check=True, timeout=60
    )
    best = json.loads(answered.stdout)["results"][0]["top"][0]
    assert best["label"] == "3"
    assert best["probability"] > 0.9


def test_second_run_serves_the_model_that_is_there(first_run: Run) -> None:
    """With a model in the repository nothing is trained, and the version stays."""
    card = first_run.repository / "lenet5" / "1" / "card.json"
    before = card.read_bytes()
    with running(all_in_one_process("run", first_run.repository, {})) as server:
        assert "training" not in server.output
        index = httpx.post(f"{server.http_url}/v2/repository/index").json()
    assert index == [{"name": "lenet5", "version": "1", "state": "READY"}]
    assert card.read_bytes() == before


def test_taken_port_is_told_in_one_line(first_run: Run) -> None:
    """A second server on the same port ends with exit status 1 and names the port."""
    port = first_run.server.port("http")
    server = all_in_one_process("serve", first_run.repository, {"http_port": port})
    try:
        assert server.exit_status(60) == 1
    finally:
        server.stop()
    assert f"atril: cannot listen on 127.0.0.1:{port} (HTTP)" in server.output
    assert "Traceback" not in server.output


def test_repository_that_does_not_exist_is_served_empty(tmp_path: Path) -> None:
    """`atril serve` on a folder that is not there says that there is no model, and answers 404."""
    with running(all_in_one_process("serve", tmp_path / "nowhere", {})) as server:
        assert "Serving no model" in server.output
        answer = httpx.get(f"{server.http_url}/v2/models/lenet5")
    assert answer.status_code == 404
    assert "models here: none" in answer.json()["error"]
