"""Models from an object store, or any other place that fsspec reaches, through a local folder.

Only what is to be served is fetched, and of that only what changed by the store's own tags. A file
appears in the folder whole, by one rename. An object store has no folders to rename, so a version
is trusted once two looks agree (polling), and if its model has the checksum that its card gives.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import fsspec
import orjson
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import AtrilError, InvalidInputError, LoadFailedError, NotFoundError
from atril_common.model_config import read_config
from atril_common.repository import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    is_model_name,
    is_version,
)
from atril_inference.repository import (
    MAX_FILES,
    Fingerprint,
    LocalRepository,
    ModelFolder,
    Repository,
)
from atril_inference.sources import wanted_versions

_OBSTORE = ("s3", "gs", "az")
"""Protocols that the obstore package speaks."""

_RECORDS, _PARTIAL, _LOCK = ".records", ".partial", ".lock"


class _Object(NamedTuple):
    """A file in the store: what tells whether it is another one now."""

    size: int
    tag: str


def open_repository(location: str, cache: Path | None, max_model_bytes: int) -> Repository:
    """The repository at a path or a URL.

    Args:
        location: a folder, or `s3://bucket/prefix` and whatever else fsspec reads.
        cache: where files of a URL are kept over restarts; without it they go with the process.
        max_model_bytes: most that is fetched of one version.

    Raises:
        InvalidInputError: the URL cannot be read here, or the cache is another process's.
    """
    protocol, separator, path = location.partition("://")
    if not separator:
        return LocalRepository(Path(location))
    if protocol == "file":
        return LocalRepository(Path(path))
    try:
        file_system = _file_system(protocol)
    except (ImportError, ValueError) as err:
        raise InvalidInputError(
            f"model repository '{location}' cannot be read here: {err}; for s3, gs and az install "
            f"the extra 's3'"
        ) from err
    return RemoteRepository(file_system, path, cache, max_model_bytes)


def _file_system(protocol: str) -> Any:
    if protocol in _OBSTORE:
        return import_module("obstore.fsspec").FsspecStore(protocol)  # it is an extra
    return fsspec.filesystem(protocol)


class RemoteRepository:
    """A repository in another file system, with a local folder of what is served of it.

    Args:
        file_system: fsspec's.
        root: of the repository in it.
        cache: local folder, of this process alone; None takes a temporary one.
        max_model_bytes: most that is fetched of one version, or beside the versions.
    """

    def __init__(
        self, file_system: Any, root: str, cache: Path | None, max_model_bytes: int
    ) -> None:
        self._file_system = file_system
        self._root = root.rstrip("/")
        self._temporary = cache is None
        self._cache = cache or Path(tempfile.mkdtemp(prefix="atril-repository-"))
        self._max_model_bytes = max_model_bytes
        self._lock = _locked(self._cache)
        shutil.rmtree(self._cache / _PARTIAL, ignore_errors=True)
        for name in (_RECORDS, _PARTIAL):
            (self._cache / name).mkdir(exist_ok=True)

    def names(self) -> list[str]:
        """See `Repository.names`."""
        return sorted(self._listing(""))

    def snapshot(self) -> Mapping[str, Fingerprint]:
        """See `Repository.snapshot`; a store in which there is nothing at all is not seen."""
        listing = self._listing("")
        if not listing:
            raise FileNotFoundError(f"there is no model below {self._root}")
        return {
            name: tuple(sorted((path, *file) for path, file in files.items()))
            for name, files in listing.items()
        }

    def fetch(self, model_name: str, config: ModelConfig | None) -> ModelFolder:
        """See `Repository.fetch`."""
        files = self._listing(model_name).get(model_name) if is_model_name(model_name) else None
        if files is None:
            raise NotFoundError(f"the repository has no model '{model_name}'")
        folder = self._cache / model_name
        folder.mkdir(exist_ok=True)
        record = self._read_record(model_name)
        shared = {p: f for p, f in files.items() if not is_version(p.partition("/")[0])}
        self._update(model_name, shared, record)
        wanted = _wanted(files, folder, config)
        for version in wanted:
            place = f"{version}/"
            self._update(
                model_name, {p: f for p, f in files.items() if p.startswith(place)}, record
            )
            self._verify(model_name, version, record)
        if wanted:
            kept = {p for p in files if p in shared or p.partition("/")[0] in wanted}
            self._keep_only(kept, folder)
        return ModelFolder(folder, self._cache)

    def close(self) -> None:
        """See `Repository.close`."""
        self._lock.close()
        if self._temporary:
            shutil.rmtree(self._cache, ignore_errors=True)

    def _listing(self, model_name: str) -> dict[str, dict[str, _Object]]:
        """The files of every model, or of one, by their paths in it.

        Raises:
            OSError: the store does not answer, or holds more than is read of it.
        """
        below = f"{self._root}/{model_name}".rstrip("/")
        with _as_os_error(f"{below} cannot be listed"):
            found = self._file_system.find(below, detail=True)
        models: dict[str, dict[str, _Object]] = {}
        prefix = f"{self._root.strip('/')}/"
        for path, info in found.items():
            name, _, file = str(path).strip("/").removeprefix(prefix).partition("/")
            if not is_model_name(name) or not _is_plain(file):
                continue
            files = models.setdefault(name, {})
            files[file] = _Object(int(info["size"]), _tag(info))
            if len(files) > MAX_FILES:
                raise OSError(f"model '{name}' holds more than {MAX_FILES} files")
        return models

    def _update(
        self, model_name: str, files: Mapping[str, _Object], record: dict[str, list[object]]
    ) -> None:
        """Fetch what is not here yet or changed.

        Raises:
            LoadFailedError: it is more than is fetched, or came in another size than was listed.
            OSError: it cannot be fetched.
        """
        size = sum(file.size for file in files.values())
        if size > self._max_model_bytes:
            raise LoadFailedError(
                f"{size} bytes are to be fetched, at most {self._max_model_bytes} are"
            )
        for path, file in files.items():
            target = self._cache / model_name / path
            if record.get(path) == list(file) and target.is_file():
                continue
            partial = self._cache / _PARTIAL / hashlib.sha256(str(target).encode()).hexdigest()
            with _as_os_error(f"{model_name}/{path} cannot be fetched"):
                self._file_system.get_file(f"{self._root}/{model_name}/{path}", str(partial))
            if partial.stat().st_size != file.size:
                raise LoadFailedError(f"{path} changed while it was fetched; load it again")
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
            record[path] = list(file)
            self._write_record(model_name, record)

    def _verify(self, model_name: str, version: str, record: dict[str, list[object]]) -> None:
        """Hold a version's model against the checksum in its card, where it has one.

        Raises:
            LoadFailedError: it is another file than was published.
        """
        place = self._cache / model_name / version
        expected = _checksum_in(place / CARD_FILE)
        model = place / MODEL_FILE
        if expected is None or not model.is_file():
            return
        with model.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            record.pop(f"{version}/{MODEL_FILE}", None)
            self._write_record(model_name, record)
            raise LoadFailedError(
                f"version {version}: {MODEL_FILE} has the sha256 {actual}, its card says {expected}"
            )

    def _keep_only(self, files: set[str], folder: Path) -> None:
        """Delete what the store has no more, or what is not wanted."""
        for parent, _, names in os.walk(folder, topdown=False):
            for name in names:
                path = Path(parent) / name
                if path.relative_to(folder).as_posix() not in files:
                    path.unlink()
            if Path(parent) != folder and not any(Path(parent).iterdir()):
                Path(parent).rmdir()

    def _read_record(self, model_name: str) -> dict[str, list[object]]:
        try:
            record = orjson.loads((self._cache / _RECORDS / f"{model_name}.json").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, model_name: str, record: Mapping[str, list[object]]) -> None:
        path = self._cache / _RECORDS / f"{model_name}.json"
        partial = path.with_suffix(".new")
        partial.write_bytes(orjson.dumps(record))
        partial.replace(path)


def _wanted(files: Mapping[str, _Object], folder: Path, config: ModelConfig | None) -> set[str]:
    """The versions to fetch; none where the configuration cannot be read."""
    present = sorted({int(p.partition("/")[0]) for p in files if is_version(p.partition("/")[0])})
    try:
        if config is None:
            path = folder / CONFIG_FILE
            config = read_config(path) if path.exists() else ModelConfig()
        return set(map(str, wanted_versions(config, present)))
    except AtrilError:
        return set()  # whoever asked finds the configuration broken, too, and says it


def _is_plain(path: str) -> bool:
    """Whether a path stays where it begins, whatever the store calls a path."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and not path.startswith("/") and "\\" not in path and "\0" not in path
    return plain and len(path) < 512 and not any(part in ("..", ".") for part in path.split("/"))


def _tag(info: Mapping[str, Any]) -> str:
    """What the store says of a file that changes with its content."""
    for key in ("ETag", "e_tag", "etag", "md5Hash", "mtime", "last_modified", "created"):
        if info.get(key) is not None:
            return str(info[key])
    return ""


def _checksum_in(card: Path) -> str | None:
    try:
        found = orjson.loads(card.read_bytes())["files_sha256"][MODEL_FILE]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _locked(cache: Path) -> IO[str]:
    """Take a cache folder for this process.

    Raises:
        InvalidInputError: another process has it, or it cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = (cache / _LOCK).open("w")
    except OSError as err:
        raise InvalidInputError(f"repository cache {cache} cannot be written: {err}") from err
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        file.close()
        raise InvalidInputError(
            f"repository cache {cache} is in use by another process; give each its own"
        ) from err
    return file


@contextlib.contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """The errors of file systems share no base class."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise OSError(f"{what}: {reason}") from err
