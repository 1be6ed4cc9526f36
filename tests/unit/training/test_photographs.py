"""Photographs: where they come from, and denoising them at any size."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atril_common.errors import RefusedError
from atril_common.tasks import DenoisingTask
from atril_training.datasets import photographs
from atril_training.datasets.files import DataFile, DownloadSource, FolderSource
from atril_training.datasets.photographs import (
    TRAIN400,
    load_bundled_photographs,
    load_train400,
)
from atril_training.errors import CorruptDataError, DataUnavailableError
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes.autoencoding import PhotographRecipe
from atril_training.recipes.recipe import Optimization, at_least
from atril_training.tasks.photographs import PhotographCourse, noisy

RECIPE = PhotographRecipe(
    architecture="dncnn",
    dataset="photographs",
    options={"depth": 4, "width": 12},
    deviation=25 / 255,
    patch_side=16,
    patches=1200,
    optimization=Optimization(epochs=1, batch_size=8, peak_learning_rate=1e-2),
    bars=(at_least("test_psnr_db", 23.0, baseline="test: clipping"),),
)


class _OneFile:
    """A source that has one content, whatever is asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, file: DataFile) -> bytes:
        return self.content


def _archive(count: int, content: Callable[[int], bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in reversed(range(count)):
            data = content(number)
            entry = tarfile.TarInfo(f"train400/test_{number:03}.png")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _png(level: int) -> bytes:
    packed = io.BytesIO()
    Image.new("L", (3, 2), level % 256).save(packed, "PNG")
    return packed.getvalue()


def _small(course: PhotographCourse) -> PhotographCourse:
    """The same course with a corner of each photograph to judge on."""
    sets = course.dataset

    def corner(split: tuple[photographs.Photograph, ...]) -> tuple[photographs.Photograph, ...]:
        return tuple(np.ascontiguousarray(one[-97:, -90:]) for one in split)

    tests = {name: corner(split) for name, split in sets.tests.items()}
    small = replace(sets, validation=corner(sets.validation), tests=tests)
    return PhotographCourse(RECIPE, small, course.shuffled)


def _course() -> PhotographCourse:
    return _small(PhotographCourse.prepare(RECIPE, _OneFile(b"")))


def test_bundled_photographs_are_whole_and_in_one_split_each() -> None:
    """Seven to learn from, one that validates and three to judge, none of them twice."""
    sets = load_bundled_photographs(_OneFile(b""))
    splits = (sets.train, sets.validation, sets.tests["test"])
    assert [len(split) for split in splits] == [7, 1, 3]
    everything = [one.tobytes() for split in splits for one in split]
    assert len(set(everything)) == len(everything) == len(sets.checksums)
    assert all(one.dtype == np.uint8 and one.ndim == 2 for split in splits for one in split)


def test_another_photograph_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scikit-image that ships other samples is refused by name."""
    other = replace(photographs._BUNDLED["camera"], sha256="0" * 64)
    table = {**photographs._BUNDLED, "camera": other}
    monkeypatch.setattr(photographs, "_BUNDLED", table)
    with pytest.raises(CorruptDataError, match="photograph 'camera': got SHA-256 5cb24"):
        load_bundled_photographs(_OneFile(b""))


def test_train400_is_split_in_the_order_of_names() -> None:
    """340 crops to learn from, 20 validate, the last 40 judge; the order in the file is another."""
    sets = load_train400(_OneFile(_archive(400, _png)))
    assert [len(sets.train), len(sets.validation), len(sets.tests["test"])] == [340, 20, 40]
    levels = [int(one[0, 0]) for one in (*sets.train, *sets.validation, *sets.tests["test"])]
    assert levels == [number % 256 for number in range(400)]
    assert len(sets.tests["photographs"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "not a tar archive"),
        (_archive(3, _png), "got 3 pictures, expected 400"),
        (_archive(3, lambda _: b"text"), r"test_000\.png is not a picture"),
    ],
)
def test_spoilt_archives_are_told(content: bytes, message: str) -> None:
    """The error says what is wrong with the file."""
    with pytest.raises(CorruptDataError, match=rf"train400\.tar: .*{message}"):
        load_train400(_OneFile(content))


def test_file_without_a_url_is_asked_for(tmp_path: Path) -> None:
    """What cannot be downloaded says where to put it."""
    with pytest.raises(DataUnavailableError, match=r"train400\.tar has no public URL: put it into"):
        DownloadSource(tmp_path).read(TRAIN400)


def test_real_train400(shared: Path) -> None:
    """The file as it is: 400 crops of 180 × 180."""
    sets = load_train400(FolderSource(shared / "data"))
    crops = (*sets.train, *sets.validation, *sets.tests["test"])
    assert {one.shape for one in crops} == {(180, 180)}


def test_noise_of_a_photograph_is_always_the_same() -> None:
    """It is part of the judgement: fixed, of the recipe's deviation, and not clipped."""
    photograph = np.full((200, 150), 250, dtype=np.uint8)
    spoilt = noisy(photograph, 0.1)
    assert np.array_equal(spoilt, noisy(photograph, 0.1))
    assert np.std(spoilt) == pytest.approx(0.1, rel=0.02)
    assert spoilt.max() > 1


def test_short_run_meets_its_bar_and_shuffled_targets_do_not() -> None:
    """150 steps remove noise; learnt against other patches, the same steps remove none."""
    course = _course()
    network, _ = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    require_quality(RECIPE, judgement)
    assert judgement.baselines["test: non-local means"] > judgement.baselines["test: Gaussian blur"]

    shuffled = _small(course.with_shuffled_targets(0))
    network, _ = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_psnr_db is .* the bar is at least 23"):
        require_quality(RECIPE, judge_course(shuffled, network))


def test_same_recipe_same_weights() -> None:
    """Two runs give the same network bit for bit."""
    recipe = replace(RECIPE, patches=64)
    runs = []
    for _ in range(2):
        course = PhotographCourse(recipe, _course().dataset)
        network, _training = train_course(course, SilentReporter(), "cpu")
        runs.append(list(network.parameters()))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("downsampling", [1, 2])
def test_export_takes_photographs_of_any_size(downsampling: int) -> None:
    """One graph, equal to PyTorch at odd and oblong sizes down to one pixel."""
    recipe = replace(RECIPE, options={"depth": 3, "width": 4, "downsampling": downsampling})
    course = PhotographCourse(recipe, _course().dataset)
    (export,) = course.exports(course.build().eval())
    parity = measure_parity(export, export_graph(export))
    assert not parity.failures()
    assert {1, 33, 64} <= {case.sizes["height"] for case in parity.cases}
    assert isinstance(export.task, DenoisingTask)
    assert export.task.any_size
    assert export.task.parts is None
