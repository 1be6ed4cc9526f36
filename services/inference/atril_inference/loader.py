"""From a request to load to a session that is ready to serve; everything here blocks."""

from typing import NamedTuple

from atril_common.core import LoadOptions
from atril_inference.declaration import DEFAULT_MAX_BATCH_SIZE
from atril_inference.kinds import graph_files, load_any
from atril_inference.onnx_files import check_version
from atril_inference.repository import Repository
from atril_inference.served import Loaded
from atril_inference.session_options import SessionOptions
from atril_inference.sources import ModelSource, VersionSource, open_source
from atril_inference.trial import Trial


class LoadPolicy(NamedTuple):
    """What a load may take, and what it takes for granted."""

    max_model_bytes: int = 64 << 30
    """Most that the files of one version, or of one load request, may hold."""
    trial_limit_s: float = 0.0
    """Seconds for loading a version in a child process first; 0 loads it in this one at once."""
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    """Of models that can be batched and have no configuration."""


class Loader:
    """Reads, checks and loads what a repository or a request holds."""

    def __init__(self, repository: Repository, options: SessionOptions, policy: LoadPolicy) -> None:
        self._repository = repository
        self._options = options
        self._policy = policy
        self._trial = Trial(policy.trial_limit_s)

    def open(self, model_name: str, options: LoadOptions) -> ModelSource:
        """Find out what a load is to bring; errors as of `open_source`."""
        return open_source(self._repository, model_name, options, self._policy.max_model_bytes)

    def load(self, source: ModelSource, version: VersionSource) -> Loaded:
        """Load one version.

        Raises:
            NotReadyError: it cannot be served; the text says why.
            OSError: its files cannot be read.
        """
        config = source.config
        for file_name in graph_files(config):
            check_version(source.folder, version.number, file_name, self._policy.max_model_bytes)
        self._trial.survive(source.folder.path, version.number, config)
        return load_any(
            source.folder.path,
            version.number,
            config,
            self._options,
            self._policy.default_max_batch_size,
        )

    def close(self) -> None:
        """Let go of what loads needed."""
        self._trial.close()
