"""Feed-forward networks: linear and softmax regression, and the multilayer perceptron.

Source: lecture 2.1 and 2.2.

Dimensions: B batch, P inputs (features, or all pixels of a picture), Q outputs.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import isqrt, prod

import torch
from torch import Tensor, nn

from atril_models.activations import hidden_layer
from atril_models.architecture import Architecture, Family, ImageSpec, Network

MNIST_SHAPE = (1, 28, 28)
DIABETES_FEATURES = (10,)
"""Ten measurements a patient: Efron, Hastie, Johnstone & Tibshirani 2004."""

BUDGET = 203_530
"""Parameters of the 784-256-10 perceptron, which `mlp` is; `mlp-deep` has no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenLayers:
    """What lies between the inputs and the output layer.

    Dropout takes each unit away with its probability and divides those that stay by the
    probability of staying, anew for each example and only in training, so that nothing is rescaled
    afterwards. The lecture's p (9.6: 0.8 for inputs, 0.5 for hidden units) is the probability of
    staying. Hidden layers of SELU have the alpha dropout of the same paper, which keeps mean and
    variance.

    Args:
        widths: units of each layer, from the input on; none makes the network linear.
        activation: its name, the same in every layer.
        maxout_pieces: linear pieces of each unit, where the activation is maxout.
        input_dropout: probability that an input is dropped.
        hidden_dropout: probability that a hidden unit is dropped.

    Raises:
        ValueError: a probability is not at least 0 and below 1.
    """

    widths: tuple[int, ...] = ()
    activation: str = "relu"
    maxout_pieces: int = 2
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0

    def __post_init__(self) -> None:
        for of, probability in (("input", self.input_dropout), ("hidden", self.hidden_dropout)):
            if not 0 <= probability < 1:
                raise ValueError(
                    f"the probability of {of} dropout must be at least 0 and below 1, "
                    f"got {probability}"
                )


