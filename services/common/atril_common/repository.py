"""The model repository's layout, which training writes and inference reads.

    <root>/<model>/config.pbtxt
    <root>/<model>/labels.txt              (classifiers)
    <root>/<model>/<version>/model.onnx     (or the graphs of a translator)
    <root>/<model>/<version>/card.json

Names that begin with a dot are staging or foreign and are never models.
"""

import re
from pathlib import Path

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
ENCODER_FILE, DECODER_FILE, EXPLAINER_FILE = "encoder.onnx", "decoder.onnx", "explainer.onnx"
"""What a version of a translator (`backend: "atril"`) holds; the last where it attends."""
CARD_FILE = "card.json"
LABELS_FILE = "labels.txt"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def is_model_name(name: str) -> bool:
    """Whether a name may stand for a model: letters, digits, `_ . -`, no leading dot, up to 128."""
    return _MODEL_NAME.fullmatch(name) is not None


def is_version(text: str) -> bool:
    """Whether a folder name is a version: a positive integer without leading zeros."""
    return _VERSION.fullmatch(text) is not None


def list_models(root: Path) -> list[str]:
    """Model folders in a repository, by name; empty when the repository does not exist yet."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if p.is_dir() and is_model_name(p.name))


def list_versions(root: Path, model_name: str) -> list[int]:
    """Versions of a model that have a folder, ascending."""
    folder = root / model_name
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and is_version(p.name))
