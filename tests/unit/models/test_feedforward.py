"""Feed-forward networks against the lecture's equations and the literature's counts."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models import ClassifierWithProbabilities, Network, count_layers, create_model
from atril_models.activations import ACTIVATIONS, MAXOUT
from atril_models.feedforward import (
    ARCHITECTURES,
    BUDGET,
    FeedforwardNetwork,
    HiddenLayers,
    equal_width,
)

NAMES = [architecture.name for architecture in ARCHITECTURES]
SLIM: dict[str, dict[str, object]] = {
    "linear-regression": {"inputs": (5,), "targets": 2},
    "softmax-regression": {"inputs": (1, 4, 3), "classes": 3},
    "mlp": {"inputs": (1, 4, 3), "classes": 3, "hidden": (7, 5)},
    "mlp-dropout": {"inputs": (1, 4, 3), "classes": 3, "hidden": (9, 9)},
    "mlp-regression": {"inputs": (5,), "hidden": (6,), "activation": "tanh"},
    "mlp-shallow": {"inputs": (6,), "classes": 3, "budget": 100},
    "mlp-deep": {"inputs": (6,), "classes": 3, "budget": 100},
}
every_entry = pytest.mark.parametrize("name", NAMES)
every_activation = pytest.mark.parametrize("activation", [*ACTIVATIONS, MAXOUT])


def _slim(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create_model(name, **SLIM[name])


def _inputs(network: Network, batch: int) -> Tensor:
    (example,) = network.example_inputs(batch)
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(1))


def _loss(network: Network, inputs: Tensor) -> Tensor:
    """Squared distance from targets that depend on the inputs."""
    outputs: Tensor = network(inputs)
    targets = inputs.flatten(1)[:, : outputs.shape[1]]
    return functional.mse_loss(outputs, targets)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear-regression", {}, [11]),
        ("linear-regression", {"inputs": (13,)}, [14]),
        ("softmax-regression", {}, [7_850]),
        ("mlp", {}, [200_960, 2_570]),
        ("mlp", {"hidden": (300,)}, [235_500, 3_010]),
        ("mlp", {"hidden": (300, 100)}, [235_500, 30_100, 1_010]),
        ("mlp", {"hidden": (500, 150)}, [392_500, 75_150, 1_510]),
        ("mlp", {"hidden": (800,)}, [628_000, 8_010]),
        ("mlp-dropout", {}, [628_000, 640_800, 8_010]),
        ("mlp", {"hidden": (1024,) * 3}, [803_840, 1_049_600, 1_049_600, 10_250]),
        ("mlp", {"hidden": (240, 240), "activation": MAXOUT, "maxout_pieces": 5},
         [5 * 240 * 785, 5 * 240 * 241, 2_410]),
        ("mlp", {"hidden": (256,), "activation": "prelu"}, [200_960, 1, 2_570]),
        ("mlp-regression", {}, [44, 20, 5]),
        ("mlp-shallow", {}, [200_960, 2_570]),
        ("mlp-deep", {}, [124_815, 25_440, 25_440, 25_440, 1_600]),
    ],
)  # fmt: skip
def test_layers_have_the_literatures_parameters(
    name: str, options: dict[str, object], expected: list[int]
) -> None:
    """Each layer's count is (P + 1) · H, as published for the perceptrons of MNIST."""
    with torch.device("meta"):
        network = create_model(name, **options)
        rows = count_layers(network, *network.example_inputs())
    assert [row.parameters for row in rows] == expected
    assert sum(expected) == sum(parameter.numel() for parameter in network.parameters())
    assert all(
        row.connections == row.parameters and row.multiply_adds < row.parameters
        for row in rows
        if row.kind != "PReLU"
    )


@every_entry
def test_same_seed_builds_the_same_weights(name: str) -> None:
    """Weights come from torch's default generator and from nothing else."""
    first, again, other = _slim(name).state_dict(), _slim(name).state_dict(), _slim(name, seed=1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], value) for key, value in other.state_dict().items())


@every_entry
def test_one_input_is_answered_as_a_row_of_a_batch(name: str) -> None:
    """A batch of one gives what the same input gives among others."""
    network = _slim(name).eval()
    inputs = _inputs(network, 5)
    torch.testing.assert_close(network(inputs[2:3]), network(inputs)[2:3])


