"""The data sets by name."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from atril_common.tasks import ImageInput
from atril_training.datasets.digits import load_digits
from atril_training.datasets.feature_dataset import FeatureDataset, FeatureSplit
from atril_training.datasets.files import DownloadSource, FileSource, FolderSource, default_cache
from atril_training.datasets.image_dataset import ImageDataset, Split
from atril_training.datasets.mnist import load_mnist
from atril_training.datasets.number_corpus import load_number_corpus
from atril_training.datasets.parallel_text import ParallelDataset, load_multi30k, load_tatoeba
from atril_training.datasets.photographs import PHOTOGRAPH_DATASETS, PhotographDataset
from atril_training.datasets.series import (
    SeriesDataset,
    load_airline,
    load_mackey_glass,
    load_sunspots,
    load_temperatures,
)
from atril_training.datasets.tables import FEATURE_DATASETS
from atril_training.datasets.text import (
    TextDataset,
    load_number_text,
    load_time_machine,
    load_tiny_shakespeare,
)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a data set is; `embedded` ones need neither a file nor a network."""

    title: str
    embedded: bool


DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        "digits": DatasetInfo("handwritten digits of scikit-learn, 8×8", embedded=True),
        "mnist": DatasetInfo("MNIST, handwritten digits, 28×28", embedded=False),
        "diabetes": DatasetInfo("diabetes of scikit-learn, 442 patients", embedded=True),
        "friedman": DatasetInfo("Friedman's first function with noise, 2,000 rows", embedded=True),
        "iris": DatasetInfo("iris of scikit-learn, 150 flowers", embedded=True),
        "wine": DatasetInfo("wine of scikit-learn, 178 wines", embedded=True),
        "breast_cancer": DatasetInfo("breast cancer of scikit-learn, 569 tumours", embedded=True),
        "photographs": DatasetInfo("eleven photographs of scikit-image, grey", embedded=True),
        "train400": DatasetInfo("400 grey photographs of 180×180, Berkeley", embedded=False),
        "number_corpus": DatasetInfo("numbers and dates, English to Spanish", embedded=True),
        "multi30k": DatasetInfo("Multi30k, image descriptions, English to German", embedded=False),
        "mackey_glass": DatasetInfo("Mackey-Glass, a chaotic series, 1,500 values", embedded=True),
        "airline": DatasetInfo("airline passengers, 144 months", embedded=False),
        "temperatures": DatasetInfo("minimum temperatures, 3,650 days", embedded=False),
        "sunspots": DatasetInfo("sunspot numbers, 2,820 months", embedded=False),
        "number_text": DatasetInfo("English numbers and dates in words, 240 kB", embedded=True),
        "tiny_shakespeare": DatasetInfo("Shakespeare, 1.1 million characters", embedded=False),
        "time_machine": DatasetInfo("The Time Machine by H. G. Wells, letters", embedded=False),
        "tatoeba": DatasetInfo("Tatoeba sentences, English to Spanish", embedded=False),
    }
)
"""The data sets by name."""

PICTURE_DATASETS: Mapping[str, Callable[[ImageInput, FileSource], ImageDataset]] = MappingProxyType(
    {"digits": load_digits, "mnist": load_mnist}
)
"""How to load each set of labelled pictures: given the model's picture and a source of files."""

PARALLEL_DATASETS: Mapping[str, Callable[[FileSource], ParallelDataset]] = MappingProxyType(
    {
        "number_corpus": load_number_corpus,
        "multi30k": load_multi30k,
        "tatoeba": load_tatoeba,
    }
)
"""How to load each set of sentences and their translations: given a source of files."""

SERIES_DATASETS: Mapping[str, Callable[[FileSource], SeriesDataset]] = MappingProxyType(
    {
        "mackey_glass": load_mackey_glass,
        "airline": load_airline,
        "temperatures": load_temperatures,
        "sunspots": load_sunspots,
    }
)
"""How to load each series: given a source of files."""

TEXT_DATASETS: Mapping[str, Callable[[FileSource], TextDataset]] = MappingProxyType(
    {
        "number_text": load_number_text,
        "tiny_shakespeare": load_tiny_shakespeare,
        "time_machine": load_time_machine,
    }
)
"""How to load each running text: given a source of files."""


def file_source(data_dir: Path | None) -> FileSource:
    """Files from a folder where one is given, else downloaded into the user's cache."""
    return DownloadSource(default_cache(os.environ)) if data_dir is None else FolderSource(data_dir)


__all__ = [
    "DATASETS",
    "FEATURE_DATASETS",
    "PARALLEL_DATASETS",
    "PHOTOGRAPH_DATASETS",
    "PICTURE_DATASETS",
    "SERIES_DATASETS",
    "TEXT_DATASETS",
    "DatasetInfo",
    "FeatureDataset",
    "FeatureSplit",
    "FileSource",
    "ImageDataset",
    "ParallelDataset",
    "PhotographDataset",
    "SeriesDataset",
    "Split",
    "TextDataset",
    "file_source",
]
