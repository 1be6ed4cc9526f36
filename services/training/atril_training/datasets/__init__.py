"""The data sets by name."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from atril_common.model_config import ImageInput
from atril_training.datasets.digits import load_digits
from atril_training.datasets.files import DownloadSource, FileSource, FolderSource, default_cache
from atril_training.datasets.image_dataset import ImageDataset, Split
from atril_training.datasets.mnist import load_mnist

DATASETS: Mapping[str, Callable[[ImageInput, FileSource], ImageDataset]] = MappingProxyType(
    {"digits": load_digits, "mnist": load_mnist}
)
"""How to load each data set: given the model's picture and a source of files."""


def file_source(data_dir: Path | None) -> FileSource:
    """Files from a folder where one is given, else downloaded into the user's cache."""
    return DownloadSource(default_cache(os.environ)) if data_dir is None else FolderSource(data_dir)


__all__ = ["DATASETS", "FileSource", "ImageDataset", "Split", "file_source"]
