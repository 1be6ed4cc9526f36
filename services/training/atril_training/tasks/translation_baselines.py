"""Translating without a network."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from atril_training.datasets.parallel_text import Pair

_PIECE = re.compile(r"\w+|\s+|[^\w\s]")
"""A word, a number, blanks, or one mark of punctuation."""

_CHUNK = 100
_EXAMPLES_LOOKED_AT = 20


def pieces(text: str) -> list[str]:
    """A text cut into words, blanks and marks, which joined give the text."""
    return _PIECE.findall(text)


class WordForWord:
    """Each word by the one that it comes with most often, in the order of the source.

    That e comes with f is counted once a pair, and weighed by how often each comes at all:
    2 n(e, f) / (n(e) + n(f)) (Dice 1945). Marks, blanks and unknown words stay as they are.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.dictionary = _dictionary(pairs)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """A translation of each text."""
        return [
            "".join(self.dictionary.get(piece, piece) for piece in pieces(text)) for text in texts
        ]


class AdaptedExample:
    """The translation of the most similar sentence, with the words exchanged that differ.

    Of the sentences that share most words with the source, the one of the same length in words and
    marks that differs in the fewest places is taken. In its translation, what the dictionary gives
    for each differing word makes place for what it gives for the source's. Where none is of the
    same length, the most similar sentence's translation stays as it is.

    Source: translation by analogy, Nagao 1984.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._dictionary = _dictionary(pairs)
        self._sources = [pieces(pair.source) for pair in pairs]
        self._targets = [pair.target for pair in pairs]
        self._vectorizer = CountVectorizer(analyzer=_words, binary=True, dtype=np.float32)
        counts = self._vectorizer.fit_transform(pair.source for pair in pairs)
        self._known = counts.T.tocsr()
        self._sizes = np.asarray(counts.sum(axis=1)).ravel()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """A translation of each text."""
        found: list[str] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            asked = self._vectorizer.transform(chunk)
            shared = (asked @ self._known).toarray()
            either = np.asarray(asked.sum(axis=1)) + self._sizes - shared
            similarity: NDArray[np.float32] = shared / np.maximum(either, 1)  # Jaccard
            found += [
                self._adapted(pieces(text), row)
                for text, row in zip(chunk, similarity, strict=True)
            ]
        return found

    def _adapted(self, source: list[str], similarity: NDArray[np.float32]) -> str:
        count = min(_EXAMPLES_LOOKED_AT, len(similarity))
        candidates = np.argpartition(-similarity, count - 1)[:count]
        nearest: list[int] = candidates[np.argsort(-similarity[candidates], kind="stable")].tolist()
        fitting = [one for one in nearest if len(self._sources[one]) == len(source)]
        if not fitting:
            return self._targets[nearest[0]]
        example = min(fitting, key=lambda one: len(self._exchanges(one, source)))
        exchanges = self._exchanges(example, source)
        return "".join(exchanges.get(piece, piece) for piece in pieces(self._targets[example]))

    def _exchanges(self, example: int, source: list[str]) -> dict[str, str]:
        """What takes the place of what in the example's translation."""
        return {
            self._dictionary.get(old, old): self._dictionary.get(new, new)
            for old, new in zip(self._sources[example], source, strict=True)
            if old != new
        }


def _words(text: str) -> list[str]:
    return [piece for piece in pieces(text) if piece[0].isalnum()]


def _dictionary(pairs: Sequence[Pair]) -> Mapping[str, str]:
    together: Counter[tuple[str, str]] = Counter()
    sources: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    for pair in pairs:
        source, target = set(_words(pair.source)), set(_words(pair.target))
        sources.update(source)
        targets.update(target)
        together.update((one, other) for one in source for other in target)
    best: dict[str, tuple[float, str]] = {}
    for (one, other), count in together.items():
        weight = 2 * count / (sources[one] + targets[other])
        best[one] = max(best.get(one, (0.0, "")), (weight, other))
    return {word: other for word, (_, other) in best.items()}
