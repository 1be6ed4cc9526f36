"""Running text, character by character: numbers in words that are written here, and two classics.

Numbers in words are drawn from a source whose entropy is known, so that it can be told how near to
the best possible a model comes. Besides text drawn like that to learn from, text of whole ranges
of numbers is held out.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
from num2words import num2words
from numpy.typing import NDArray

from atril_training.datasets.files import DataFile, FileSource
from atril_training.datasets.number_corpus import (
    HELD_OUT_NUMBERS,
    HELD_OUT_SPOKEN_YEARS,
    is_held_out_number,
)
from atril_training.errors import CorruptDataError

TEST, RANGE = "test", "range"


@dataclass(frozen=True, slots=True, eq=False)
class TextDataset:
    """A text to learn from, one to choose the best epoch on, and some to judge with.

    `alphabet` has every character of all of them, in the order of their code points.
    `entropy_nats` is by test split the mean information of a character where the text's source is
    known: no model can do better but by chance. `checksums` are by file.
    """

    name: str
    alphabet: str
    train: str
    validation: str
    tests: Mapping[str, str]
    checksums: Mapping[str, str]
    held_out: str
    entropy_nats: Mapping[str, float] = field(default_factory=dict)

    def tokens(self, text: str) -> NDArray[np.int64]:
        """The place in the alphabet of each character.

        Raises:
            ValueError: a character is not in it.
        """
        places = {character: place for place, character in enumerate(self.alphabet)}
        try:
            return np.array([places[character] for character in text], dtype=np.int64)
        except KeyError as err:
            raise ValueError(f"the alphabet of {self.name} has no {err.args[0]!r}") from None


NUMBERS_SHA256 = "92f1aa905a18ce5b59bcac28885ee3f82be38630668fbe1cdd7378b8ff77594c"
"""Of the generated text: train, validation and tests in this order, UTF-8."""

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_SEED = 1815  # the text is the same for all trainings
_TRAIN_LINES, _VALIDATION_LINES, _TEST_LINES = 6_000, 400, 600
_DIGITS = range(1, 7)
_ORDINALS = range(1, 1_000)
_SPOKEN_YEARS = [year for year in range(1100, 2100) if year not in HELD_OUT_SPOKEN_YEARS]
_DAYS, _YEARS_OF_DATES = range(1, 29), range(1900, 2100)


def load_number_text(_source: FileSource) -> TextDataset:
    """About 180,000 characters to learn from; written here, so nothing is read from the source.

    Raises:
        CorruptDataError: the installed num2words writes other words.
    """
    writer = _Writer(np.random.default_rng(_SEED))
    train, _information = writer.text(_TRAIN_LINES, writer.line)
    validation, _information = writer.text(_VALIDATION_LINES, writer.line)
    test, information = writer.text(_TEST_LINES, writer.line)
    held_out, _unlikely = writer.text(_TEST_LINES, writer.held_out_line)
    everything = train + validation + test + held_out
    digest = hashlib.sha256(everything.encode()).hexdigest()
    if digest != NUMBERS_SHA256:
        raise CorruptDataError(f"numbers in words: got SHA-256 {digest}, expected {NUMBERS_SHA256}")
    return TextDataset(
        name="number_text",
        alphabet="".join(sorted(set(everything))),
        train=train,
        validation=validation,
        tests={TEST: test, RANGE: held_out},
        checksums={"generated text": digest},
        held_out="test: lines drawn like those to learn from; range: numbers from 7,000 to 7,499 "
        "and from 340,000 to 359,999 and spoken years from 1760 to 1779, of which none was learnt",
        entropy_nats={TEST: information / len(test)},
    )


_Draw = Callable[[], tuple[str, float]]


class _Writer:
    """Draws lines; each comes with its information, minus the log of its probability."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def text(self, lines: int, draw: _Draw) -> tuple[str, float]:
        """So many lines, and the sum of their information in nats."""
        drawn = [draw() for _ in range(lines)]
        return "".join(f"{words}\n" for words, _nats in drawn), sum(nats for _words, nats in drawn)

    def line(self) -> tuple[str, float]:
        """A number, an ordinal, a year as it is spoken, or a date, one as likely as the other."""
        kinds = (self._number, self._ordinal, self._spoken_year, self._date)
        words, nats = kinds[self.generator.integers(len(kinds))]()
        return words, nats + log(len(kinds))

    def held_out_line(self) -> tuple[str, float]:
        """A number or a spoken year out of the ranges that are never learnt from."""
        ranges = (*HELD_OUT_NUMBERS, HELD_OUT_SPOKEN_YEARS)
        chosen = ranges[self.generator.integers(len(ranges))]
        number = self._one_of(chosen)
        kind = "year" if chosen is HELD_OUT_SPOKEN_YEARS else "cardinal"
        return num2words(number, to=kind), log(len(ranges) * len(chosen))

    def _number(self) -> tuple[str, float]:
        """First how many digits, then which number of so many."""
        digits = self._one_of(_DIGITS)
        numbers = range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)
        held_out = sum(one.start in numbers and len(one) for one in HELD_OUT_NUMBERS)
        number = self._one_of(numbers)
        while is_held_out_number(number):
            number = self._one_of(numbers)
        return num2words(number), log(len(_DIGITS) * (len(numbers) - held_out))

    def _ordinal(self) -> tuple[str, float]:
        return num2words(self._one_of(_ORDINALS), to="ordinal"), log(len(_ORDINALS))

    def _spoken_year(self) -> tuple[str, float]:
        return num2words(self._one_of(_SPOKEN_YEARS), to="year"), log(len(_SPOKEN_YEARS))

    def _date(self) -> tuple[str, float]:
        day = num2words(self._one_of(_DAYS), to="ordinal")
        month = _MONTHS[self.generator.integers(len(_MONTHS))]
        year = num2words(self._one_of(_YEARS_OF_DATES), to="year")
        nats = log(len(_DAYS) * len(_MONTHS) * len(_YEARS_OF_DATES))
        return f"the {day} of {month} {year}", nats

    def _one_of(self, numbers: Sequence[int]) -> int:
        return numbers[int(self.generator.integers(len(numbers)))]


