"""Data files: read from a folder, or downloaded once, checked and kept in a cache."""

import hashlib
import os
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from atril_training.errors import CorruptDataError, DataUnavailableError

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a public data set: its place in a data folder, its content, and any URLs."""

    folder: str
    name: str
    size_bytes: int
    sha256: str
    urls: tuple[str, ...]


class FileSource(Protocol):
    """Somewhere data files come from."""

    def read(self, file: DataFile) -> bytes:
        """The content of a file, checked.

        Raises:
            DataUnavailableError: it is not there.
            CorruptDataError: it is there with another content.
        """
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Files that somebody has put under a folder, as `<root>/<folder>/<name>`."""

    root: Path

    def read(self, file: DataFile) -> bytes:
        """The content of a file, checked.

        Raises:
            DataUnavailableError: it is not in the folder.
            CorruptDataError: it is there with another content.
        """
        path = self.root / file.folder / file.name
        try:
            content = path.read_bytes()
        except OSError as err:
            raise DataUnavailableError(
                f"cannot read {path}: {err.strerror}; without a data folder the file is downloaded"
            ) from err
        check_content(file, content, where=str(path))
        return content


@dataclass(frozen=True, slots=True)
class DownloadSource:
    """Files downloaded from the first of their URLs that has them, and kept under a cache folder.

    A file enters the cache by a rename, after its checksum was found right. `timeout_s` bounds each
    wait for the network, `deadline_s` the download of one file from one URL.
    """

    cache: Path
    timeout_s: float = 20.0
    deadline_s: float = 300.0

    def read(self, file: DataFile) -> bytes:
        """The content of a file, from the cache or from the network.

        Raises:
            DataUnavailableError: no URL gave the file; the text has the reason for each.
        """
        path = self.cache / file.folder / file.name
        try:
            content = path.read_bytes()
            check_content(file, content, where=str(path))
        except (OSError, CorruptDataError):  # absent, or spoilt after it was cached: fetch it anew
            content = self._download(file)
            _write_atomically(path, content)
        return content

    def _download(self, file: DataFile) -> bytes:
        if not file.urls:
            raise DataUnavailableError(
                f"{file.name} has no public URL: put it into the folder '{file.folder}' of a data "
                f"folder, and name that with --data-dir or ATRIL_DATA_DIR"
            )
        failures = []
        for url in file.urls:
            try:
                content = self._get(url, file)
                check_content(file, content, where=url)
            except (OSError, HTTPException, CorruptDataError) as err:
                failures.append(f"{url}: {err}")
            else:
                return content
        raise DataUnavailableError(f"cannot download {file.name}: {'; '.join(failures)}")

    def _get(self, url: str, file: DataFile) -> bytes:
        deadline = time.monotonic() + self.deadline_s
        content = bytearray()
        with urllib.request.urlopen(url, timeout=self.timeout_s) as response:
            # One byte more than expected tells a longer file without reading all of it.
            while len(content) <= file.size_bytes and (chunk := response.read1(CHUNK_BYTES)):
                content += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no complete answer within {self.deadline_s:g} s")
        return bytes(content)


def check_content(file: DataFile, content: bytes, *, where: str) -> None:
    """Compare size and SHA-256 with what the file must have.

    Raises:
        CorruptDataError: they differ; the text names the file, what was got and what was expected.
    """
    if len(content) != file.size_bytes:
        got = f"more than {file.size_bytes}" if len(content) > file.size_bytes else len(content)
        raise CorruptDataError(f"{where}: got {got} bytes, expected {file.size_bytes}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise CorruptDataError(f"{where}: got SHA-256 {digest}, expected {file.sha256}")


def default_cache(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/atril`, or `~/.cache/atril` where that is not set."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atril"


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink()
        raise
