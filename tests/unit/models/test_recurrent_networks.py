"""Recurrent networks as classifiers, forecasters and writers of text, and one step at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models import CATALOGUE, Family, Network, count_layers, create_model
from atril_models.recurrent import ARCHITECTURES
from atril_models.recurrent.char_transformer import CharacterTransformer, CharacterTransformerStep
from atril_models.recurrent.classification import BiLSTMClassifier, SequenceClassifier
from atril_models.recurrent.forecasting import (
    ForecasterInOwnUnits,
    ForecastStep,
    Scale,
    SequenceForecaster,
)
from atril_models.recurrent.language_model import CharacterModel, CharacterStep
from atril_models.recurrent.long_short_term_memory import LSTM
from atril_models.recurrent.one_step import OneStep
from atril_models.recurrent.rnn import DelayedRNN, LeakyRNN, SimpleRNN, SkipRNN
from atril_models.recurrent.stack import RecurrentStack

SLIM: dict[str, dict[str, object]] = {
    "rnn": {"features": 4, "hidden": 6, "classes": 3},
    "rnn-skip": {"features": 4, "hidden": 6, "classes": 3, "delay": 2},
    "rnn-leaky": {"features": 4, "hidden": 6, "classes": 3, "learn_alpha": True},
    "rnn-delay": {"features": 4, "hidden": 6, "classes": 3, "delay": 2},
    "lstm": {"features": 4, "hidden": 6, "classes": 3},
    "bilstm": {"features": 4, "hidden": 6, "classes": 3},
    "lstm-forecaster": {"features": 2, "hidden": 6, "horizon": 3, "lags": 4, "members": 2},
    "char-lstm": {"vocabulary": 5, "hidden": 6},
    "char-transformer": {
        "vocabulary": 5, "context": 8, "layers": 2, "heads": 2, "channels": 8, "dropout": 0.0,
    },
}  # fmt: skip
every_entry = pytest.mark.parametrize("name", SLIM)


def _slim(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create_model(name, **SLIM[name])


def _random_input(network: Network, batch: int) -> Tensor:
    (example,) = network.example_inputs(batch)
    generator = torch.Generator().manual_seed(1)
    if example.dtype == torch.int64:
        return torch.randint(0, 5, example.shape, generator=generator)
    return torch.randn(example.shape, generator=generator)


def _loss(network: Network, given: Tensor) -> Tensor:
    """Cross-entropy with the first class, or the squared distance to 1."""
    output = network(given)
    if isinstance(network, SequenceForecaster):
        return (output - 1).square().mean()
    logits = output.flatten(0, -2)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def test_every_entry_is_tried() -> None:
    """The slim forms cover all entries of the family, and the catalogue holds them."""
    assert {entry.name for entry in ARCHITECTURES} == set(SLIM)
    assert all(name in CATALOGUE for name in SLIM)
    assert CATALOGUE["char-transformer"].family is Family.SEQUENCE_TO_SEQUENCE


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("rnn", {}, 20_096 + 1_290),
        ("rnn-skip", {}, 36_480 + 1_290),
        ("rnn-leaky", {}, 20_096 + 1_290),
        ("rnn-leaky", {"learn_alpha": True}, 20_096 + 128 + 1_290),
        ("rnn-delay", {}, 20_096 + 1_290),
        ("lstm", {}, 80_384 + 1_290),
        ("bilstm", {}, 160_768 + 256 * 10 + 10),
        ("lstm-forecaster", {"hidden": 4}, 101),
        ("char-lstm", {}, 240_321 - 2 * 4 * 128),
        ("char-lstm", {"hidden": 512}, 3_320_385 - 2 * 4 * 512),
        ("char-lstm", {"hidden": 512, "layers": 3}, 5_421_633 - 3 * 4 * 512),
        ("char-transformer", {}, 10_745_088),
    ],
)
def test_parameters_add_up(name: str, options: dict[str, object], expected: int) -> None:
    """Totals of the published forms; char-rnn's cells have a second bias each, ours have one."""
    with torch.device("meta"):
        network = create_model(name, **options)
        rows = count_layers(network, *network.example_inputs())
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert sum(row.parameters for row in rows) == expected


