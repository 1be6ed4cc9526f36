"""Character n-grams: how well the next character is told from the last few.

Dimensions: T characters of a text, V of the alphabet.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import log


class NGramModel:
    """Interpolated n-grams with Witten and Bell's weights.

    p_n(c | context) = (count(context c) + k · p_{n-1}(c | shorter context)) / (count(context) + k),
    where k is the number of different characters seen after the context; p_0 is uniform. A context
    that was never seen leaves everything to the shorter one.

    Source: Witten & Bell 1991, "The zero-frequency problem", IEEE Trans. Information Theory 37(4),
    method C; Chen & Goodman 1998, "An empirical study of smoothing techniques", §2.4.

    Args:
        tokens: the text to count in, each 0 … V-1.
        alphabet: V.
        order: the largest n; 1 counts single characters, 2 pairs, and so on.

    Raises:
        ValueError: order < 1 or alphabet < 1.
    """

    def __init__(self, tokens: Sequence[int], alphabet: int, order: int) -> None:
        if order < 1 or alphabet < 1:
            raise ValueError(f"order and alphabet must be at least 1, got {order} and {alphabet}")
        self.alphabet = alphabet
        self.order = order
        self._followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._totals: Counter[tuple[int, ...]] = Counter()
        for position, token in enumerate(tokens):
            for length in range(min(order - 1, position) + 1):
                context = tuple(tokens[position - length : position])
                self._followers[context][token] += 1
                self._totals[context] += 1

    def probability(self, token: int, context: Sequence[int]) -> float:
        """Of a character after a context, of which the last order - 1 characters count."""
        probability = 1 / self.alphabet
        for length in range(min(self.order - 1, len(context)) + 1):
            known = tuple(context[len(context) - length :])
            followers = self._followers.get(known)
            if followers is None:
                break
            kinds = len(followers)
            seen = followers[token] + kinds * probability
            probability = seen / (self._totals[known] + kinds)
        return probability

    def cross_entropy(self, tokens: Sequence[int], order: int) -> float:
        """Nats a character on a text, from its second character on, by n-grams of a lower order.

        Raises:
            ValueError: the order is above that which was counted, or below 1.
        """
        if not 1 <= order <= self.order:
            raise ValueError(f"expected an order from 1 to {self.order}, got {order}")
        total = sum(
            log(self.probability(tokens[at], tokens[max(0, at - order + 1) : at]))
            for at in range(1, len(tokens))
        )
        return -total / (len(tokens) - 1)