@every_entry
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    """And every parameter has a gradient; in eval mode, so that both losses are of one network."""
    network = _slim(name).eval()
    inputs = _inputs(network, 32)
    before = _loss(network, inputs)
    before.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            assert parameter.grad.any()
            parameter -= 1e-2 * parameter.grad
    assert _loss(network, inputs) < before


@every_activation
def test_perceptron_follows_the_formula_of_the_lecture(activation: str) -> None:
    """2.1.3: h(l) = f(W(l) h(l-1) + b(l)) and o = W(L) h(L-1) + b(L), with every activation."""
    torch.manual_seed(0)
    network = create_model("mlp", inputs=(1, 2, 3), classes=3, hidden=(7, 5), activation=activation)
    for parameter in network.parameters():
        if parameter.ndim == 1 and len(parameter) > 1:  # biases, which start at 0
            nn.init.normal_(parameter)
    pictures = _inputs(network, 4)
    features = pictures.reshape(4, 6)
    for layer in network.hidden:
        logits = features @ layer.linear.weight.T + layer.linear.bias
        if activation == MAXOUT:
            features = torch.maximum(logits[:, ::2], logits[:, 1::2])
        else:
            features = layer.activation(logits)
    expected = features @ network.output.weight.T + network.output.bias
    torch.testing.assert_close(network(pictures), expected)


def test_linear_networks_are_one_matrix() -> None:
    """2.2.2 and 2.2.4: o = x · W + b, with no hidden layer."""
    for name in ("linear-regression", "softmax-regression"):
        network = _slim(name)
        inputs = _inputs(network, 3)
        expected = inputs.flatten(1) @ network.output.weight.T + network.output.bias
        torch.testing.assert_close(network(inputs), expected)


@every_entry
def test_output_layer_starts_in_glorots_limits_without_bias(name: str) -> None:
    """Weights within ±√(6 / (H + Q)), and beyond 2/3 of it somewhere; every bias 0."""
    output = _slim(name).output
    limit = math.sqrt(6 / sum(output.weight.shape))
    assert 2 / 3 * limit < output.weight.abs().max().item() <= limit
    assert not output.bias.any()


def test_hidden_layers_of_linear_units_add_nothing() -> None:
    """2.2.6: with f the identity, the network is W = W2 W1, b = W2 b1 + b2."""
    network = create_model("mlp", inputs=(5,), classes=3, hidden=(7,), activation="identity")
    network.double()
    (hidden,), output = network.hidden, network.output
    nn.init.normal_(hidden.linear.bias)
    inputs = _inputs(network, 4).double()
    weight = output.weight @ hidden.linear.weight
    bias = output.weight @ hidden.linear.bias + output.bias
    torch.testing.assert_close(network(inputs), inputs @ weight.T + bias, rtol=1e-12, atol=1e-12)


def test_a_narrow_layer_of_linear_units_takes_something_away() -> None:
    """Erratum 2.2.6: the product W2 W1 has rank 2 at most when the hidden layer has two units."""
    network = create_model("mlp", inputs=(5,), classes=4, hidden=(2,), activation="identity")
    product_of_weights = network.output.weight @ network.hidden[0].linear.weight
    assert product_of_weights.shape == (4, 5)
    assert torch.linalg.matrix_rank(product_of_weights).item() == 2


def test_pictures_and_vectors_are_the_same_features() -> None:
    """A picture is flattened row by row, channel by channel."""
    torch.manual_seed(0)
    by_picture = create_model("mlp", inputs=(2, 3, 4), classes=3, hidden=(5,))
    torch.manual_seed(0)
    by_vector = create_model("mlp", inputs=(24,), classes=3, hidden=(5,))
    pictures = _inputs(by_picture, 3)
    assert torch.equal(by_picture(pictures), by_vector(pictures.reshape(3, 24)))
    assert by_picture.image.shape == (2, 3, 4)
    assert by_vector.image is None


# Softmax: lecture 2.1.5 to 2.1.8.


def _probabilities(logits: list[list[float]]) -> Tensor:
    """What the served softmax makes of logits."""
    _logits, probabilities = ClassifierWithProbabilities(nn.Identity())(torch.tensor(logits))
    assert isinstance(probabilities, Tensor)
    return probabilities


def test_softmax_neither_overflows_nor_loses_the_difference() -> None:
    """At ±1e4, where exp is infinite or 0 in float32, the softmax is right all the same."""
    even = _probabilities([[1e4, 1e4], [-1e4, -1e4]])
    assert even.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    odd = _probabilities([[1e4, 1e4 - 1], [-1e4, -1e4 - 1]])
    expected = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(odd[:, 0], torch.full((2,), expected))
    assert _probabilities([[1e4, -1e4, 0.0]]).tolist() == [[1.0, 0.0, 0.0]]