def test_transformer_without_positions_has_nanogpts_count() -> None:
    """The 10.65 M of nanoGPT leave out the 256 · 384 of the positions."""
    with torch.device("meta"):
        network = CharacterTransformer()
    without = 10_745_088 - network.positions.weight.numel()
    assert without == 10_646_784


@every_entry
def test_same_seed_builds_the_same_weights(name: str) -> None:
    """All weights are drawn from torch's default generator."""
    first, second, other = (_slim(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_entry
def test_batch_of_one_equals_a_row_of_a_batch(name: str) -> None:
    """What is beside a sequence in the batch has no influence."""
    network = _slim(name).eval()
    given = _random_input(network, 3)
    together = network(given)
    alone = torch.cat([network(given[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@every_entry
def test_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    """Every trained parameter has a gradient, and following it helps."""
    network = _slim(name)
    given = _random_input(network, 4)
    before = _loss(network, given)
    before.backward()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            assert bool(parameter.grad.any())
            parameter -= 0.05 * parameter.grad
        assert _loss(network, given) < before


@pytest.mark.parametrize("name", [name for name in SLIM if name != "char-transformer"])
def test_any_length_is_read(name: str) -> None:
    """The same network takes one time step and many."""
    network = _slim(name).eval()
    given = _random_input(network, 2)
    for length in (1, 2, 50):
        repeats = -(-length // given.shape[1])
        tiled = torch.cat([given] * repeats, dim=1)[:, :length]
        assert bool(network(tiled).isfinite().all())


def test_classifier_is_the_dense_layer_on_the_last_hidden_vector() -> None:
    """O = H(T) W_hq + b_q."""
    torch.manual_seed(0)
    network = SequenceClassifier(SimpleRNN(3, 4), 2)
    x = torch.randn(2, 5, 3)
    h, _state = network.layer(x)
    torch.testing.assert_close(network(x), h[:, -1] @ network.output.weight.T + network.output.bias)


def test_bilstm_gives_the_mean_of_the_votes_of_5_8_3() -> None:
    """y(t) = W_F h_F(t) + W_B h_B(t) + b at each t, the logits being their mean."""
    torch.manual_seed(0)
    network = BiLSTMClassifier(3, 4, 2)
    x = torch.randn(2, 5, 3)
    ahead, back = network.layer(x)
    output = network.output
    votes = ahead @ output.ahead.weight.T + back @ output.back.weight.T + output.ahead.bias
    torch.testing.assert_close(network.votes(x), votes)
    torch.testing.assert_close(network(x), votes.mean(dim=1))


def test_forecaster_starts_from_the_last_value_on_its_highway() -> None:
    """With silent members the forecast at every horizon is the last value of the first feature."""
    network = SequenceForecaster([LSTM(2, 4)], horizon=3, lags=2)
    nn.init.zeros_(network.outputs[0].weight)
    nn.init.zeros_(network.outputs[0].bias)
    window = torch.randn(4, 6, 2)
    torch.testing.assert_close(network(window), window[:, -1, :1].expand(4, 3))


def test_fitted_highway_is_an_autoregression() -> None:
    """0.5·x(T) - 0.2·x(T-1) + 3 on top of the members, with zeros before a short window."""
    torch.manual_seed(0)
    network = SequenceForecaster([LSTM(1, 4)], lags=2)
    window = torch.randn(3, 5, 1)
    silent = SequenceForecaster([LSTM(1, 4)])
    silent.load_state_dict(network.state_dict(), strict=False)
    network.set_highway(torch.tensor([[-0.2, 0.5]]), torch.tensor([3.0]))
    expected = silent(window) + 0.5 * window[:, -1] - 0.2 * window[:, -2] + 3
    torch.testing.assert_close(network(window), expected)
    short = window[:, :1]
    torch.testing.assert_close(network(short), silent(short) + 0.5 * short[:, 0] + 3)


def test_highway_is_not_trained() -> None:
    """It is fitted, not learned: it has no gradient."""
    network = SequenceForecaster([LSTM(1, 4)], lags=2)
    assert not any(parameter.requires_grad for parameter in network.highway.parameters())


def test_forecast_is_the_mean_of_the_members() -> None:
    """Each member forecasts by itself."""
    torch.manual_seed(0)
    network = SequenceForecaster([LSTM(1, 4), SimpleRNN(1, 3)], horizon=2)
    window = torch.randn(3, 5, 1)
    members = network.member_forecasts(window)
    assert members.shape == (2, 3, 2)
    torch.testing.assert_close(network(window), (members[0] + members[1]) / 2)


@pytest.mark.parametrize("name", ["char-lstm", "char-transformer"])
def test_later_characters_have_no_influence(name: str) -> None:
    """Changing character t leaves the logits before t bitwise equal."""
    network = _slim(name).eval()
    tokens = _random_input(network, 2)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 5
    old, new = network(tokens), network(changed)
    assert torch.equal(old[:, :5], new[:, :5])
    assert not torch.equal(old[:, 5:], new[:, 5:])


def test_text_is_read_on_from_a_state() -> None:
    """Two halves with the state carried over give the logits of the whole."""
    network = _slim("char-lstm")
    assert isinstance(network, CharacterModel)
    tokens = _random_input(network, 2)
    first, state = network.read(tokens[:, :3])
    second, _state = network.read(tokens[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), network(tokens))


@pytest.mark.parametrize(
    "layers",
    [
        [LSTM(5, 6), LSTM(6, 6)],
        [SimpleRNN(5, 6)],
        [SkipRNN(5, 6, 2), LeakyRNN(6, 4, 0.5)],
        [DelayedRNN(5, 6, 3)],
    ],
    ids=["lstm", "simple", "skip and leaky", "delayed"],
)
def test_characters_one_at_a_time_give_the_logits_of_the_text(layers: list[nn.Module]) -> None:
    """Each state output, put back in as the input of its name, carries the text on."""
    torch.manual_seed(0)
    model = CharacterModel(RecurrentStack(layers)).eval()  # type: ignore[arg-type]
    tokens = torch.randint(0, 5, (3, 9), generator=torch.Generator().manual_seed(0))
    step = CharacterStep(model)
    states = step.example_inputs(3)[1:]
    logits = []
    for token in tokens.unbind(1):
        answer, *states = step(token, *states)
        logits.append(answer)
    torch.testing.assert_close(torch.stack(logits, dim=1), model(tokens), rtol=0, atol=1e-6)


def _in_own_units(scale: Scale = "identity") -> ForecasterInOwnUnits:
    torch.manual_seed(0)
    inner = SequenceForecaster([LSTM(1, 4), SkipRNN(1, 3, 2)], horizon=2, lags=3)
    network = ForecasterInOwnUnits(inner, scale, mean=3.0, std=0.5).eval()
    inner.z_deviation.copy_(torch.tensor([0.2, 0.4]))
    return network


@pytest.mark.parametrize("scale", ["identity", "sqrt", "log"])
def test_observations_one_at_a_time_give_the_forecast_of_the_window(scale: Scale) -> None:
    """The streaming form of a forecaster with a highway and members of two kinds."""
    network = _in_own_units(scale)
    window = 10 + torch.rand(3, 7, 1, generator=torch.Generator().manual_seed(0))
    step = ForecastStep(network)
    states = step.example_inputs(3)[1:]
    for t, observation in enumerate(window.unbind(1), start=1):
        forecast, deviation, *states = step(observation, *states)
        expected, expected_deviation = network(window[:, :t])
        torch.testing.assert_close(forecast, expected)
        torch.testing.assert_close(deviation, expected_deviation)


@pytest.mark.parametrize(
    ("scale", "there", "back"),
    [
        ("identity", lambda x: x, lambda z: z),
        ("sqrt", torch.sqrt, torch.square),
        ("log", torch.log, torch.exp),
    ],
)
def test_forecast_is_made_on_the_scale_and_brought_back(
    scale: Scale, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> None:
    """The forecast is back(mean + std · network((scale(x) - mean) / std))."""
    network = _in_own_units(scale)
    window = 10 + torch.rand(3, 7, 1, generator=torch.Generator().manual_seed(0))
    z = network.network((there(window) - 3.0) / 0.5).detach().requires_grad_()
    expected = back(3.0 + 0.5 * z)
    (slope,) = torch.autograd.grad(expected.sum(), z)
    forecast, deviation = network(window)
    torch.testing.assert_close(forecast, expected)
    torch.testing.assert_close(deviation, torch.tensor([0.2, 0.4]) * slope)


@pytest.mark.parametrize("scale", ["sqrt", "log"])
def test_observations_below_the_scale_are_taken_for_its_lowest(scale: Scale) -> None:
    """A negative count gives a forecast, not NaN."""
    forecast, deviation = _in_own_units(scale)(torch.tensor([[[4.0], [-1.0], [9.0]]]))
    assert bool(forecast.isfinite().all())
    assert bool((deviation >= 0).all())


def _write_with_caches(model: CharacterTransformer, tokens: Tensor, room: int) -> Tensor:
    """Logits of each position, by single steps on caches that this function owns."""
    step = CharacterTransformerStep(model)
    batch, length = tokens.shape
    heads, channels = model.cache_shape
    garbage = torch.Generator().manual_seed(9)
    caches = [
        100 * torch.randn(batch, heads, room, channels, generator=garbage)
        for _ in step.input_names[3:]
    ]
    logits = []
    for position in range(length):
        at = torch.full((batch,), position)
        answer, *updates = step(tokens[:, position], at, at, *caches)
        logits.append(answer)
        for cache, update in zip(caches, updates, strict=True):
            cache[:, :, position : position + 1] = update
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("room", [8, 20])
def test_cached_steps_give_the_logits_of_the_text(room: int) -> None:
    """Whatever the size of the caches, and whatever lies in their rows that are not yet valid."""
    model = _slim("char-transformer").eval()
    assert isinstance(model, CharacterTransformer)
    tokens = _random_input(model, 3)
    torch.testing.assert_close(
        _write_with_caches(model, tokens, room), model(tokens), rtol=0, atol=1e-5
    )


def test_texts_of_different_lengths_share_a_step() -> None:
    """Each row of a batch has a position and a valid part of its caches of its own."""
    model = _slim("char-transformer").eval()
    assert isinstance(model, CharacterTransformer)
    tokens = _random_input(model, 2)
    step = CharacterTransformerStep(model)
    positions = (2, 6)
    singles, rows = [], []
    for row, position in enumerate(positions):
        caches = [torch.zeros(1, *part.shape[1:]) for part in _filled(model, tokens[row], position)]
        for cache, part in zip(caches, _filled(model, tokens[row], position), strict=True):
            cache.copy_(part)
        at = torch.tensor([position])
        singles.append(step(tokens[row, position][None], at, at, *caches)[0])
        rows.append(caches)
    at = torch.tensor(positions)
    together = step(
        torch.stack([tokens[row, position] for row, position in enumerate(positions)]),
        at,
        at,
        *(torch.cat(pair) for pair in zip(*rows, strict=True)),
    )[0]
    torch.testing.assert_close(together, torch.cat(singles), rtol=0, atol=1e-6)


def _filled(model: CharacterTransformer, tokens: Tensor, length: int) -> list[Tensor]:
    """Caches with room for eight positions after so many characters."""
    step = CharacterTransformerStep(model)
    heads, channels = model.cache_shape
    caches = [torch.zeros(1, heads, 8, channels) for _ in step.input_names[3:]]
    for position in range(length):
        at = torch.tensor([position])
        _logits, *updates = step(tokens[position][None], at, at, *caches)
        for cache, update in zip(caches, updates, strict=True):
            cache[:, :, position : position + 1] = update
    return caches


def _steps() -> dict[str, OneStep]:
    lstm, transformer = (_slim(name) for name in ("char-lstm", "char-transformer"))
    assert isinstance(lstm, CharacterModel)
    assert isinstance(transformer, CharacterTransformer)
    return {
        "char-lstm": CharacterStep(lstm),
        "char-transformer": CharacterTransformerStep(transformer),
        "forecaster": ForecastStep(_in_own_units()),
    }


@pytest.mark.parametrize("name", ["char-lstm", "char-transformer", "forecaster"])
def test_names_of_a_step_follow_the_convention(name: str) -> None:
    """`state_x` comes back as `next_state_x`, `cache_x` as `update_x`, and nothing else."""
    step = _steps()[name]
    states = [n.removeprefix("state_") for n in step.input_names if n.startswith("state_")]
    caches = [n.removeprefix("cache_") for n in step.input_names if n.startswith("cache_")]
    caches = [n for n in caches if n != "length"]
    answers = {"logits", "forecast", "deviation"}
    assert [name for name in step.output_names if name not in answers] == [
        *(f"next_state_{n}" for n in states),
        *(f"update_{n}" for n in caches),
    ]
    inputs = step.example_inputs(2)
    assert len(inputs) == len(step.input_names)
    outputs = step(*inputs)
    assert len(outputs) == len(step.output_names)
    shapes = dict(zip(step.output_names, (tuple(o.shape) for o in outputs), strict=True))
    for input_name, given in zip(step.input_names, inputs, strict=True):
        if input_name.startswith("state_"):
            assert shapes[f"next_{input_name}"] == tuple(given.shape)
        elif input_name in {f"cache_{n}" for n in caches}:
            batch, heads, _past, channels = given.shape
            assert shapes[input_name.replace("cache", "update")] == (batch, heads, 1, channels)


def test_attention_is_the_librarys() -> None:
    """The cached step is `scaled_dot_product_attention` of the last position with all."""
    torch.manual_seed(0)
    model = _slim("char-transformer").eval()
    assert isinstance(model, CharacterTransformer)
    attention = model.blocks[0].attention
    x = torch.randn(2, 6, 8)
    query, key, value = attention._split(x)
    past = (key[:, :, :5], value[:, :, :5])
    got, _new = attention.step(x[:, 5:], past, torch.ones(2, 1, 1, 5, dtype=torch.bool))
    expected = functional.scaled_dot_product_attention(query[:, :, 5:], key, value)
    torch.testing.assert_close(got, attention._join(expected), rtol=0, atol=1e-6)


def test_transformer_starts_as_nanogpt_does() -> None:
    """σ = 0.02, less by √(2·layers) for what adds to the residual path; tied embeddings."""
    torch.manual_seed(0)
    model = CharacterTransformer(layers=2, heads=2, channels=64)
    assert model.output.weight is model.characters.weight
    stds = {name: p.std().item() for name, p in model.named_parameters() if p.dim() > 1}
    for name, std in stds.items():
        on_residual = name.endswith(("attention.output.weight", "mlp.2.weight"))
        assert std == pytest.approx(0.02 / 2 if on_residual else 0.02, rel=0.1), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_model("rnn", classes=1), "at least 2 classes, got 1"),
        (lambda: create_model("bilstm", classes=0), "at least 2 classes, got 0"),
        (lambda: create_model("lstm-forecaster", horizon=0), "horizon must be at least 1 .* got 0"),
        (lambda: create_model("lstm-forecaster", lags=-1), "lags at least 0, got 1 and -1"),
        (lambda: create_model("lstm-forecaster", members=0), r"members must be 1 or more"),
        (
            lambda: ForecasterInOwnUnits(
                SequenceForecaster([LSTM(2, 2)]), "identity", mean=0.0, std=1.0
            ),
            "a network of 1 feature and a std above 0, got 2 and 1.0",
        ),
        (lambda: create_model("char-transformer", channels=10, heads=4), "a multiple of heads"),
        (lambda: create_model("char-transformer", dropout=1.0), "dropout < 1, got 1.0"),
        (
            lambda: SequenceForecaster([LSTM(1, 2), LSTM(2, 2)]),
            r"with the same inputs, got inputs \[1, 2\]",
        ),
    ],
)
def test_impossible_networks_are_refused(make: Callable[[], object], message: str) -> None:
    """The error says what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        make()
