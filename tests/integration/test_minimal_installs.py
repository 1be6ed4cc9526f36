"""Each serving extra alone, in an environment of its own: it imports, and there is no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

_CHECK = """
import importlib, importlib.util, sys
for name in {modules!r}:
    importlib.import_module(name)
found = [name for name in {absent!r} if importlib.util.find_spec(name)]
sys.exit(f"installed all the same: {{found}}" if found else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "modules", "absent"),
    [
        (
            "gateway",
            ["atril_gateway.__main__", "atril_gateway.service"],
            ["torch", "onnx", "onnxruntime", "sklearn"],
        ),
        (
            "inference",
            ["atril_inference.__main__", "atril_inference.service"],
            ["torch", "onnx", "sklearn", "PIL"],
        ),
        ("client", ["atril_client"], ["torch", "onnxruntime", "fastapi"]),
    ],
)
def test_an_extra_alone_imports_its_service_without_torch(
    extra: str, modules: list[str], absent: list[str], root: Path, tmp_path: Path
) -> None:
    """A serving install has what its service imports and none of what only training needs."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    constraints = root / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", constraints, f"{root}[{extra}]"], check=True)
    check = _CHECK.format(modules=modules, absent=absent)
    result = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
