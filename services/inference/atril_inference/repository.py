"""Where models come from: a folder in Triton's layout, read in threads, trusted with nothing.

A repository only says which models there are, what their files look like from outside, and where
on this machine a model's folder is. `sources` reads the folder, `manager` decides what to load.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError, NotFoundError
from atril_common.repository import is_model_name, list_models

MAX_FILES = 10_000
"""Most files that one folder of a repository may hold; a folder of more is not a model's."""

Fingerprint = tuple[tuple[str | int, ...], ...]
"""What a folder's files look like from outside; another one means other files."""


class Repository(Protocol):
    """Models by name. Every method may block and is called in a thread."""

    def names(self) -> list[str]:
        """The models that there are, sorted; none when the repository does not exist yet.

        Raises:
            OSError: the repository cannot be read.
        """
        ...

    def snapshot(self) -> Mapping[str, Fingerprint]:
        """Every model's fingerprint, for a poll.

        Raises:
            OSError: the repository cannot be read, or is not there: that nothing can be seen does
                not mean that all models were removed.
        """
        ...

    def fetch(self, model_name: str, config: ModelConfig | None) -> "ModelFolder":
        """Have a model's folder on this machine, up to date.

        Args:
            model_name: a name of `names`.
            config: stands in for the model's own where it says which versions are wanted.

        Raises:
            NotFoundError: the repository has no such model.
            InvalidInputError: the folder is not one to read; the text says why.
            OSError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of what the repository holds on this machine."""
        ...


class ModelFolder(NamedTuple):
    """A model's folder, and the folder that no file of it may lie outside of."""

    path: Path
    boundary: Path


class LocalRepository:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """See `Repository.names`."""
        return list_models(self._root)

    def snapshot(self) -> Mapping[str, Fingerprint]:
        """See `Repository.snapshot`."""
        if not self._root.is_dir():
            raise FileNotFoundError(f"{self._root} is not a folder")
        return {name: fingerprint(self._root / name) for name in self.names()}

    def fetch(self, model_name: str, config: ModelConfig | None) -> ModelFolder:  # noqa: ARG002
        """See `Repository.fetch`; the files are where they are."""
        path = self._root / model_name
        if not is_model_name(model_name) or not path.is_dir():
            raise NotFoundError(f"the repository has no model '{model_name}'")
        folder = ModelFolder(path, self._root)
        require_inside(path, folder.boundary)
        return folder

    def close(self) -> None:
        """See `Repository.close`; a folder holds nothing."""


def fingerprint(folder: Path) -> Fingerprint:
    """Path, size, time of change and inode of every file below a folder.

    A file that is written while this looks changes the fingerprint again once it is whole.

    Raises:
        OSError: the folder cannot be read, or holds more than `MAX_FILES` files.
    """
    found = []
    for path in _files_below(folder):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # taken away while we looked, or a link to nothing
        relative = path.relative_to(folder).as_posix()
        found.append((relative, status.st_size, status.st_mtime_ns, status.st_ino))
        if len(found) > MAX_FILES:
            raise OSError(f"{folder.name} holds more than {MAX_FILES} files")
    return tuple(sorted(found))


def require_inside(path: Path, boundary: Path) -> None:
    """Follow a path's links and see where it ends.

    Raises:
        InvalidInputError: it leads out of the boundary.
    """
    if not path.resolve().is_relative_to(boundary.resolve()):
        raise InvalidInputError(f"'{path.name}' is a link that leads out of the repository")


def _files_below(folder: Path) -> Iterator[Path]:
    """Files by walking folders and links to folders of the first level, where versions may be."""
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  # its errors are raised, not skipped
        path = folder / name
        if name.startswith("."):
            continue
        if not path.is_dir():
            yield path
            continue
        for parent, _, files in os.walk(path):
            yield from (Path(parent) / file for file in files)