class FeedforwardNetwork(Network):
    """Dense layers one after the other, the last without an activation.

    h(0) = x;  h(l) = f(W(l) h(l-1) + b(l));  o = W(L) h(L-1) + b(L)

    The output o is the estimate of a regression, or the logits of a classification, whose softmax
    is the estimate. Each W(l) has a row for each unit of its layer, as in lecture 2.1.1 and 2.4
    (2.2.4 has the transposed). The weights of hidden layers start as fits their activation, those
    of the output layer from Glorot's uniform distribution, and all biases at 0.

    Source: lecture 2.1.3, 2.2.2, 2.2.4, 2.2.7, 2.2.8.

    Args:
        inputs: shape of one input without the batch: (features,), or (channels, height, width) of a
            picture, whose pixels are the features.
        outputs: Q.
        hidden: the layers between; none by default.

    Shape:
        [B, *inputs] float32; returns [B, Q] float32.

    Raises:
        ValueError: `inputs` is no such shape; it, a width or `outputs` has a size below 1; there is
            no such activation.
    """

    def __init__(
        self, inputs: Sequence[int], outputs: int, hidden: HiddenLayers | None = None
    ) -> None:
        super().__init__()
        hidden = hidden or HiddenLayers()
        self.inputs = tuple(inputs)
        if len(self.inputs) not in (1, 3) or min(self.inputs) < 1:
            raise ValueError(
                "expected the shape (features,) or (channels, height, width) of one input, "
                f"each at least 1, got {self.inputs}"
            )
        if outputs < 1:
            raise ValueError(f"a network needs at least 1 output, got {outputs}")
        sizes = (prod(self.inputs), *hidden.widths)
        self.input_dropout = nn.Dropout(hidden.input_dropout)
        self.hidden = nn.Sequential(*(_block(p, units, hidden) for p, units in pairwise(sizes)))
        self.output = nn.Linear(sizes[-1], outputs)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def image(self) -> ImageSpec | None:
        """The picture that the network takes, or None where it takes a vector."""
        return ImageSpec(*self.inputs) if len(self.inputs) == 3 else None

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty inputs."""
        return (torch.zeros(batch, *self.inputs),)

    def forward(self, inputs: Tensor) -> Tensor:
        """The estimate, or the logits of each class."""
        features = self.input_dropout(inputs.flatten(1))  # [B, P]
        outputs: Tensor = self.output(self.hidden(features))  # [B, Q]
        return outputs


def linear_regression(
    inputs: Sequence[int] = DIABETES_FEATURES, targets: int = 1
) -> FeedforwardNetwork:
    """ŷ = W x + b: lecture 2.2.2.

    Raises:
        ValueError: as `FeedforwardNetwork`.
    """
    return FeedforwardNetwork(inputs, targets)


def softmax_regression(
    inputs: Sequence[int] = MNIST_SHAPE, classes: int = 10
) -> FeedforwardNetwork:
    """Logits W x + b: lecture 2.2.4.

    Raises:
        ValueError: classes < 2, or as `FeedforwardNetwork`.
    """
    return FeedforwardNetwork(inputs, _checked_classes(classes))


def mlp(
    inputs: Sequence[int] = MNIST_SHAPE,
    classes: int = 10,
    hidden: Sequence[int] = (256,),
    activation: str = "relu",
    maxout_pieces: int = 2,
    dropout: tuple[float, float] = (0.0, 0.0),
) -> FeedforwardNetwork:
    """A multilayer perceptron that classifies: lecture 2.2.7.

    Args:
        inputs: shape of one input: a vector, or a picture.
        classes: Q.
        hidden: units of each hidden layer, from the input on.
        activation: its name.
        maxout_pieces: of each unit, where the activation is maxout.
        dropout: the probabilities that an input and that a hidden unit is dropped.

    Raises:
        ValueError: classes < 2, no hidden layer, or as `FeedforwardNetwork` and `HiddenLayers`.
    """
    layers = _checked_layers(hidden, activation, maxout_pieces, dropout)
    return FeedforwardNetwork(inputs, _checked_classes(classes), layers)


def mlp_regression(
    inputs: Sequence[int] = DIABETES_FEATURES,
    targets: int = 1,
    hidden: Sequence[int] = (4, 4),
    activation: str = "relu",
    maxout_pieces: int = 2,
    dropout: tuple[float, float] = (0.0, 0.0),
) -> FeedforwardNetwork:
    """A multilayer perceptron for regression: lecture 2.2.8, with the widths of figure 1.

    Args:
        inputs: shape of one input: a vector, or a picture.
        targets: Q.
        hidden: units of each hidden layer, from the input on.
        activation: its name.
        maxout_pieces: of each unit, where the activation is maxout.
        dropout: the probabilities that an input and that a hidden unit is dropped.

    Raises:
        ValueError: no hidden layer, or as `FeedforwardNetwork` and `HiddenLayers`.
    """
    layers = _checked_layers(hidden, activation, maxout_pieces, dropout)
    return FeedforwardNetwork(inputs, targets, layers)


def mlp_shallow(
    inputs: Sequence[int] = MNIST_SHAPE,
    classes: int = 10,
    budget: int = BUDGET,
) -> FeedforwardNetwork:
    """One hidden layer of ReLUs, as wide as a budget of parameters allows.

    Raises:
        ValueError: classes < 2, the budget is below that of one unit, or as `FeedforwardNetwork`.
    """
    return mlp_deep(inputs, classes, budget, hidden_layers=1)


def mlp_deep(
    inputs: Sequence[int] = MNIST_SHAPE,
    classes: int = 10,
    budget: int = BUDGET,
    hidden_layers: int = 4,
) -> FeedforwardNetwork:
    """Several hidden layers of ReLUs of one width, the largest that a budget of parameters allows.

    Raises:
        ValueError: classes < 2, no hidden layer, the budget is below that of layers of one unit, or
            as `FeedforwardNetwork`.
    """
    if hidden_layers < 1:
        raise ValueError(f"a deep network needs at least 1 hidden layer, got {hidden_layers}")
    width = equal_width(prod(inputs), _checked_classes(classes), hidden_layers, budget)
    layers = HiddenLayers(widths=(width,) * hidden_layers)
    return FeedforwardNetwork(inputs, classes, layers)


def equal_width(inputs: int, outputs: int, hidden_layers: int, budget: int) -> int:
    """The largest width w of so many hidden layers at which a network keeps to a budget.

    With D hidden layers the network has

        (P + 1) w + (D - 1) (w + 1) w + (w + 1) Q = (D - 1) w² + (P + D + Q) w + Q

    parameters.

    Raises:
        ValueError: not even one unit in each layer keeps to it.
    """
    squares, linear = hidden_layers - 1, inputs + hidden_layers + outputs
    left = budget - outputs
    if left < squares + linear:
        raise ValueError(
            f"expected a budget of at least {squares + linear + outputs} parameters, which hidden "
            f"layers of one unit need where there are {hidden_layers}, got {budget}"
        )
    if squares == 0:
        return left // linear
    return (isqrt(linear**2 + 4 * squares * left) - linear) // (2 * squares)


def _block(inputs: int, units: int, hidden: HiddenLayers) -> nn.Module:
    layer = hidden_layer(inputs, units, hidden.activation, pieces=hidden.maxout_pieces)
    if hidden.hidden_dropout == 0:
        return layer
    dropout = nn.AlphaDropout if hidden.activation == "selu" else nn.Dropout
    parts = OrderedDict({"layer": layer, "dropout": dropout(hidden.hidden_dropout)})
    return nn.Sequential(parts)


def _checked_layers(
    widths: Sequence[int], activation: str, maxout_pieces: int, dropout: tuple[float, float]
) -> HiddenLayers:
    if not widths:
        raise ValueError("a multilayer perceptron needs at least 1 hidden layer, got none")
    input_dropout, hidden_dropout = dropout
    return HiddenLayers(
        widths=tuple(widths),
        activation=activation,
        maxout_pieces=maxout_pieces,
        input_dropout=input_dropout,
        hidden_dropout=hidden_dropout,
    )


def _checked_classes(classes: int) -> int:
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    return classes


ARCHITECTURES = (
    Architecture(
        name="linear-regression",
        title="Linear regression",
        family=Family.FEEDFORWARD,
        lecture_section="2.2.1",
        source="Lecture 2.2.1, equation 2.2.2",
        formula="y = W x + b; trained on the mean squared error, its minimum is the least squares "
        "solution.",
        build=linear_regression,
    ),
    Architecture(
        name="softmax-regression",
        title="Softmax regression",
        family=Family.FEEDFORWARD,
        lecture_section="2.2.1",
        source="Lecture 2.2.1, equation 2.2.4",
        formula="logits o = W x + b; y = softmax(o).",
        build=softmax_regression,
    ),
    Architecture(
        name="mlp",
        title="Multilayer perceptron",
        family=Family.FEEDFORWARD,
        lecture_section="2.2.2",
        source="Lecture 2.2.2, equation 2.2.7; 784-256-10 as in Zhang, Lipton, Li & Smola, "
        "Dive into Deep Learning, §5.2",
        formula="h = f(W1 x + b1), as many hidden layers as wished, f = max(0, z) unless another "
        "is named; logits o = W2 h + b2; y = softmax(o).",
        build=mlp,
    ),
    Architecture(
        name="mlp-dropout",
        title="Multilayer perceptron with dropout",
        family=Family.FEEDFORWARD,
        lecture_section="9.6",
        source="Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15; "
        "784-800-800-10 with the lecture's probabilities of staying, 0.8 and 0.5",
        formula="h = f(W (b * x) + c), where b leaves out each input with probability 0.2 and "
        "each hidden unit with 0.5, in training only; logits; softmax.",
        build=partial(mlp, hidden=(800, 800), dropout=(0.2, 0.5)),
    ),
    Architecture(
        name="mlp-regression",
        title="Multilayer perceptron for regression",
        family=Family.FEEDFORWARD,
        lecture_section="2.2.2",
        source="Lecture 2.2.2, equation 2.2.8; two hidden layers of 4 units as in figure 1",
        formula="h1 = f(W1 x + b1); h2 = f(W2 h1 + b2); y = W3 h2 + b3; f = max(0, z) unless "
        "another is named.",
        build=mlp_regression,
    ),
    Architecture(
        name="mlp-shallow",
        title="Shallow perceptron",
        family=Family.FEEDFORWARD,
        lecture_section="2",
        source="Lecture 2: a shallow network has few layers of great width",
        formula="One hidden layer, as wide as the budget of parameters allows; logits; softmax.",
        build=mlp_shallow,
    ),
    Architecture(
        name="mlp-deep",
        title="Deep perceptron",
        family=Family.FEEDFORWARD,
        lecture_section="2",
        source="Lecture 2: a deep network composes many functions",
        formula="Four hidden layers of one width, the largest that the same budget of parameters "
        "allows; logits; softmax.",
        build=mlp_deep,
    ),
)
