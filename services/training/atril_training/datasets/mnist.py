"""MNIST: 60,000 + 10,000 handwritten digits of 28 × 28, by Y. LeCun, C. Cortes and C. Burges."""

from atril_common.tasks import ImageInput
from atril_training.datasets.files import DataFile, FileSource
from atril_training.datasets.idx import labels_from_idx, pictures_from_idx
from atril_training.datasets.image_dataset import (
    ImageDataset,
    Split,
    fit_pictures,
    stratified_holdout,
)
from atril_training.errors import CorruptDataError

LABELS = tuple("0123456789")

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SPLIT_SEED = 1998  # the splits are part of the data set: they do not follow the training seed
_VALIDATION_FRACTION = 1 / 12  # 5,000 of 60,000


def _file(name: str, size_bytes: int, sha256: str) -> DataFile:
    return DataFile("mnist", name, size_bytes, sha256, tuple(m + name for m in _MIRRORS))


TRAIN_PICTURES = _file(
    "train-images-idx3-ubyte.gz",
    9912422,
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
)
TRAIN_LABELS = _file(
    "train-labels-idx1-ubyte.gz",
    28881,
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
)
TEST_PICTURES = _file(
    "t10k-images-idx3-ubyte.gz",
    1648877,
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
)
TEST_LABELS = _file(
    "t10k-labels-idx1-ubyte.gz",
    4542,
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)


def load_mnist(image: ImageInput, source: FileSource) -> ImageDataset:
    """MNIST at the model's size; a twelfth of each class of the training files validates.

    The pictures are resized as serving resizes a posted 28 × 28 picture, not padded as in the
    paper: a model trained on padded digits would meet larger ones at work.

    Raises:
        DataUnavailableError: a file is not there.
        CorruptDataError: a file has another content.
    """
    known = _read_split(TRAIN_PICTURES, TRAIN_LABELS, image, source)
    stay, held_out = stratified_holdout(known.targets, _VALIDATION_FRACTION, _SPLIT_SEED)
    files = (TRAIN_PICTURES, TRAIN_LABELS, TEST_PICTURES, TEST_LABELS)
    return ImageDataset(
        name="mnist",
        labels=LABELS,
        train=known.take(stay),
        validation=known.take(held_out),
        test=_read_split(TEST_PICTURES, TEST_LABELS, image, source),
        checksums={file.name: file.sha256 for file in files},
        held_out="the 10,000 pictures of the set's own test files, by other writers",
    )


def _read_split(
    pictures: DataFile, labels: DataFile, image: ImageInput, source: FileSource
) -> Split:
    greyscale = pictures_from_idx(source.read(pictures), name=pictures.name)
    targets = labels_from_idx(source.read(labels), name=labels.name)
    if len(greyscale) != len(targets):
        raise CorruptDataError(
            f"{labels.name}: got {len(targets)} labels, expected {len(greyscale)}, "
            f"one for each picture of {pictures.name}"
        )
    return Split(fit_pictures(greyscale, image), targets)
