"""The catalogue, and what must hold of every architecture in it."""

import pytest

from atril_models import (
    CATALOGUE,
    Architecture,
    Catalogue,
    DuplicateArchitectureError,
    Family,
    UnknownArchitectureError,
    UnknownOptionError,
    create_model,
)
from atril_models.lenet import LeNet5

every_architecture = pytest.mark.parametrize("name", list(CATALOGUE))


def _entry(name: str) -> Architecture:
    return Architecture(
        name=name,
        title=name,
        family=Family.CONVOLUTIONAL,
        lecture_section="0",
        source="none",
        formula="none",
        build=LeNet5,
    )


def test_entries_keep_their_order() -> None:
    """The catalogue lists its entries as they were given, and knows which it has."""
    catalogue = Catalogue([_entry("b"), _entry("a")])
    assert list(catalogue) == ["b", "a"]
    assert len(catalogue) == 2
    assert "a" in catalogue
    assert "c" not in catalogue


def test_same_name_twice_is_an_error() -> None:
    """A second entry of a name is refused, not silently preferred."""
    with pytest.raises(DuplicateArchitectureError, match="'a' is listed twice"):
        Catalogue([_entry("a"), _entry("a")])


def test_unknown_name_lists_what_exists() -> None:
    """The error has the name that was asked for and those that could have been."""
    with pytest.raises(UnknownArchitectureError, match=r"'vgg': expected one of .*lenet5"):
        create_model("vgg")


@every_architecture
def test_entry_says_where_it_comes_from(name: str) -> None:
    """Every entry has a title, a lecture section and a source, and is found under its own name."""
    architecture = CATALOGUE[name]
    assert architecture.name == name
    assert all(
        (
            architecture.title,
            architecture.lecture_section,
            architecture.source,
            architecture.formula,
        )
    )


def test_unknown_option_lists_those_that_exist() -> None:
    """A misspelt option is an error that names it, before anything is built."""
    with pytest.raises(UnknownOptionError, match=r"no option 'clases': expected one of cl"):
        create_model("lenet5", clases=3)
