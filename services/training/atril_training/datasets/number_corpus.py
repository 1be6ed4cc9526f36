"""Numbers and dates in English words and forms, with their Spanish ones: a corpus without limit.

The translations are exact, because both sides are written from the same number by rule: numbers
and spoken years by num2words, dates by Babel from the Unicode CLDR.

The words for 0 to 99 are all there to learn from: they are the dictionary, and nobody could guess
one that is missing. Besides pairs drawn at random, whole ranges of numbers and whole combinations
of a form and a range are held out. A network that has only learnt sentences by heart, or parts of
them, fails there; one that has learnt how the parts combine does not.
"""

import datetime
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from babel.dates import format_date
from num2words import num2words

from atril_training.datasets.files import FileSource
from atril_training.datasets.parallel_text import Pair, ParallelDataset, digest_of_pairs

DateForm = Literal["short", "medium", "long", "full"]

TEST, RANGE, COMBINATION = "test", "range", "combination"
"""The test splits: drawn at random, of ranges held out, of combinations held out."""

HELD_OUT_NUMBERS = (range(7_000, 7_500), range(340_000, 360_000))
"""Numbers in words that are never learnt from."""

HELD_OUT_SPOKEN_YEARS = range(1760, 1780)
"""Years in words that are never learnt from."""

_DICTIONARY = range(100)
_DIGITS_OF_NUMBERS = range(3, 7)
_SPOKEN_YEARS = range(1100, 2100)
_FIRST_DAY, _LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_DATE_FORMS: tuple[DateForm, ...] = ("short", "medium", "long", "full")

_SEED = 2024  # the corpus is the same for all trainings
_TRAIN, _VALIDATION, _TEST = 12_000, 500, 400


def load_number_corpus(_source: FileSource) -> ParallelDataset:
    """12,000 pairs to learn from, 500 to validate on, 400 in each test split."""
    drawer = _Drawer(np.random.default_rng(_SEED))
    tests = {
        TEST: drawer.unseen(_TEST, drawer.anything),
        RANGE: drawer.unseen(_TEST, drawer.held_out_range, held_out=True),
        COMBINATION: drawer.unseen(_TEST, drawer.date, held_out=True),
    }
    validation = drawer.unseen(_VALIDATION, drawer.anything)
    dictionary = tuple(number_pair(number) for number in _DICTIONARY)
    train = dictionary + drawer.unseen(_TRAIN - len(dictionary), drawer.anything)
    everything = [*train, *validation, *itertools.chain(*tests.values())]
    return ParallelDataset(
        name="number_corpus",
        source_language="en",
        target_language="es",
        train=train,
        validation=validation,
        tests=tests,
        checksums={"generated pairs": digest_of_pairs(everything)},
        held_out=(
            "test: drawn like the pairs to learn from, and none of them; range: numbers from 7,000 "
            "to 7,499 and from 340,000 to 359,999 and spoken years from 1760 to 1779, of which "
            "none was learnt; combination: full dates in October, long dates in the 2030s and "
            "medium dates in the 1970s, months and years that were learnt in other forms only"
        ),
    )


def is_held_out_number(number: int) -> bool:
    """Whether a number in words is in a range that is never learnt from."""
    return any(number in held_out for held_out in HELD_OUT_NUMBERS)


def is_ambiguous(date: datetime.date, form: DateForm) -> bool:
    """Whether the English form is also another one's: May is as long as its abbreviation."""
    return form == "medium" and date.month == 5


def is_held_out_date(date: datetime.date, form: DateForm) -> bool:
    """Whether a date in this form is a combination that is never learnt from."""
    return {
        "short": False,
        "medium": 1970 <= date.year < 1980,
        "long": 2030 <= date.year < 2040,
        "full": date.month == 10,
    }[form]


def number_pair(number: int) -> Pair:
    """A number in words, such as `twenty-one thousand and two` and `veintiún mil dos`."""
    return Pair(num2words(number), spanish_number(number))


def spanish_number(number: int) -> str:
    """A number below a million in Spanish words.

    num2words writes `veintiuno mil` and `treinta y uno mil`; before `mil` it is `un`
    (RAE, Ortografía de la lengua española 2010, VIII 2.2).
    """
    words = str(num2words(number, lang="es"))
    return words.replace("veintiuno mil", "veintiún mil").replace("uno mil", "un mil")


def year_pair(year: int) -> Pair:
    """A year as it is spoken: `nineteen eighty-four` and `mil novecientos ochenta y cuatro`."""
    return Pair(num2words(year, to="year"), spanish_number(year))


def date_pair(date: datetime.date, form: DateForm) -> Pair:
    """A date as written in the United States and in Spain, in one of CLDR's four forms."""
    english, spanish = (format_date(date, form, locale=one) for one in ("en_US", "es_ES"))
    return Pair(english, spanish)


@dataclass(frozen=True, slots=True)
class _Drawn:
    pair: Pair
    held_out: bool


class _Drawer:
    """Draws pairs, none of whose sources it has given before."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._given: set[str] = set()

    def unseen(
        self, count: int, draw: Callable[[], _Drawn], *, held_out: bool = False
    ) -> tuple[Pair, ...]:
        """So many new pairs that are held out, or are not."""
        pairs: list[Pair] = []
        while len(pairs) < count:
            drawn = draw()
            if drawn.pair.source not in self._given and drawn.held_out == held_out:
                self._given.add(drawn.pair.source)
                pairs.append(drawn.pair)
        return tuple(pairs)

    def anything(self) -> _Drawn:
        """A number, a spoken year or a date: two, one and three of six."""
        which = self._below(6)
        if which < 2:
            digits = _DIGITS_OF_NUMBERS[self._below(len(_DIGITS_OF_NUMBERS))]
            return self._number(range(10 ** (digits - 1), 10**digits))
        if which == 2:
            return self._year(_SPOKEN_YEARS)
        return self.date()

    def held_out_range(self) -> _Drawn:
        """A number or, once in forty, a spoken year of the ranges held out."""
        if self._below(40) == 0:
            return self._year(HELD_OUT_SPOKEN_YEARS)
        return self._number(HELD_OUT_NUMBERS[self._below(len(HELD_OUT_NUMBERS))])

    def date(self) -> _Drawn:
        """A date in one of its forms."""
        days = (_LAST_DAY - _FIRST_DAY).days + 1
        date = _FIRST_DAY + datetime.timedelta(days=self._below(days))
        form = _DATE_FORMS[self._below(len(_DATE_FORMS))]
        if is_ambiguous(date, form):
            return self.date()
        return _Drawn(date_pair(date, form), is_held_out_date(date, form))

    def _number(self, numbers: range) -> _Drawn:
        number = numbers[self._below(len(numbers))]
        return _Drawn(number_pair(number), is_held_out_number(number))

    def _year(self, years: range) -> _Drawn:
        year = years[self._below(len(years))]
        return _Drawn(year_pair(year), year in HELD_OUT_SPOKEN_YEARS)

    def _below(self, bound: int) -> int:
        return int(self._generator.integers(bound))
