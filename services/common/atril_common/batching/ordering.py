"""Answers in the order in which their batches left, whichever of them is computed first."""

from collections import deque
from collections.abc import Callable


class Ticket:
    """A place in the order; it holds the answer from when it is there until its turn comes."""

    __slots__ = ("release",)

    def __init__(self) -> None:
        self.release: Callable[[], None] | None = None


class OrderedRelease:
    """Holds back what was computed before its turn."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    def enter(self) -> Ticket:
        """Take the next place in the order."""
        ticket = Ticket()
        self._tickets.append(ticket)
        return ticket

    def settle(self, ticket: Ticket, release: Callable[[], None]) -> None:
        """The answer of a place is there: release it and what waited for it, in order."""
        ticket.release = release
        while self._tickets and (due := self._tickets[0].release) is not None:
            self._tickets.popleft()
            due()
