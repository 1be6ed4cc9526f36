"""Fully connected autoencoders: the mirror, tied weights, and PCA as the linear optimum."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from atril_models import ImageSpec, count_layers, create_model
from atril_models.autoencoders.autoencoder import OutputUnit
from atril_models.autoencoders.dense import DenseAutoencoder, TransposedLinear

CODE_SIZE = 4


def _points_with_the_digits_moments() -> Tensor:
    """128 pictures with the mean and the covariance of the digits, exactly, [128, 1, 8, 8].

    The squared error of a linear network depends on these alone.
    """
    flat = torch.from_numpy(load_digits().images / 16).flatten(1)
    mean = flat.mean(dim=0)
    eigenvalues, eigenvectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    axes = (eigenvectors * (64 * eigenvalues.clamp(min=0)).sqrt()).T
    return torch.cat([mean + axes, mean - axes]).view(-1, 1, 8, 8)


def _fit(network: nn.Module, image: Tensor) -> float:
    """Squared error per picture at the minimum that L-BFGS finds."""
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=500, history_size=100, tolerance_grad=1e-10,
        tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (network(image) - image).square().flatten(1).sum(dim=1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(closure().detach())


def _largest_principal_angle(first: Tensor, second: Tensor) -> float:
    """Between the column spaces of two matrices, in radians."""
    bases = [torch.linalg.qr(matrix).Q for matrix in (first, second)]
    # The sine, from the part of one basis outside the other, is exact where the angle is small.
    outside = bases[0] - bases[1] @ (bases[1].T @ bases[0])
    return float(torch.asin(torch.linalg.matrix_norm(outside, ord=2).clamp(max=1)))


def test_linear_autoencoder_learns_the_principal_subspace() -> None:
    """Fitted to the digits, the decoder spans the first principal components (lecture 4.1).

    The loss is the sum of the dropped eigenvalues of the covariance: the reconstruction error of
    PCA, from an eigendecomposition that knows nothing of the network.
    """
    image = _points_with_the_digits_moments()
    torch.manual_seed(0)
    network = create_model("linear-autoencoder", image_shape=(1, 8, 8), code_size=CODE_SIZE)
    loss = _fit(network.double(), image)

    centred = image.flatten(1) - image.flatten(1).mean(dim=0)
    eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ centred / len(image))
    assert loss == pytest.approx(float(eigenvalues[:-CODE_SIZE].sum()), rel=1e-3)
    assert isinstance(network, DenseAutoencoder)
    decoder = network.decoder[-1]
    assert isinstance(decoder, nn.Linear)
    angle = _largest_principal_angle(decoder.weight.detach(), eigenvectors[:, -CODE_SIZE:])
    assert angle < 1e-2


def test_linear_autoencoder_at_the_optimum_projects_as_pca() -> None:
    """With V = U, W = U' and biases of the mean, it is Psi + U U'(x - Psi): eigenfaces, 4.1."""
    image = _points_with_the_digits_moments()
    flat = image.flatten(1)
    mean = flat.mean(dim=0)
    basis = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:CODE_SIZE]  # [Z, D]
    network = create_model("linear-autoencoder", image_shape=(1, 8, 8), code_size=CODE_SIZE)
    assert isinstance(network, DenseAutoencoder)
    network.double()
    encoder, decoder = network.encoder[0].linear, network.decoder[-1]
    with torch.no_grad():
        encoder.weight.copy_(basis)
        encoder.bias.copy_(-basis @ mean)
        decoder.weight.copy_(basis.T)
        decoder.bias.copy_(mean)
        reconstruction = network(image).flatten(1)
    expected = mean + (flat - mean) @ basis.T @ basis
    np.testing.assert_allclose(reconstruction.numpy(), expected.numpy(), atol=1e-12)


def test_deep_autoencoder_mirrors_its_widths() -> None:
    """784-1000-500-250-30 and back, dense layers only, the picture's shape at the end."""
    with torch.device("meta"):
        network = create_model("deep-autoencoder")
        rows = count_layers(network, *network.example_inputs())
    widths = [1000, 500, 250, 30, 250, 500, 1000, 784]
    assert [row.output_shape for row in rows] == [(width,) for width in widths]


