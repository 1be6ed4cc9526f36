"""Greyscale photographs to learn and to judge denoising on.

Dimensions: H height, W width.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from atril_training.datasets.files import DataFile, FileSource
from atril_training.errors import CorruptDataError

Photograph = NDArray[np.uint8]
"""Grey levels [H, W]."""


@dataclass(frozen=True, slots=True, eq=False)
class PhotographDataset:
    """Whole photographs, of which no part of one is in two splits.

    `tests` are the test splits by name; `checksums` are SHA-256 sums of the data it was made from;
    `held_out` says in words what the test splits are.
    """

    name: str
    train: tuple[Photograph, ...]
    validation: tuple[Photograph, ...]
    tests: Mapping[str, tuple[Photograph, ...]]
    checksums: Mapping[str, str]
    held_out: str


@dataclass(frozen=True, slots=True)
class _Bundled:
    """A photograph that scikit-image ships; the checksum is of its samples, row by row."""

    load: Callable[[], NDArray[np.uint8]]
    sha256: str


def _motorcycle() -> NDArray[np.uint8]:
    views = skimage.data.stereo_motorcycle()  # type: ignore[no-untyped-call]  # unannotated there
    left: NDArray[np.uint8] = views[0]
    return np.ascontiguousarray(left)


# All are PNG files in the package: decoding is exact, and nothing is downloaded.
_BUNDLED: Mapping[str, _Bundled] = MappingProxyType(
    {
        "astronaut": _Bundled(
            skimage.data.astronaut,
            "a8c429c18afa7b0fd5673e598d73a21225d94c864a71bbb3885126fdecb41071",
        ),
        "coffee": _Bundled(
            skimage.data.coffee, "0ce2b51640b9c95f19617f03eabf40c3f0368589cc1ee1190b70966165ac184f"
        ),
        "motorcycle": _Bundled(
            _motorcycle, "ca829467c1d4f427da9c4862ba43829da6ac90afe1f75735e95dba9e3fd9620b"
        ),
        "brick": _Bundled(
            skimage.data.brick, "664a145c5253f0d66db1a12776785f0ea35a44cc7447ffc933f6d6118dc58643"
        ),
        "gravel": _Bundled(
            skimage.data.gravel, "3d51ad45f789cd8b98534b7af6bce774e499ead45421135afd757358c7230009"
        ),
        "grass": _Bundled(
            skimage.data.grass, "b18dae4c68bf850a7a7b28a29d1846c76be890665117b57fd125fe29c4d4ede6"
        ),
        "histology": _Bundled(
            skimage.data.immunohistochemistry,
            "c5b3ef509a92f16d4c29be8cf0300fe75d53e13a3ce650159db932caea8dcc1b",
        ),
        "coins": _Bundled(
            skimage.data.coins, "e080cc03805f1fa70516c3cb84883d4633bda2a1b51841da7c22f3d14c072451"
        ),
        "camera": _Bundled(
            skimage.data.camera, "5cb24482a53416f99052258be2b1ee38cd31c559a70c8a8b321cba231b332e21"
        ),
        "chelsea": _Bundled(
            skimage.data.chelsea, "416b729128bfb2c3d1eb69bf9b1734a796293abc17939267b2dc94f8a5784031"
        ),
        "moon": _Bundled(
            skimage.data.moon, "a20362266d5b01021f6f0f54bd603c3137f921b741770420deeb5ea0141716c0"
        ),
    }
)

_TRAIN = ("astronaut", "motorcycle", "brick", "gravel", "grass", "histology", "moon")
_VALIDATION = ("coins",)
_TEST = ("camera", "chelsea", "coffee")

TRAIN400 = DataFile(
    "images",
    "train400.tar",
    8560640,
    "c804ba16bf6077023432ed3df0e87f41f001c2b6a73b3602935213c19ab2f17d",
    urls=(),
)
"""400 crops of 180 × 180 from the Berkeley segmentation data's training images, as PNG.

The usual training set for Gaussian denoising (Zhang et al. 2017, DnCNN). It has no public URL in
this form: put the file into a data folder.
"""

_TRAIN400_PICTURES = 400
_TRAIN400_VALIDATION = 20
_TRAIN400_TEST = 40


def load_bundled_photographs(_source: FileSource) -> PhotographDataset:
    """Photographs that scikit-image ships; nothing is read from the source.

    Raises:
        CorruptDataError: the installed scikit-image ships others.
    """
    return PhotographDataset(
        name="photographs",
        train=tuple(map(_bundled, _TRAIN)),
        validation=tuple(map(_bundled, _VALIDATION)),
        tests={"test": tuple(map(_bundled, _TEST))},
        checksums={f"scikit-image {name}": _BUNDLED[name].sha256 for name in _BUNDLED},
        held_out=f"test: the whole photographs {', '.join(_TEST)}",
    )


def load_train400(source: FileSource) -> PhotographDataset:
    """The 400 crops; the last 40 in the order of their names are held out, the 20 before validate.

    The second test split, `photographs`, is of other cameras and another size: those that
    scikit-image ships.

    Raises:
        DataUnavailableError: the file is not there.
        CorruptDataError: it has another content, or scikit-image ships other photographs.
    """
    crops = _pictures_from_tar(source.read(TRAIN400))
    if len(crops) != _TRAIN400_PICTURES:
        raise CorruptDataError(
            f"{TRAIN400.name}: got {len(crops)} pictures, expected {_TRAIN400_PICTURES}"
        )
    test = len(crops) - _TRAIN400_TEST
    validation = test - _TRAIN400_VALIDATION
    bundled = load_bundled_photographs(source)
    return PhotographDataset(
        name="train400",
        train=crops[:validation],
        validation=crops[validation:test],
        tests={"test": crops[test:], "photographs": bundled.tests["test"]},
        checksums={TRAIN400.name: TRAIN400.sha256, **bundled.checksums},
        held_out=f"test: the last {_TRAIN400_TEST} crops in the order of their names; "
        f"photographs: {', '.join(_TEST)}, of scikit-image",
    )


PHOTOGRAPH_DATASETS: Mapping[str, Callable[[FileSource], PhotographDataset]] = MappingProxyType(
    {"photographs": load_bundled_photographs, "train400": load_train400}
)
"""How to load each set of photographs, given a source of files."""


def _bundled(name: str) -> Photograph:
    bundled = _BUNDLED[name]
    samples = bundled.load()
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    if digest != bundled.sha256:
        raise CorruptDataError(
            f"scikit-image's photograph '{name}': got SHA-256 {digest}, expected {bundled.sha256}"
        )
    return np.asarray(Image.fromarray(samples).convert("L"), dtype=np.uint8)


def _pictures_from_tar(content: bytes) -> tuple[Photograph, ...]:
    """Every picture of an archive as grey levels, in the order of their names."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names: Sequence[str] = sorted(m.name for m in archive.getmembers() if m.isfile())
            return tuple(_grey(archive, name) for name in names)
    except tarfile.TarError as err:
        raise CorruptDataError(f"{TRAIN400.name}: not a tar archive: {err}") from err


def _grey(archive: tarfile.TarFile, name: str) -> Photograph:
    file = archive.extractfile(name)
    assert file is not None  # only regular files are asked for
    try:
        with Image.open(io.BytesIO(file.read())) as picture:
            return np.asarray(picture.convert("L"), dtype=np.uint8)
    except UnidentifiedImageError as err:
        raise CorruptDataError(f"{TRAIN400.name}: {name} is not a picture") from err