TINY_SHAKESPEARE = DataFile(
    "text",
    "tinyshakespeare.txt",
    1115394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    ),
)
TIME_MACHINE = DataFile(
    "text",
    "timemachine.txt",
    178979,
    "8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
    ("http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",),
)

_TEST_FRACTION = 0.1
_VALIDATION_FRACTION = 0.05


def load_tiny_shakespeare(source: FileSource) -> TextDataset:
    """Part of Shakespeare's works: 1,115,394 characters, 65 different ones.

    The last tenth is the test split, as in nanoGPT, where it also chooses the best weights; here
    the twentieth before it does, and is not learnt from.
    """
    return _classic("tiny_shakespeare", source.read(TINY_SHAKESPEARE).decode(), TINY_SHAKESPEARE)


def load_time_machine(source: FileSource) -> TextDataset:
    """The Time Machine by H. G. Wells, as in "Dive into Deep Learning": lower case, 27 characters.

    Every run of other characters than letters is one space. The last tenth is the test split, and
    the twentieth before it validates.
    """
    letters = re.sub("[^a-z]+", " ", source.read(TIME_MACHINE).decode().lower())
    return _classic("time_machine", letters, TIME_MACHINE)


def _classic(name: str, text: str, file: DataFile) -> TextDataset:
    test = int(len(text) * (1 - _TEST_FRACTION))
    validation = int(len(text) * (1 - _TEST_FRACTION - _VALIDATION_FRACTION))
    return TextDataset(
        name=name,
        alphabet="".join(sorted(set(text))),
        train=text[:validation],
        validation=text[validation:test],
        tests={TEST: text[test:]},
        checksums={file.name: file.sha256},
        held_out="test: the last tenth of the text",
    )