def test_forward_follows_the_formula() -> None:
    """Equation 4.0.1 written out: sigmoid hidden layers, a linear code, a sigmoid output."""
    torch.manual_seed(0)
    network = create_model("deep-autoencoder", image_shape=(1, 2, 3), widths=(5, 4))
    assert isinstance(network, DenseAutoencoder)
    image = torch.rand(7, 1, 2, 3)
    (w1, b1, w2, b2, v1, c1, v2, c2) = list(network.parameters())
    hidden = torch.sigmoid(image.reshape(7, 6) @ w1.T + b1)
    code = hidden @ w2.T + b2
    expected = torch.sigmoid(torch.sigmoid(code @ v1.T + c1) @ v2.T + c2)
    torch.testing.assert_close(network.encode(image), code)
    torch.testing.assert_close(network(image), expected.reshape(7, 1, 2, 3))


def test_layer_activations_end_with_the_code() -> None:
    """One tensor for each encoder layer, the last being what `encode` gives."""
    network = DenseAutoencoder(ImageSpec(1, 2, 3), (5, 4), activations=("tanh", "sigmoid"))
    image = torch.rand(7, 1, 2, 3)
    activations = network.layer_activations(image)
    assert [activation.shape for activation in activations] == [(7, 5), (7, 4)]
    assert torch.equal(activations[-1], network.encode(image))


def test_output_unit_decides_the_range() -> None:
    """A sigmoid keeps a picture within 0 … 1 and is the sigmoid of `decode_sums`."""
    code = 100 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    image = ImageSpec(1, 2, 3)
    squashed = DenseAutoencoder(image, (4,))
    linear = DenseAutoencoder(image, (4,), output_unit=OutputUnit.LINEAR)
    assert torch.equal(squashed.decode(code), torch.sigmoid(squashed.decode_sums(code)))
    assert torch.equal(linear.decode(code), linear.decode_sums(code))
    assert linear.decode(code).abs().max() > 1


def test_tied_decoder_uses_the_encoders_weights() -> None:
    """W' in the decoder is the encoder's own W: one gradient, the sum of both uses."""
    torch.manual_seed(0)
    tied = DenseAutoencoder(ImageSpec(1, 2, 3), (4,), tied=True)
    free = DenseAutoencoder(ImageSpec(1, 2, 3), (4,))
    weight = tied.encoder[0].linear.weight
    with torch.no_grad():
        free.encoder[0].linear.weight.copy_(weight)
        free.decoder[-1].weight.copy_(weight.T)
    image = torch.rand(7, 1, 2, 3)
    for network in (tied, free):
        network(image).square().sum().backward()
    torch.testing.assert_close(tied(image), free(image))
    both_uses = free.encoder[0].linear.weight.grad + free.decoder[-1].weight.grad.T
    torch.testing.assert_close(weight.grad, both_uses)


def test_tied_layer_does_the_work_without_parameters_of_its_own() -> None:
    """The row of the tied layer has its bias alone, and the products of the whole weight."""
    network = DenseAutoencoder(ImageSpec(1, 2, 3), (4,), tied=True)
    rows = count_layers(network, *network.example_inputs())
    assert [(row.kind, row.parameters, row.connections, row.multiply_adds) for row in rows] == [
        ("Linear", 28, 28, 24),
        ("TransposedLinear", 6, 30, 24),
    ]


def test_transposed_layer_follows_the_weight_it_shares() -> None:
    """Changing the encoder's weight changes the decoder: nothing was copied."""
    linear = nn.Linear(3, 2)
    mirror = TransposedLinear(linear)
    with torch.no_grad():
        linear.weight.fill_(2)
    assert mirror(torch.ones(1, 2)).tolist() == [[4.0, 4.0, 4.0]]


@pytest.mark.parametrize("widths", [(), (4, 0)])
def test_impossible_widths_are_refused(widths: tuple[int, ...]) -> None:
    """The error says what was given and what is allowed."""
    with pytest.raises(ValueError, match=r"widths: expected one or more, each at least 1, got \("):
        create_model("deep-autoencoder", widths=widths)


def test_unknown_activation_is_refused() -> None:
    """The error lists those that exist."""
    with pytest.raises(ValueError, match="unknown activation 'sine': expected one of identity, si"):
        create_model("deep-autoencoder", activation="sine")
