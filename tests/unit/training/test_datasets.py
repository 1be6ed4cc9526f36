"""The data sets: their sizes, their splits, and pictures as serving would make them."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits as load_bundled_digits

from atril_common.imaging import normalise, pixels_from_image
from atril_common.tasks import ImageInput
from atril_training.datasets import ImageDataset, file_source, mnist
from atril_training.datasets.files import DataFile, DownloadSource, FolderSource
from atril_training.datasets.image_dataset import stratified_holdout
from atril_training.errors import CorruptDataError


def _posted(picture: np.ndarray, image: ImageInput) -> np.ndarray:
    """What serving makes of a picture that arrives as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return pixels_from_image(Image.open(file), image)


def test_digits_are_all_there_once(digits: ImageDataset) -> None:
    """1,797 pictures in four splits, every class in each, none in two."""
    assert digits.tail is not None
    splits = (digits.train, digits.validation, digits.test, digits.tail)
    assert [len(split) for split in splits] == [1164, 130, 323, 180]
    assert all(set(split.targets) == set(range(10)) for split in splits)
    every = np.concatenate([split.pixels for split in splits]).reshape(1797, -1)
    bundled = load_bundled_digits().images
    assert len(np.unique(every, axis=0)) == len(np.unique(bundled.reshape(1797, -1), axis=0))


def test_the_tail_is_a_range_of_the_file(digits: ImageDataset) -> None:
    """Its pictures are the last 180 of the file, in their order."""
    assert digits.tail is not None
    assert digits.tail.targets.tolist() == load_bundled_digits().target[-180:].tolist()


def test_digits_are_what_a_posted_picture_becomes(digits: ImageDataset, image: ImageInput) -> None:
    """Each training picture is a bundled one, scaled to 0 … 255 and sent as a PNG."""
    bundled = load_bundled_digits()
    posted = {
        _posted(np.rint(levels * (255 / 16)).astype(np.uint8), image).tobytes()
        for levels in bundled.images[:50]
    }
    every = (digits.train, digits.validation, digits.test)
    known = {picture.tobytes() for split in every for picture in split.pixels}
    assert posted <= known


def test_background_and_ink_become_the_papers_values(image: ImageInput) -> None:
    """0 becomes -0.1 and 255 becomes 1.175 (LeCun et al. 1998, §II-B)."""
    extremes = np.array([[[[0, 255]]]], dtype=np.uint8)
    assert normalise(extremes, image).ravel().tolist() == pytest.approx([-0.1, 1.175], abs=1e-6)


@given(
    counts=st.lists(st.integers(4, 40), min_size=1, max_size=5),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
def test_holdout_takes_the_same_share_of_each_class(
    counts: list[int], fraction: float, seed: int
) -> None:
    """The two parts share nothing, miss nothing, and every class is divided alike."""
    targets = np.repeat(np.arange(len(counts)), counts)
    stay, held_out = stratified_holdout(targets, fraction, seed)
    assert sorted([*stay, *held_out]) == list(range(len(targets)))
    got = np.bincount(targets[held_out], minlength=len(counts))
    assert got.tolist() == [round(fraction * count) for count in counts]


def test_holdout_depends_on_its_seed_alone() -> None:
    """The same seed divides alike, another one differently."""
    targets = np.arange(200) % 4
    first, again, other = (stratified_holdout(targets, 0.2, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5])
def test_holdout_of_all_or_nothing_is_refused(fraction: float) -> None:
    """The error says what was asked for."""
    with pytest.raises(ValueError, match=f"between 0 and 1, got {fraction}"):
        stratified_holdout(np.zeros(5, dtype=np.int64), fraction, 0)


class _MemorySource:
    """Small files under MNIST's names, for the parts that need no 60,000 pictures."""

    def __init__(self, pictures: int, labels: int) -> None:
        header = struct.pack(">IIII", 2051, pictures, 28, 28)
        self._pictures = gzip.compress(header + bytes(range(256)) * (pictures * 784 // 256))
        self._labels = gzip.compress(
            struct.pack(">II", 2049, labels) + bytes(i % 10 for i in range(labels))
        )

    def read(self, file: DataFile) -> bytes:
        return self._pictures if "images" in file.name else self._labels


def test_mnist_is_divided_by_class(image: ImageInput) -> None:
    """A twelfth of each class of the training files validates; the test files stay whole."""
    dataset = mnist.load_mnist(image, _MemorySource(960, 960))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (880, 80, 960)
    assert dataset.train.pixels.shape == (880, 1, 32, 32)
    assert np.bincount(dataset.validation.targets).tolist() == [8] * 10
    assert set(dataset.checksums) == {
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    }


def test_mnist_pictures_without_labels_are_refused(image: ImageInput) -> None:
    """Two files that do not belong together are told apart by their counts."""
    with pytest.raises(
        CorruptDataError, match=r"train-labels-idx1-ubyte\.gz: got 14 labels, expected 16"
    ):
        mnist.load_mnist(image, _MemorySource(16, 14))


def test_real_mnist_test_files_match_their_checksums(shared: Path, image: ImageInput) -> None:
    """The first labels are the well-known 7, 2, 1, 0, 4, and pictures are as serving makes them."""
    source = file_source(shared / "data")
    split = mnist._read_split(mnist.TEST_PICTURES, mnist.TEST_LABELS, image, source)
    assert len(split) == 10_000
    assert split.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(split.targets).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    raw = gzip.decompress(source.read(mnist.TEST_PICTURES))
    first = np.frombuffer(raw, np.uint8, 784, 16).reshape(28, 28)
    assert np.array_equal(split.pixels[0], _posted(first, image))


def test_source_is_a_folder_where_one_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, files are downloaded into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert file_source(tmp_path) == FolderSource(tmp_path)
    assert file_source(None) == DownloadSource(tmp_path / "atril")
