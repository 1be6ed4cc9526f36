"""The catalogue, and what must hold of every architecture in it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from atril_models import (
    CATALOGUE,
    Architecture,
    Catalogue,
    ClassifierWithProbabilities,
    DuplicateArchitectureError,
    ImageSpec,
    UnknownArchitectureError,
    create_model,
)

every_architecture = pytest.mark.parametrize("name", list(CATALOGUE))


def _entry(name: str, build: Callable[[], nn.Module] = nn.Identity) -> Architecture:
    return Architecture(
        name=name,
        title=name,
        lecture_section="0",
        source="none",
        build=build,
        image=ImageSpec(1, 1, 1),
        classes=2,
    )


def _pictures(name: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *CATALOGUE[name].image.shape, generator=generator)


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
    with pytest.raises(UnknownArchitectureError, match="'vgg': expected one of lenet5, lenet5-m"):
        create_model("vgg")


@every_architecture
def test_entry_says_where_it_comes_from(name: str) -> None:
    """Every entry has a title, a lecture section and a source, and is found under its own name."""
    architecture = CATALOGUE[name]
    assert architecture.name == name
    assert all((architecture.title, architecture.lecture_section, architecture.source))


@every_architecture
def test_forward_gives_one_logit_a_class(name: str) -> None:
    """A batch of pictures of the declared shape gives [batch, classes]."""
    assert create_model(name)(_pictures(name, 3)).shape == (3, CATALOGUE[name].classes)


@every_architecture
def test_batch_of_one_equals_row_of_a_batch(name: str) -> None:
    """What a picture gets does not depend on the pictures beside it."""
    model = create_model(name).eval()
    batch = _pictures(name, 5)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(picture[None]) for picture in batch])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@every_architecture
def test_same_seed_builds_the_same_weights(name: str) -> None:
    """Initial weights come from torch's default generator and from nothing else."""

    def build() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return create_model(name).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_architecture
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    """Every parameter has a gradient, and following it helps."""
    torch.manual_seed(0)
    model = create_model(name)
    batch = _pictures(name, 8)
    targets = torch.arange(8) % CATALOGUE[name].classes
    before = functional.cross_entropy(model(batch), targets)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
        assert functional.cross_entropy(model(batch), targets) < before


@every_architecture
def test_probabilities_are_the_softmax_of_the_logits(name: str) -> None:
    """The wrapper for export answers with the network's logits and rows that sum to 1."""
    model = create_model(name).eval()
    batch = _pictures(name, 4)
    with torch.no_grad():
        logits, probabilities = ClassifierWithProbabilities(model)(batch)
        torch.testing.assert_close(logits, model(batch))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(probabilities, logits.exp() / logits.exp().sum(1, keepdim=True))
