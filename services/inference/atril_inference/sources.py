"""What one load is to bring: a model's configuration, its wanted versions, and their files.

A load takes them from the repository, from the repository under another configuration, or whole
from the request (protocol reference 2.6).
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import LoadOptions
from atril_common.errors import InvalidInputError, LoadFailedError, TooLargeError, sample
from atril_common.model_config import read_config
from atril_common.repository import CONFIG_FILE, is_model_name, is_version, list_versions
from atril_inference.repository import Fingerprint, ModelFolder, Repository, fingerprint

MAX_CONFIG_CHARACTERS = 1 << 20
MAX_UPLOADED_FILES = 64


class VersionSource(NamedTuple):
    """A version to be served; versions whose `identity` is equal are the same."""

    number: int
    identity: tuple[object, ...]


class ModelSource(NamedTuple):
    """Everything that one load is to bring; `temporary` folders go when the load is over."""

    folder: ModelFolder
    config: ModelConfig
    versions: tuple[VersionSource, ...]
    temporary: bool = False

    def discard(self) -> None:
        """Delete what was written for this load only; a session keeps what it has mapped."""
        if self.temporary:
            shutil.rmtree(self.folder.boundary, ignore_errors=True)


def open_source(
    repository: Repository, model_name: str, options: LoadOptions, max_bytes: int
) -> ModelSource:
    """Find out what a load is to bring.

    Args:
        repository: where models come from.
        model_name: which one.
        options: what the request brought along.
        max_bytes: most that its files may hold.

    Raises:
        InvalidInputError: a configuration is malformed or names another model, or a file has a name
            that no version can hold.
        TooLargeError: the request brought too much.
        NotFoundError: there is no such model.
        LoadFailedError: there is no version of it to serve.
        OSError: files cannot be read or written.
    """
    override = None if options.config is None else parse_config(options.config)
    if not options.files:
        folder = repository.fetch(model_name, override)
        return _read(folder, model_name, override, temporary=False)
    if override is None:
        raise InvalidInputError("files of a model need its 'config' beside them")
    boundary = _write_files(model_name, options.files, max_bytes)
    try:
        folder = ModelFolder(boundary / model_name, boundary)
        return _read(folder, model_name, override, temporary=True)
    except BaseException:
        shutil.rmtree(boundary, ignore_errors=True)
        raise


def parse_config(text: str) -> ModelConfig:
    """A model configuration from JSON with Triton's field names.

    Raises:
        TooLargeError: the text is longer than any configuration.
        InvalidInputError: it is not a model configuration.
    """
    if len(text) > MAX_CONFIG_CHARACTERS:
        raise TooLargeError(
            f"'config' has {len(text)} characters, at most {MAX_CONFIG_CHARACTERS} are read"
        )
    try:
        fields = orjson.loads(text)
        if not isinstance(fields, dict):
            raise InvalidInputError(f"'config' must be a JSON object, got {sample(fields)}")
        return json_format.ParseDict(fields, ModelConfig())
    except (json_format.ParseError, orjson.JSONDecodeError) as err:
        raise InvalidInputError(f"'config' is not a model configuration in JSON: {err}") from err


def wanted_versions(config: ModelConfig, present: Sequence[int]) -> list[int]:
    """The versions that a configuration's policy wants of those that are there, ascending."""
    policy = config.version_policy
    if policy.HasField("all"):
        return list(present)
    if policy.HasField("specific"):
        wanted = set(policy.specific.versions)
        return [version for version in present if version in wanted]
    return list(present[-max(1, policy.latest.num_versions) :])


def _read(
    folder: ModelFolder, model_name: str, override: ModelConfig | None, *, temporary: bool
) -> ModelSource:
    config = _config(folder.path) if override is None else override
    if config.name not in ("", model_name):
        raise InvalidInputError(
            f"{CONFIG_FILE} names model '{config.name}', but the folder is '{model_name}'"
        )
    config.name = model_name
    present = list_versions(folder.path.parent, folder.path.name)
    wanted = wanted_versions(config, present)
    if not wanted:
        raise LoadFailedError(f"the repository has no version to serve, only {present}")
    text = config.SerializeToString(deterministic=True)
    files = fingerprint(folder.path)
    shared = tuple(file for file in files if "/" not in str(file[0]) and file[0] != CONFIG_FILE)
    versions = tuple(VersionSource(n, (text, shared, _of_version(files, n))) for n in wanted)
    return ModelSource(folder, config, versions, temporary)


def _config(folder: Path) -> ModelConfig:
    """The configuration of a folder; an empty one, to be completed, where there is none."""
    path = folder / CONFIG_FILE
    return read_config(path) if path.exists() else ModelConfig()


def _of_version(files: Fingerprint, number: int) -> Fingerprint:
    return tuple(file for file in files if str(file[0]).startswith(f"{number}/"))


def _write_files(model_name: str, files: Mapping[str, bytes], max_bytes: int) -> Path:
    """Write uploaded files to a private folder that is gone when the load is over."""
    if not is_model_name(model_name):
        raise InvalidInputError(f"{sample(model_name)} is not a model name")
    if len(files) > MAX_UPLOADED_FILES:
        raise TooLargeError(f"{len(files)} files came, at most {MAX_UPLOADED_FILES} are taken")
    size = sum(map(len, files.values()))
    if size > max_bytes:
        raise TooLargeError(f"the files hold {size} bytes, at most {max_bytes} are taken")
    for name in files:
        version, _, file = name.partition("/")
        if not is_version(version) or not is_model_name(file):
            raise InvalidInputError(
                f"file {sample(name)} must be '<version>/<file>' with a positive version and a "
                f"file name of letters, digits and _ . -"
            )
    boundary = Path(tempfile.mkdtemp(prefix="atril-upload-"))
    try:
        for name, content in files.items():
            path = boundary / model_name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except BaseException:
        shutil.rmtree(boundary, ignore_errors=True)
        raise
    return boundary
