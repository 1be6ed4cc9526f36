"""Sparse autoencoders: k-sparse selection and what learns through it."""

import pytest
import torch

from atril_models import create_model
from atril_models.autoencoders.sparse import KSparseAutoencoder, keep_largest


def _k_sparse(**options: object) -> KSparseAutoencoder:
    torch.manual_seed(0)
    network = create_model("k-sparse-autoencoder", image_shape=(1, 4, 5), code_size=30, **options)
    assert isinstance(network, KSparseAutoencoder)
    return network


@pytest.mark.parametrize(("mode", "active"), [(True, 4), (False, 10)])
def test_exactly_k_units_are_active(mode: bool, active: int) -> None:
    """Exactly k units of a picture while learning, round(alpha·k) afterwards; the others are 0."""
    network = _k_sparse(k=4, alpha=2.5).train(mode)
    code = network.encode(torch.rand(50, 1, 4, 5))
    assert (code != 0).sum(dim=1).tolist() == [active] * 50


def test_the_largest_are_kept_and_not_the_largest_in_absolute_value() -> None:
    """Of -9, 1, 3 and -2 the two largest are 1 and 3; the paper's supp_k, not the lecture's |.|."""
    activations = torch.tensor([[-9.0, 1.0, 3.0, -2.0], [-9.0, -7.0, -8.0, -6.0]])
    assert keep_largest(activations, 2).tolist() == [[0, 1, 3, 0], [0, -7, 0, -6]]


def test_among_equals_exactly_k_are_kept() -> None:
    """Ties do not let more units through."""
    assert (keep_largest(torch.ones(3, 8), 5) != 0).sum(dim=1).tolist() == [5, 5, 5]


def test_no_gradient_passes_through_the_rest() -> None:
    """The gradient is that of the kept units, untouched, and exactly 0 for the others."""
    activations = torch.randn(6, 12, requires_grad=True)
    slopes = torch.randn(6, 12)
    kept = keep_largest(activations, 3)
    (kept * slopes).sum().backward()
    assert activations.grad is not None
    expected = torch.where(kept != 0, slopes, torch.zeros(()))
    assert torch.equal(activations.grad, expected)


def test_units_outside_the_support_of_a_batch_do_not_learn() -> None:
    """A unit that is never among the k largest gets no gradient from encoder or decoder."""
    network = _k_sparse(k=2).train()
    image = torch.rand(3, 1, 4, 5)
    used = (network.encode(image) != 0).any(dim=0)
    assert not used.all()
    (network(image) - image).square().sum().backward()
    weight, bias = network.encoder.weight.grad, network.encoder.bias.grad
    assert weight is not None
    assert bias is not None
    assert torch.equal((weight != 0).any(dim=1), used)
    assert torch.equal(bias != 0, used)


def test_with_all_units_it_is_the_plain_linear_autoencoder() -> None:
    """A k of the code size keeps everything: x~ = W'(W x + b) + c."""
    network = _k_sparse(k=30, alpha=2.0)
    image = torch.rand(3, 1, 4, 5)
    flat = image.flatten(1)
    weight, bias = network.encoder.weight, network.encoder.bias
    expected = (flat @ weight.T + bias) @ weight + network.decoder.bias
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(image).flatten(1), expected)


def test_annealing_changes_learning_alone() -> None:
    """Learning may start with more active units; what is served keeps alpha·k."""
    network = _k_sparse(k=4, alpha=1.5)
    network.anneal(20)
    assert network.train().active_units == 20
    assert network.eval().active_units == 6
    network.anneal(4)
    assert network.train().active_units == 4


@pytest.mark.parametrize("k", [3, 31])
def test_annealing_stays_between_k_and_the_code_size(k: int) -> None:
    """Fewer units than the recipe's k, or more than there are, are refused."""
    with pytest.raises(ValueError, match=f"k: expected 4 to 30, got {k}"):
        _k_sparse(k=4).anneal(k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k: expected 1 to 30 \(the code size\), got 0"),
        ({"k": 31}, r"k: expected 1 to 30 \(the code size\), got 31"),
        ({"k": 3, "alpha": 0.5}, "alpha: expected at least 1, got 0.5"),
    ],
)
def test_impossible_sparsity_is_refused(options: dict[str, object], message: str) -> None:
    """The error names the option, what it was and what is allowed."""
    with pytest.raises(ValueError, match=message):
        _k_sparse(**options)


def test_margin_is_between_the_last_kept_and_the_first_dropped() -> None:
    """Adding a little less than the margin to a dropped unit keeps the support; more changes it."""
    network = _k_sparse(k=4, alpha=1.0).eval()
    image = torch.rand(6, 1, 4, 5)
    with torch.no_grad():
        values = network.encoder(image.flatten(1)).sort(dim=1, descending=True).values
        torch.testing.assert_close(network.margin(image), values[:, 3] - values[:, 4])
        assert torch.isinf(_k_sparse(k=30).eval().margin(image)).all()
