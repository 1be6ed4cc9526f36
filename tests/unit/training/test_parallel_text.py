"""The translation sets: what is in them and held out, and that the numbers are right."""

import datetime
import gzip
from pathlib import Path

import pytest

from atril_training.datasets import PARALLEL_DATASETS, ParallelDataset, file_source
from atril_training.datasets import parallel_text as sets
from atril_training.datasets.files import DataFile
from atril_training.datasets.number_corpus import (
    HELD_OUT_NUMBERS,
    HELD_OUT_SPOKEN_YEARS,
    date_pair,
    is_ambiguous,
    is_held_out_date,
    number_pair,
    spanish_number,
    year_pair,
)
from atril_training.errors import CorruptDataError

MARCH_3 = datetime.date(2021, 3, 3)


@pytest.fixture(scope="module")
def corpus() -> ParallelDataset:
    """The generated corpus; no file is read for it."""
    return PARALLEL_DATASETS["number_corpus"](file_source(Path("not read")))


@pytest.mark.parametrize(
    ("number", "english", "spanish"),
    [
        (0, "zero", "cero"),
        (16, "sixteen", "dieciséis"),
        (22, "twenty-two", "veintidós"),
        (31, "thirty-one", "treinta y uno"),
        (100, "one hundred", "cien"),
        (101, "one hundred and one", "ciento uno"),
        (500, "five hundred", "quinientos"),
        (1000, "one thousand", "mil"),
        (1001, "one thousand and one", "mil uno"),
        (21_000, "twenty-one thousand", "veintiún mil"),
        (31_001, "thirty-one thousand and one", "treinta y un mil uno"),
        (101_000, "one hundred and one thousand", "ciento un mil"),
        (
            999_999,
            "nine hundred and ninety-nine thousand, nine hundred and ninety-nine",
            "novecientos noventa y nueve mil novecientos noventa y nueve",
        ),
    ],
)
def test_numbers_are_written_as_the_languages_do(number: int, english: str, spanish: str) -> None:
    """Irregular words, `cien` and `ciento`, and `un` before `mil`."""
    assert number_pair(number) == (english, spanish)


def test_no_spanish_number_has_a_full_one_before_mil() -> None:
    """`uno mil` never occurs, and `un` only before `mil`."""
    for number in range(0, 1_000_000, 977):
        words = spanish_number(number).split()
        for word, following in zip(words, [*words[1:], ""], strict=True):
            assert not (word.endswith("uno") and following == "mil"), number
            assert not (word in ("un", "veintiún") and following != "mil"), number


@pytest.mark.parametrize(
    ("year", "english", "spanish"),
    [
        (1984, "nineteen eighty-four", "mil novecientos ochenta y cuatro"),
        (1905, "nineteen oh-five", "mil novecientos cinco"),
        (1900, "nineteen hundred", "mil novecientos"),
        (2005, "two thousand and five", "dos mil cinco"),
        (2024, "twenty twenty-four", "dos mil veinticuatro"),
    ],
)
def test_years_are_written_as_they_are_spoken(year: int, english: str, spanish: str) -> None:
    """In pairs of digits in English, as a number in Spanish."""
    assert year_pair(year) == (english, spanish)


@pytest.mark.parametrize(
    ("form", "english", "spanish"),
    [
        ("short", "3/4/21", "4/3/21"),
        ("medium", "Mar 4, 2021", "4 mar 2021"),
        ("long", "March 4, 2021", "4 de marzo de 2021"),
        ("full", "Thursday, March 4, 2021", "jueves, 4 de marzo de 2021"),
    ],
)
def test_dates_are_written_in_four_forms(form: str, english: str, spanish: str) -> None:
    """Month first in the United States, day first in Spain."""
    assert date_pair(datetime.date(2021, 3, 4), form) == (english, spanish)  # type: ignore[arg-type]


def test_a_source_has_one_translation(corpus: ParallelDataset) -> None:
    """No English text occurs twice, in no split, so that none has two right answers."""
    splits = (corpus.train, corpus.validation, *corpus.tests.values())
    sources = [pair.source for split in splits for pair in split]
    assert len(sources) == len(set(sources)) == 12_000 + 500 + 3 * 400


def test_may_is_not_written_in_the_medium_form() -> None:
    """`May 3, 2021` is also the long form, whose Spanish is another."""
    may = MARCH_3.replace(month=5)
    assert date_pair(may, "medium").source == date_pair(may, "long").source
    assert is_ambiguous(may, "medium")
    assert not is_ambiguous(may, "long")
    assert not is_ambiguous(MARCH_3, "medium")


def test_the_dictionary_is_learnt_from(corpus: ParallelDataset) -> None:
    """Every number below a hundred is there."""
    learnt = set(corpus.train)
    assert all(number_pair(number) in learnt for number in range(100))


