"""The catalogue: every architecture of the lectures by name.

A family's module lists its own entries (`lenet.ARCHITECTURES`); this module puts the lists
together, so that adding an architecture is one entry, and adding a family one line here.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping

from atril_models import (
    alexnet,
    autoencoders,
    densenet,
    feedforward,
    googlenet,
    lenet,
    nin,
    recurrent,
    regnet,
    resnet,
    translation,
    vgg,
)
from atril_models.architecture import Architecture, Network


class DuplicateArchitectureError(ValueError):
    """Two entries have the same name."""


class UnknownArchitectureError(LookupError):
    """No entry has this name; the text lists those that exist."""


class UnknownOptionError(ValueError):
    """The architecture has no such option; the text lists those it has."""


class Catalogue(Mapping[str, Architecture]):
    """Architectures by name, in the order in which they were given; it never changes.

    Raises:
        DuplicateArchitectureError: two entries have the same name.
    """

    def __init__(self, entries: Iterable[Architecture]) -> None:
        self._entries: dict[str, Architecture] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise DuplicateArchitectureError(f"architecture '{entry.name}' is listed twice")
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Architecture:
        """The entry of this name.

        Raises:
            UnknownArchitectureError: there is none.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownArchitectureError(
                f"unknown architecture '{name}': expected one of {', '.join(self._entries)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


CATALOGUE = Catalogue(
    [
        *feedforward.ARCHITECTURES,
        *lenet.ARCHITECTURES,
        *alexnet.ARCHITECTURES,
        *vgg.ARCHITECTURES,
        *nin.ARCHITECTURES,
        *googlenet.ARCHITECTURES,
        *resnet.ARCHITECTURES,
        *densenet.ARCHITECTURES,
        *regnet.ARCHITECTURES,
        *autoencoders.ARCHITECTURES,
        *recurrent.ARCHITECTURES,
        *translation.ARCHITECTURES,
    ]
)


def create_model(name: str, **options: object) -> Network:
    """A freshly initialised network, its weights drawn from torch's default generator.

    Args:
        name: of the architecture.
        options: of its `build`; those not given have the published form's values.

    Raises:
        UnknownArchitectureError: no architecture has this name.
        UnknownOptionError: it has no such option.
        ValueError: an option has a value that makes no network.
    """
    architecture = CATALOGUE[name]
    known = inspect.signature(architecture.build).parameters
    for option in options:
        if option not in known:
            raise UnknownOptionError(
                f"architecture '{name}' has no option '{option}': expected one of "
                f"{', '.join(known) or 'none'}"
            )
    return architecture.build(**options)
