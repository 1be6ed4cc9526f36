"""What made a model: code, packages and machine."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "pillow", "scikit-learn", "torch")
_GIT_TIMEOUT_S = 10


def code_version() -> str:
    """The commit this code was run from, with `-dirty` where files differ from it.

    The version of the package where the code does not lie in a git repository of its own.
    """
    here = Path(__file__)
    try:
        # Installed packages may lie inside somebody else's repository, which does not track them.
        _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
        return _git("describe", "--always", "--dirty", "--abbrev=40", folder=here.parent)
    except (OSError, subprocess.SubprocessError):
        return version("atril")


def package_versions() -> dict[str, str]:
    """Versions of Python, of Atril and of the packages that decide what a training gives."""
    packages = {name: version(name) for name in ("atril", *_PACKAGES)}
    return {"python": platform.python_version(), **packages}


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
    )
    return done.stdout.strip()
