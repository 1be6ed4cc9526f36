"""Forecasts of series by recurrent networks.

Dimensions: B batch, T time steps, P features, H hidden units, Q steps ahead, K lags, M members.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.architecture import Network
from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.one_step import OneStep, empty_states, state_names
from atril_models.recurrent.operators import State

Scale = Literal["identity", "sqrt", "log"]

_SMALLEST = 1e-6
"""What the logarithm takes for values that are not above it."""

_FIRST_SHARE = 0.1


class SequenceForecaster(Network):
    """The next Q values of a series' first feature, from a window of any length.

    y = W_hq h(T) + b_q, a dense layer on what a recurrent layer has kept of the window. With a
    highway, a linear autoregression on the last K values of the first feature is added, which
    leaves to the recurrent layer what is not linear (the autoregressive part of LSTNet: Lai,
    Chang, Yang & Liu 2018, arXiv:1703.07015, §3.6). The highway is not trained with the rest: it
    starts as "the last value again", and `set_highway` puts a fitted one in its place. With several
    members, each of a layer and a dense layer of its own, the forecast is their mean.

    Args:
        members: one layer each, all of the same number of inputs.
        horizon: Q.
        lags: K of the highway; 0 for none.

    Shape:
        window [B, T, P] float32; returns [B, Q] float32. Where T < K, values before the window
        count as zero.

    Raises:
        ValueError: no members, members that differ in their inputs, horizon < 1 or lags < 0.
    """

    def __init__(self, members: Sequence[RecurrentLayer], horizon: int = 1, lags: int = 0) -> None:
        super().__init__()
        if len({layer.inputs for layer in members}) != 1:
            got = [layer.inputs for layer in members]
            raise ValueError(f"members must be 1 or more with the same inputs, got inputs {got}")
        if horizon < 1 or lags < 0:
            raise ValueError(
                f"horizon must be at least 1 and lags at least 0, got {horizon} and {lags}"
            )
        self.features = members[0].inputs
        self.horizon = horizon
        self.lags = lags
        self.members = nn.ModuleList(members)
        self.outputs = nn.ModuleList(nn.Linear(layer.hidden, horizon) for layer in members)
        # How far off the forecasts are, [Q]; whoever has measured it writes it here.
        self.register_buffer("z_deviation", torch.zeros(horizon))
        self.z_deviation: Tensor
        if lags:
            self.highway = nn.Linear(lags, horizon).requires_grad_(False)
            self.set_highway(torch.eye(1, lags).flip(1).expand(horizon, lags), torch.zeros(horizon))
            self._quieten()

    def _quieten(self) -> None:
        """Let what the members add to the highway start small."""
        with torch.no_grad():
            for parameter in self.outputs.parameters():
                parameter.mul_(_FIRST_SHARE)

    def set_highway(self, weight: Tensor, bias: Tensor) -> None:
        """Put a fitted autoregression into the highway.

        Shape: weight [Q, K], for the K last values in the order of time; bias [Q].
        """
        with torch.no_grad():
            self.highway.weight.copy_(weight)
            self.highway.bias.copy_(bias)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """Windows of twelve zeros."""
        return (torch.zeros(batch, 12, self.features),)

    def member_forecasts(self, window: Tensor) -> Tensor:
        """Each member's own forecast, [M, B, Q]."""
        forecasts = self._forecasts([layer.summary(layer(window)[1]) for layer in self._layers()])
        if self.lags:
            recent = functional.pad(window[..., 0], (self.lags, 0))[:, -self.lags :]
            forecasts = forecasts + self.highway(recent)
        return forecasts

    def forward(self, window: Tensor) -> Tensor:
        """The next values."""
        return self.member_forecasts(window).mean(dim=0)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """What has to be kept between single steps: the members' states, and K recent values."""
        shapes = {
            f"{index}_{name}": shape
            for index, layer in enumerate(self._layers())
            for name, shape in layer.state_shapes.items()
        }
        return shapes | ({"recent": (self.lags,)} if self.lags else {})

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more row: from [B, P] and a state to the forecast [B, Q] and the next state."""
        summaries: list[Tensor] = []
        following: State = ()
        start = 0
        for layer in self._layers():
            end = start + len(layer.state_shapes)
            _h, own = layer.step(x_t, state[start:end])
            summaries.append(layer.summary(own))
            following += own
            start = end
        forecast = self._forecasts(summaries).mean(dim=0)
        if self.lags:
            recent = torch.cat([state[-1][:, 1:], x_t[:, :1]], dim=1)
            forecast = forecast + self.highway(recent)
            following += (recent,)
        return forecast, following

    def _layers(self) -> Iterator[RecurrentLayer]:
        for layer in self.members:
            assert isinstance(layer, RecurrentLayer)
            yield layer

    def _forecasts(self, summaries: Sequence[Tensor]) -> Tensor:
        """Each member's, without the highway's part."""
        pairs = zip(self.outputs, summaries, strict=True)
        return torch.stack([output(summary) for output, summary in pairs])


class ForecasterInOwnUnits(Network):
    """A forecaster whose windows and forecasts are plain observations, with its typical error.

    The network works on z = (scale(x) - mean) / std. The square root evens out fluctuations that
    grow with the root of the level, as of counts; the logarithm those that grow with the level.

    Args:
        network: the forecaster of z, of one feature.
        scale: how an observation is transformed.
        mean, std: of transformed observations.

    Shape:
        window [B, T, 1] float32; returns forecast and deviation, [B, Q] each: the deviation is the
        standard deviation of the forecast's error, the network's own carried over to the level of
        the forecast.

    Raises:
        ValueError: the network has more than one feature, or std is not above 0.
    """

    def __init__(
        self, network: SequenceForecaster, scale: Scale, *, mean: float, std: float
    ) -> None:
        super().__init__()
        if network.features != 1 or not std > 0:
            raise ValueError(
                f"expected a network of 1 feature and a std above 0, got {network.features} and "
                f"{std}"
            )
        self.network = network
        self.scale = scale
        self.mean = mean
        self.std = std

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the network."""
        return self.network.state_shapes

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """Windows of twelve ones."""
        return (torch.ones(batch, 12, 1),)

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """The next observations and how far off they may be."""
        return self._observed(self.network(self.z(window)))

    def step(self, x_t: Tensor, state: State) -> tuple[tuple[Tensor, Tensor], State]:
        """Read one more observation [B, 1]: the forecast after it, and the next state."""
        z_next, following = self.network.step(self.z(x_t), state)
        return self._observed(z_next), following

    def z(self, observations: Tensor) -> Tensor:
        """Of any shape; observations that the scale cannot take count as the lowest that it can."""
        if self.scale == "sqrt":
            observations = observations.clamp(min=0).sqrt()
        elif self.scale == "log":
            observations = observations.clamp(min=_SMALLEST).log()
        return (observations - self.mean) / self.std

    def _observed(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x, and its deviation: that of z times dx/dz."""
        scaled = self.mean + self.std * z
        deviation = (self.std * self.network.z_deviation).expand_as(scaled)
        if self.scale == "sqrt":
            scaled = scaled.clamp(min=0)
            return scaled.square(), 2 * scaled * deviation
        if self.scale == "log":
            return scaled.exp(), scaled.exp() * deviation
        return scaled, deviation


class ForecastStep(OneStep):
    """One observation in, the forecast after it out: for series that arrive one by one.

    Shape:
        observation [B, 1] float32 and the states; returns forecast and deviation, [B, Q] each, and
        the next states.
    """

    def __init__(self, network: ForecasterInOwnUnits) -> None:
        before, after = state_names(network.state_shapes)
        super().__init__(("observation", *before), ("forecast", "deviation", *after))
        self.network = network

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """A one at the start of a series."""
        return (torch.ones(batch, 1), *empty_states(self.network.state_shapes, batch))

    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Forecast, deviation and next states."""
        observed, following = self.network.step(observation, state)
        return *observed, *following
