"""Sentences and their translations: Multi30k and Tatoeba, and what all such sets have in common."""

import gzip
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from atril_training.datasets.files import DataFile, FileSource
from atril_training.errors import CorruptDataError


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


@dataclass(frozen=True, slots=True, eq=False)
class ParallelDataset:
    """A translation set: to learn from, to choose the best epoch on, and to judge with.

    Args:
        name: of the set.
        source_language, target_language: as ISO 639-1 codes.
        train, validation: pairs in a fixed order.
        tests: splits to judge with by name; one is `test`.
        checksums: SHA-256 sums of the data it was made from, by file.
        held_out: what the test splits are, in words.
    """

    name: str
    source_language: str
    target_language: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    tests: Mapping[str, tuple[Pair, ...]]
    checksums: Mapping[str, str]
    held_out: str


def digest_of_pairs(pairs: Sequence[Pair]) -> str:
    """SHA-256 of pairs written as lines of source TAB target, in UTF-8."""
    lines = "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)
    return hashlib.sha256(lines.encode()).hexdigest()


_MULTI30K_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"


def _multi30k(name: str, size_bytes: int, sha256: str) -> DataFile:
    return DataFile("multi30k", name, size_bytes, sha256, (_MULTI30K_URL + name,))


_MULTI30K_FILES = {
    "train": (
        _multi30k(
            "train.en.gz",
            568929,
            "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        ),
        _multi30k(
            "train.de.gz",
            637044,
            "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        ),
    ),
    "validation": (
        _multi30k(
            "val.en.gz",
            21650,
            "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        ),
        _multi30k(
            "val.de.gz",
            24681,
            "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        ),
    ),
    "test": (
        _multi30k(
            "test_2016_flickr.en.gz",
            21077,
            "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        ),
        _multi30k(
            "test_2016_flickr.de.gz",
            22890,
            "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        ),
    ),
}


def load_multi30k(source: FileSource) -> ParallelDataset:
    """Multi30k, task 1: English image descriptions and their German translations, untokenised.

    29,000 pairs to learn from, 1,014 to validate on and the 1,000 of test_2016_flickr to judge with
    (Elliott, Frank, Sima'an & Specia 2016, W16-3210).

    Raises:
        DataUnavailableError: a file is not there.
        CorruptDataError: a file has another content.
    """
    splits = {name: _read_pairs(files, source) for name, files in _MULTI30K_FILES.items()}
    return ParallelDataset(
        name="multi30k",
        source_language="en",
        target_language="de",
        train=splits["train"],
        validation=splits["validation"],
        tests={"test": splits["test"]},
        checksums={file.name: file.sha256 for files in _MULTI30K_FILES.values() for file in files},
        held_out="test_2016_flickr: descriptions of other pictures, collected with the others",
    )


def _read_pairs(files: tuple[DataFile, DataFile], source: FileSource) -> tuple[Pair, ...]:
    sources, targets = (_read_lines(file, source) for file in files)
    if len(sources) != len(targets):
        raise CorruptDataError(
            f"{files[1].name}: got {len(targets)} lines, expected {len(sources)}, one for each "
            f"line of {files[0].name}"
        )
    return tuple(Pair(one, other) for one, other in zip(sources, targets, strict=True))


def _read_lines(file: DataFile, source: FileSource) -> list[str]:
    content = source.read(file)
    try:
        return gzip.decompress(content).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as err:
        raise CorruptDataError(f"{file.name}: not lines of UTF-8 under gzip: {err}") from err


TATOEBA = DataFile(
    "tatoeba",
    "spa.txt",
    8042772,
    "6ec60e212f812ee3430f7568ea6f33b6fb080e32193c5952e8da0ee8ba45574c",
    (),
)
"""The edition of 2018-05-13 of manythings.org/anki, of which no public URL gives the file itself:
it has to be put into a data folder."""

_TATOEBA_SPLIT_SEED = 2018  # the splits are part of the data set: they do not follow the seed
_TATOEBA_HELD_OUT_SENTENCES = 2000  # English ones, in each of validation and test


def load_tatoeba(source: FileSource) -> ParallelDataset:
    """Tatoeba's English-Spanish pairs, split by English sentence.

    An English sentence often comes with several translations; all of them go into the same split,
    so that no sentence judged with was learnt from. CC BY 2.0, manythings.org/anki and tatoeba.org.

    Raises:
        DataUnavailableError: the file is not there.
        CorruptDataError: it has another content.
    """
    pairs = [_pair_of_line(line) for line in source.read(TATOEBA).decode().splitlines()]
    sentences = sorted({pair.source for pair in pairs})
    order = np.random.default_rng(_TATOEBA_SPLIT_SEED).permutation(len(sentences))
    count = _TATOEBA_HELD_OUT_SENTENCES
    validation, test = (
        {sentences[index] for index in order[start : start + count]} for start in (0, count)
    )
    return ParallelDataset(
        name="tatoeba",
        source_language="en",
        target_language="es",
        train=tuple(p for p in pairs if p.source not in validation and p.source not in test),
        validation=tuple(pair for pair in pairs if pair.source in validation),
        tests={"test": tuple(pair for pair in pairs if pair.source in test)},
        checksums={TATOEBA.name: TATOEBA.sha256},
        held_out=f"all pairs of {count} English sentences drawn at random",
    )


def _pair_of_line(line: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != len(("source", "target")):
        raise CorruptDataError(
            f"{TATOEBA.name}: expected two columns with a TAB between them, got {line[:80]!r}"
        )
    return Pair(*parts)