def test_ranges_held_out_are_whole(corpus: ParallelDataset) -> None:
    """No number and no spoken year of them is learnt from; all of the test split are of them."""
    held_out = {number_pair(number) for numbers in HELD_OUT_NUMBERS for number in numbers}
    held_out |= {year_pair(year) for year in HELD_OUT_SPOKEN_YEARS}
    for split in (corpus.train, corpus.validation, corpus.tests["test"]):
        assert not held_out.intersection(split)
    assert held_out.issuperset(corpus.tests["range"])


def test_combinations_held_out_are_whole(corpus: ParallelDataset) -> None:
    """Full dates in October, long ones in the 2030s, medium ones in the 1970s: only in the test."""
    day, held_out = datetime.date(1900, 1, 1), set()
    while day.year < 2100:
        for form in ("medium", "long", "full"):
            if is_held_out_date(day, form):  # type: ignore[arg-type]
                held_out.add(date_pair(day, form))  # type: ignore[arg-type]
        day += datetime.timedelta(days=7 if day.month != 10 else 1)
    for split in (corpus.train, corpus.validation, corpus.tests["test"]):
        assert not held_out.intersection(split)
    kinds = {pair.source.split()[-1][:3] for pair in corpus.tests["combination"]}
    assert {"203", "197"} <= kinds
    assert any("October" in pair.source for pair in corpus.train)
    assert not any(", October" in pair.source for pair in corpus.train)


def test_the_corpus_is_always_the_same(corpus: ParallelDataset) -> None:
    """Generated again it has the same checksum."""
    again = PARALLEL_DATASETS["number_corpus"](file_source(Path("not read")))
    assert again.checksums == corpus.checksums


def test_multi30k_has_its_three_splits(shared: Path) -> None:
    """29,000, 1,014 and 1,000 pairs, line by line beside each other."""
    data = PARALLEL_DATASETS["multi30k"](file_source(shared / "data"))
    assert (len(data.train), len(data.validation)) == (29_000, 1_014)
    assert len(data.tests["test"]) == 1_000
    assert data.tests["test"][0] == (
        "A man in an orange hat starring at something.",
        "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    )


def test_tatoeba_is_split_by_english_sentence(shared: Path) -> None:
    """118,964 pairs; no sentence judged with was learnt from in another translation."""
    data = PARALLEL_DATASETS["tatoeba"](file_source(shared / "data"))
    splits = (data.train, data.validation, data.tests["test"])
    assert sum(map(len, splits)) == 118_964
    train, validation, test = ({pair.source for pair in split} for split in splits)
    assert (len(validation), len(test)) == (2000, 2000)
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)


class _Files:
    """Serves contents by file name, whatever their checksums."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents

    def read(self, file: DataFile) -> bytes:
        """What was given for it."""
        return self.contents[file.name]


def _multi30k(**changed: bytes) -> _Files:
    names = ("train.en", "train.de", "val.en", "val.de", "test_2016_flickr.en")
    contents = {f"{name}.gz": gzip.compress(b"a\nb\n") for name in (*names, "test_2016_flickr.de")}
    return _Files(contents | {name.replace("_", ".", 1) + ".gz": c for name, c in changed.items()})


def test_files_of_unequal_length_are_refused() -> None:
    """The error has both counts and both names."""
    files = _multi30k(val_de=gzip.compress(b"a\n"))
    with pytest.raises(CorruptDataError, match=r"val\.de\.gz: got 1 lines, expected 2.*\.en\.gz"):
        sets.load_multi30k(files)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"\xff\xfe"), gzip.compress(b"a")[:-3]]
)
def test_what_is_no_text_under_gzip_is_refused(content: bytes) -> None:
    """The error names the file."""
    with pytest.raises(CorruptDataError, match=r"train\.de\.gz: not lines of UTF-8 under gzip"):
        sets.load_multi30k(_multi30k(train_de=content))


def test_a_line_without_two_columns_is_refused() -> None:
    """The error shows the line."""
    with pytest.raises(CorruptDataError, match=r"spa\.txt: expected two columns .*'Go\.'"):
        sets.load_tatoeba(_Files({"spa.txt": b"Go.\n"}))


def test_checksums_cover_both_sides() -> None:
    """Another translation of the same sources has another sum."""
    pairs = [sets.Pair("a", "b"), sets.Pair("c", "d")]
    other = [sets.Pair("a", "b"), sets.Pair("c", "e")]
    assert sets.digest_of_pairs(pairs) != sets.digest_of_pairs(other)
    assert sets.digest_of_pairs(pairs) != sets.digest_of_pairs(pairs[::-1])
