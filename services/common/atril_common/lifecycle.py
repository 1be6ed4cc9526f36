"""Where a server is in its life; fronts ask it before they say ready."""


class Lifecycle:
    """Serving until `drain` is called, then serving on without being ready."""

    def __init__(self) -> None:
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and wants no new traffic."""
        return self._draining

    def drain(self) -> None:
        """Ask for no new traffic; requests that come all the same are answered."""
        self._draining = True
