"""Atomic publication of a model version into the repository.

A version is written whole into a staging folder, whose name begins with a dot so that no reader
takes it for a model, and then appears by one rename on the same file system: the model folder the
first time, a version folder after that. Renaming onto a folder that is not empty fails, so of two
publishers that choose the same number one wins and the other takes the next. No lock is held: a
publisher that is killed leaves at most a staging folder behind, which nobody reads.

This module knows files and the configuration; it imports neither torch nor ONNX Runtime.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError, RefusedError
from atril_common.model_config import config_to_text, read_config
from atril_common.repository import (
    CARD_FILE,
    CONFIG_FILE,
    LABELS_FILE,
    is_model_name,
    list_versions,
)
from atril_common.tasks import read_task

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """What is to be published.

    `files` are the version's own, by name, of which one is the graph in most models; `card` is the
    model card without the checksums of the files, which publication adds.
    """

    config: ModelConfig
    labels: tuple[str, ...]
    files: Mapping[str, bytes]
    card: Mapping[str, object]

    @property
    def model_name(self) -> str:
        """The folder of the model."""
        return str(self.config.name)

    def model_files(self) -> dict[str, bytes]:
        """What all versions share, by file name."""
        files = {CONFIG_FILE: config_to_text(self.config).encode()}
        if self.labels:
            files[LABELS_FILE] = "".join(f"{label}\n" for label in self.labels).encode()
        return files


def publish_together(publications: Sequence[Publication], repository: Path) -> tuple[Path, ...]:
    """Publish models that belong together, each as a version of the same number.

    The number is the next one that none of them has. They appear one after the other in the order
    given, each at once; a reader that needs several takes the highest number that all have.

    Returns:
        The folders of the new versions.

    Raises:
        InvalidInputError: a model's name is not one that a repository can hold.
        RefusedError: a version does not fit the model that is there, or the repository cannot be
            written; of the model at fault no reader sees anything new, or, where only the last
            flush to the disk failed, the whole version.
    """
    names = [publication.model_name for publication in publications]
    with _file_errors_refused(", ".join(names), repository):
        while True:
            number = 1 + max(max(list_versions(repository, n), default=0) for n in names)
            folders: list[Path] = []
            for publication in publications:
                folder = _publish(publication, number, repository)
                if folder is None:
                    break  # another publisher took the number: begin again with the next
                folders.append(folder)
            else:
                return tuple(folders)


def _publish(publication: Publication, number: int, repository: Path) -> Path | None:
    """Publish one version under this number; None when another publisher was faster."""
    # Looked at before the check: if another publisher makes the model in between, the rename of a
    # whole model folder fails, and the next turn checks what is there.
    is_there = _is_there(repository / publication.model_name)
    check_fits(publication.config, publication.labels, repository)
    attempt = _publish_version if is_there else _publish_model
    return attempt(publication, number, repository)


def check_fits(config: ModelConfig, labels: tuple[str, ...], repository: Path) -> None:
    """Check that a version of this kind can be published: worth doing before hours of training.

    An operator's changes to other parts of the configuration, such as instances and batching, do
    not matter.

    Raises:
        InvalidInputError: the model's name is not one that a repository can hold, or the
            configuration that is there cannot be read.
        RefusedError: the model is there with other inputs, outputs, labels or task, or the
            repository cannot be read.
    """
    if not is_model_name(config.name):
        raise InvalidInputError(
            f"'{config.name}' is not a model name: expected at most 128 letters, digits and _ . -, "
            f"the first a letter or digit"
        )
    folder = repository / config.name
    with _file_errors_refused(config.name, repository):
        if not _is_there(folder):
            return
        if not (folder / CONFIG_FILE).is_file():
            raise RefusedError(f"{folder} is not a model: it has no {CONFIG_FILE}")
        differences = _differences(read_config(folder / CONFIG_FILE), config)
        published_labels = _read_labels(folder)
    if published_labels != labels:
        differences.append(f"labels are {list(published_labels)}, the new version's {list(labels)}")
    if differences:
        raise RefusedError(
            f"the new version does not fit {folder / CONFIG_FILE}: {'; '.join(differences)}; "
            f"publish it under another name"
        )


@contextmanager
def _file_errors_refused(model_name: str, repository: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise RefusedError(f"cannot publish {model_name} in {repository}: {err}") from err


def _differences(published: ModelConfig, new: ModelConfig) -> list[str]:
    facts = {
        "platform": (published.platform, new.platform),
        "backend": (published.backend, new.backend),
        "input": (list(published.input), list(new.input)),
        "output": (list(published.output), list(new.output)),
        "task": (read_task(published), read_task(new)),
    }
    return [
        f"{name} is {_one_line(old)}, the new version's {_one_line(other)}"
        for name, (old, other) in facts.items()
        if old != other
    ]


def _one_line(fact: object) -> str:
    return " ".join(str(fact).split())


def _read_labels(folder: Path) -> tuple[str, ...]:
    path = folder / LABELS_FILE
    if not path.is_file():
        return ()
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())


def _is_there(model: Path) -> bool:
    """Whether something has the model's name; an empty folder does not count."""
    return model.exists() and not (model.is_dir() and not any(model.iterdir()))


def _publish_model(publication: Publication, number: int, repository: Path) -> Path | None:
    """Publish the model with its first version; None when another publisher was faster."""
    model = repository / publication.model_name
    repository.mkdir(parents=True, exist_ok=True)
    with _staging_folder(repository, publication.model_name) as staging:
        shared = publication.model_files()
        staged = staging / "model"
        _write_version(staged / str(number), publication, shared)
        for name, content in shared.items():
            _write(staged / name, content)
        _sync_folder(staged)
        return model / str(number) if _move(staged, model) else None


def _publish_version(publication: Publication, number: int, repository: Path) -> Path | None:
    """Publish a version of a model that is there; None when another publisher took its number."""
    model = repository / publication.model_name
    with _staging_folder(repository, publication.model_name) as staging:
        shared = {name: (model / name).read_bytes() for name in publication.model_files()}
        staged = staging / str(number)
        _write_version(staged, publication, shared)
        version = model / str(number)
        return version if _move(staged, version) else None


def _write_version(folder: Path, publication: Publication, shared: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    files = {**publication.files, **shared}
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    card = orjson.dumps(
        {**publication.card, "files_sha256": checksums},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )
    for name, content in publication.files.items():
        _write(folder / name, content, read_only=True)
    _write(folder / CARD_FILE, card, read_only=True)
    _sync_folder(folder)


def _move(staged: Path, target: Path) -> bool:
    """Let a folder appear under its name; False when there is one already."""
    try:
        staged.rename(target)
    except OSError as err:
        if err.errno in _TAKEN:
            return False
        raise
    _sync_folder(target.parent)
    return True


@contextmanager
def _staging_folder(repository: Path, model_name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=repository, prefix=f".staging-{model_name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes, *, read_only: bool = False) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        if read_only:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            os.fchmod(file.fileno(), mode & ~0o222)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