def test_softmax_does_not_change_with_a_shift() -> None:
    """2.1.7: adding a constant to all logits gives the same probabilities."""
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    expected = logits.exp() / logits.exp().sum()
    for shift in (0.0, 100.0, -1e4):
        torch.testing.assert_close(torch.softmax(logits + shift, dim=1), expected)


def test_logarithm_of_the_softmax_keeps_what_the_softmax_loses() -> None:
    """2.1.8: [0, -1000] has log-softmax [0, -1000] in float32, where exp(-1000) is 0."""
    logits = torch.tensor([0.0, -1000.0])
    assert functional.log_softmax(logits, dim=0).tolist() == [0.0, -1000.0]
    assert _probabilities([[0.0, -1000.0]]).tolist() == [[1.0, 0.0]]


def test_two_classes_are_a_sigmoid_of_the_difference() -> None:
    """Softmax of (z0, z1) gives the second class sigmoid(z1 - z0): 2.1.4 is a case of 2.1.5."""
    logits = torch.tensor([[0.3, 1.9], [-4.0, 2.0]])
    expected = torch.sigmoid(logits[:, 1] - logits[:, 0])
    torch.testing.assert_close(_probabilities(logits.tolist())[:, 1], expected)


# Dropout: lecture 9.6.


def _with_masks(network: FeedforwardNetwork, masks: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Run with given masks, each already divided by the probability of staying."""
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _layer, _args, output, mask=mask: output * mask
        )
        for name, mask in masks.items()
    ]
    try:
        outputs: Tensor = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _all_masks(units: int, keep: float) -> list[tuple[Tensor, float]]:
    """Every mask over so many units, scaled by 1 / keep, and its probability."""
    masks = []
    for kept in product((0.0, 1.0), repeat=units):
        mask = torch.tensor(kept, dtype=torch.float64)
        stays = int(mask.sum())
        masks.append((mask / keep, keep**stays * (1 - keep) ** (units - stays)))
    return masks


def test_linear_network_is_the_mean_over_all_its_masks() -> None:
    """Scaled at training, the served network is the exact mean over 2³ · 2⁴ thinned ones."""
    hidden = HiddenLayers(widths=(4,), activation="identity", input_dropout=0.2, hidden_dropout=0.5)
    network = FeedforwardNetwork((3,), 2, hidden).double().eval()
    inputs = _inputs(network, 5).double()
    mean = torch.zeros(5, 2, dtype=torch.float64)
    for (of_inputs, p_inputs), (of_hidden, p_hidden) in product(
        _all_masks(3, keep=0.8), _all_masks(4, keep=0.5)
    ):
        masks = {"input_dropout": of_inputs, "hidden.0.dropout": of_hidden}
        mean += p_inputs * p_hidden * _with_masks(network, masks, inputs)
    torch.testing.assert_close(mean, network(inputs), rtol=1e-12, atol=1e-12)


def test_softmax_regression_is_the_geometric_mean_over_all_its_masks() -> None:
    """The normalised geometric mean of the thinned networks' answers is the served answer."""
    network = FeedforwardNetwork((4,), 3, HiddenLayers(input_dropout=0.5)).double().eval()
    inputs = _inputs(network, 5).double()
    log_mean = torch.zeros(5, 3, dtype=torch.float64)
    for mask, probability in _all_masks(4, keep=0.5):
        logits = _with_masks(network, {"input_dropout": mask}, inputs)
        log_mean += probability * functional.log_softmax(logits, dim=1)
    expected = torch.softmax(network(inputs), dim=1)
    torch.testing.assert_close(torch.softmax(log_mean, dim=1), expected, rtol=1e-12, atol=1e-12)


def test_dropout_takes_whole_units_and_scales_the_rest() -> None:
    """In training a unit is 0, as often as asked for, or divided by the probability of staying."""
    torch.manual_seed(0)
    options = {"inputs": (1000,), "classes": 2, "hidden": (2000,)}
    network = create_model("mlp", **options, dropout=(0.2, 0.5))
    seen: dict[str, Tensor] = {}
    for name in ("input_dropout", "hidden.0.layer", "hidden.0.dropout"):
        network.get_submodule(name).register_forward_hook(
            lambda _layer, _args, output, name=name: seen.update({name: output})
        )
    network.train()(torch.ones(1, 1000))
    inputs, before, after = seen.values()
    assert set(inputs.unique().tolist()) == {0.0, 1.25}
    assert (inputs == 0).float().mean().item() == pytest.approx(0.2, abs=0.05)
    kept = after != 0
    torch.testing.assert_close(after[kept], 2 * before[kept])
    positive = before > 0
    assert kept[positive].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_dropout_is_off_when_serving() -> None:
    """In eval mode the network with dropout is the one without."""
    torch.manual_seed(0)
    dropping = create_model("mlp", inputs=(6,), classes=3, hidden=(8,), dropout=(0.2, 0.5)).eval()
    torch.manual_seed(0)
    plain = create_model("mlp", inputs=(6,), classes=3, hidden=(8,))
    inputs = _inputs(plain, 4)
    assert torch.equal(dropping(inputs), plain(inputs))


def test_selu_keeps_mean_and_variance_under_its_own_dropout() -> None:
    """Plain dropout of 20 % would multiply the variance by 1.25; alpha dropout leaves it at 1."""
    torch.manual_seed(0)
    hidden = HiddenLayers(widths=(500,) * 4, activation="selu", hidden_dropout=0.2)
    network = FeedforwardNetwork((500,), 2, hidden).train()
    signal = network.hidden(torch.randn(200, 500))
    assert signal.mean().item() == pytest.approx(0, abs=0.1)
    assert signal.var().item() == pytest.approx(1, abs=0.1)


# Shallow against deep.


@pytest.mark.parametrize("inputs", [4, 64, 784])
@pytest.mark.parametrize("hidden_layers", [1, 2, 4, 7])
def test_equal_width_is_the_largest_that_keeps_to_the_budget(
    inputs: int, hidden_layers: int
) -> None:
    """One unit more in every layer would break the budget; counted from the modules."""

    def parameters(width: int) -> int:
        layers = HiddenLayers(widths=(width,) * hidden_layers)
        network = FeedforwardNetwork((inputs,), 10, layers)
        return sum(parameter.numel() for parameter in network.parameters())

    budget = 5_000 + 30 * inputs
    width = equal_width(inputs, 10, hidden_layers, budget)
    with torch.device("meta"):
        assert parameters(width) <= budget < parameters(width + 1)


def test_shallow_and_deep_have_the_same_budget() -> None:
    """On MNIST's shape: 256 units in one layer, or 159 in each of four, within 0.4 %."""
    with torch.device("meta"):
        shallow, deep = create_model("mlp-shallow"), create_model("mlp-deep")
    counts = [sum(p.numel() for p in network.parameters()) for network in (shallow, deep)]
    assert counts == [BUDGET, 202_735]
    assert [layer.linear.out_features for layer in deep.hidden] == [159] * 4


# Refusals.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear-regression", {"inputs": ()}, r"got \(\)"),
        ("linear-regression", {"inputs": (2, 3)}, r"\(features,\) or \(ch.* got \(2, 3\)"),
        ("linear-regression", {"inputs": (0,)}, r"each at least 1, got \(0,\)"),
        ("linear-regression", {"targets": 0}, "at least 1 output, got 0"),
        ("softmax-regression", {"classes": 1}, "at least 2 classes, got 1"),
        ("mlp", {"classes": 1}, "at least 2 classes, got 1"),
        ("mlp", {"hidden": ()}, "at least 1 hidden layer, got none"),
        ("mlp", {"hidden": (5, 0)}, "at least 1, got 5 and 0"),
        ("mlp", {"activation": "rely"}, "unknown activation 'rely'"),
        ("mlp", {"activation": "maxout", "maxout_pieces": 0}, "at least 1, got 784, 256 and 0"),
        ("mlp", {"dropout": (1.0, 0.5)}, "input dropout must be at least 0 and below 1, got 1.0"),
        ("mlp", {"dropout": (0.2, -0.5)}, "hidden dropout must be .* got -0.5"),
        ("mlp-regression", {"hidden": ()}, "at least 1 hidden layer, got none"),
        ("mlp-shallow", {"budget": 804}, "at least 805 parameters, .* there are 1, got 804"),
        ("mlp-deep", {"budget": 100}, "at least 811 parameters, .* there are 4, got 100"),
        ("mlp-deep", {"hidden_layers": 0}, "at least 1 hidden layer, got 0"),
        ("mlp-deep", {"classes": 1}, "at least 2 classes, got 1"),
    ],
)
def test_impossible_networks_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    """The error names what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)
