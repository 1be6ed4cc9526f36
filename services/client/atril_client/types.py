"""What goes in and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Array(Protocol):
    """Anything like a numpy array or a torch tensor."""

    def tolist(self) -> Any:
        """Nested lists of the values."""
        ...


Picture = bytes | Path | Array | Sequence[Sequence[Any]]
"""A PNG or JPEG file, or pixel values 0 … 255 as `[H, W]` or `[H, W, C]`."""

Pictures = Picture | Sequence[Picture]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label, its position among the model's labels, and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The answer for one picture: its most probable labels, most probable first."""

    top: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server's time went, in milliseconds."""

    preprocess_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Classification:
    """One result a picture, in the order in which the pictures were sent."""

    model_name: str
    model_version: str
    results: tuple[Classified, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the server's repository.

    `versions` are those that answer; `reason` says why none does; `task` is empty for a model that
    declares none; `labels` counts a classifier's labels.
    """

    name: str
    versions: tuple[str, ...]
    state: str
    reason: str
    task: str
    labels: int
