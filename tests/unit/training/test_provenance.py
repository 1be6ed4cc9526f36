"""Where a model comes from."""

import platform
import re
from importlib.metadata import version

import torch

from atril_training.provenance import code_version, package_versions


def test_code_version_is_a_commit_or_the_package_version() -> None:
    """A commit where the code lies in its own repository, else the version of the package."""
    got = code_version()
    assert got == version("atril") or re.search(r"[0-9a-f]{40}(-dirty)?$", got)


def test_package_versions_are_those_in_use() -> None:
    """Python and every package that decides what comes out."""
    versions = package_versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert {"atril", "numpy", "onnx", "onnxruntime", "onnxscript", "pillow"} <= set(versions)
