"""A latency histogram that costs a bisect and two additions an observation."""

from bisect import bisect_left


class Histogram:
    """Counts of observations by bucket, and their sum.

    Args:
        bounds: upper bounds of the buckets, ascending; one more bucket takes what is above.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Record `times` observations of one value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def cumulative(self, per_unit: float = 1) -> list[tuple[str, float]]:
        """Prometheus buckets: upper bound and how many observations are at most that.

        Args:
            per_unit: how many of what was observed make one of what the bounds are told in.
        """
        buckets, total = [], 0
        bounds = [*(str(bound / per_unit) for bound in self.bounds), "+Inf"]
        for bound, count in zip(bounds, self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets
