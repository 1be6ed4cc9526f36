"""What must hold of every encoder-decoder of the chapter."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from atril_models import CATALOGUE, Family, count_layers, create_model
from atril_models.translation import ARCHITECTURES, DecoderStep, Encoder, SequenceToSequence
from tests.support.slim_translators import SLIM, VOCABULARY, random_tokens, slim_translator

every_form = pytest.mark.parametrize("form", list(SLIM))
LENGTHS = torch.tensor([6, 1, 4])
SOURCE, TARGET = random_tokens(3, 6), random_tokens(3, 5, seed=1)
ROOM = 7


def _stepwise(
    network: SequenceToSequence, source: Tensor, length: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] and, where it attends, attention [B, T, S], one step at a time.

    Each row is as many positions ahead of the others as its number, as in a server's batch that
    requests join at different times: a row starts its target when its turn has come.
    """
    contract, (batch, steps) = network.contract, target.shape
    encoded = network.encode(source, length)
    states = {spec.name: encoded[spec.name] for spec in contract.states}
    sizes = {"batch": batch, "cache": ROOM}
    # Whatever lies beyond the valid part of a cache must not matter.
    caches = {spec.name: spec.zeros(sizes).fill_(50.0) for spec in contract.caches}
    logits, attention = torch.zeros(batch, steps, VOCABULARY), torch.zeros(batch, steps, 6)
    for time in range(steps + batch - 1):
        position = (time - torch.arange(batch)).clamp(0, steps - 1)
        rows = torch.arange(batch)
        inputs = {"token": target[rows, position], "position": position, "cache_length": position}
        inputs |= {"source_length": length} | encoded | states | caches
        outputs = network.step({spec.name: inputs[spec.name] for spec in contract.decoder_inputs})
        running = (time >= rows) & (time - rows < steps)
        for row in rows[running].tolist():
            logits[row, position[row]] = outputs["logits"][row]
            if contract.attends:
                attention[row, position[row], : source.shape[1]] = outputs["attention"][row]
            for name, state in states.items():
                state[row] = outputs[f"next_{name}"][row]
            for name, cache in caches.items():
                cache[row, :, position[row]] = outputs[name.replace("cache", "update")][row, :, 0]
    return logits, attention


def test_every_entry_is_in_the_catalogue_and_tested_here() -> None:
    """The package's list and the slim forms are the same names, all of the chapter's family."""
    listed = {architecture.name for architecture in ARCHITECTURES}
    assert {architecture for architecture, _ in SLIM.values()} == listed
    assert {CATALOGUE[name].family for name in listed} == {Family.SEQUENCE_TO_SEQUENCE}


@every_form
def test_one_step_at_a_time_gives_the_teacher_forced_logits(form: str) -> None:
    """Rows at different positions of one batch, over dirty caches, give `forward`'s logits."""
    network = slim_translator(form)
    with torch.no_grad():
        expected = network(SOURCE, LENGTHS, TARGET)
        logits, _ = _stepwise(network, SOURCE, LENGTHS, TARGET)
    assert expected.shape == (3, 5, VOCABULARY)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@every_form
def test_padding_a_source_changes_nothing(form: str) -> None:
    """Three more positions of any tokens beyond the lengths leave the logits as they were."""
    network = slim_translator(form)
    padded = torch.cat((SOURCE, random_tokens(3, 3, seed=2)), 1)
    with torch.no_grad():
        expected = network(SOURCE, LENGTHS, TARGET)
        torch.testing.assert_close(network(padded, LENGTHS, TARGET), expected, rtol=0, atol=1e-6)


@every_form
def test_a_row_does_not_depend_on_its_batch(form: str) -> None:
    """A batch of one, cut to its own length, gives the row of the batch."""
    network = slim_translator(form)
    with torch.no_grad():
        together = network(SOURCE, LENGTHS, TARGET)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = network(SOURCE[[row], :length], LENGTHS[[row]], TARGET[[row]])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)


@every_form
def test_logits_do_not_see_later_target_tokens(form: str) -> None:
    """Changing target token t leaves the logits before t bitwise, and changes those at t."""
    network = slim_translator(form)
    with torch.no_grad():
        before = network(SOURCE, LENGTHS, TARGET)
        for changed in range(TARGET.shape[1]):
            other = TARGET.clone()
            other[:, changed] = (other[:, changed] + 1) % VOCABULARY
            after = network(SOURCE, LENGTHS, other)
            assert torch.equal(after[:, :changed], before[:, :changed])
            assert not torch.equal(after[:, changed], before[:, changed])


@every_form
def test_every_source_token_matters(form: str) -> None:
    """Changing any one token within the length changes the logits of the row, and of no other."""
    network = slim_translator(form)
    with torch.no_grad():
        before = network(SOURCE, LENGTHS, TARGET)
        for position in range(6):
            other = SOURCE.clone()
            other[0, position] = (other[0, position] + 1) % VOCABULARY
            moved = (network(other, LENGTHS, TARGET) != before).flatten(1).any(1)
            assert moved.tolist() == [True, False, False]


@pytest.mark.parametrize("form", [form for form in SLIM if form != "rnn-encoder-decoder"])
def test_attention_is_a_distribution_over_the_words(form: str) -> None:
    """Every step's weights sum to 1 and are exactly 0 on padding."""
    network = slim_translator(form)
    with torch.no_grad():
        _, attention = _stepwise(network, SOURCE, LENGTHS, TARGET)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 5))
    for row, length in enumerate(LENGTHS.tolist()):
        assert (attention[row, :, length:] == 0).all()
        assert (attention[row, :, :length] > 0).all()


@every_form
def test_exported_modules_answer_in_the_order_of_the_contract(form: str) -> None:
    """Encoder and step, given the contract's tensors, answer tensors of the contract's shapes."""
    network = slim_translator(form)
    sizes = {"batch": 2, "source": 4, "cache": 3}
    explaining = [False, True] if network.contract.attends else [False]
    modules = [Encoder(network), *(DecoderStep(network, explain=explain) for explain in explaining)]
    for module in modules:
        assert not module.training
        inputs = [torch.ones_like(spec.zeros(sizes)) for spec in module.inputs]
        for tensor, spec in zip(module(*inputs), module.outputs, strict=True):
            assert tensor.shape == spec.zeros(sizes).shape, spec.name
            assert tensor.dtype is spec.dtype
            assert tensor.isfinite().all(), spec.name


def test_what_does_not_attend_cannot_explain_itself() -> None:
    """The encoder-decoder with one context vector has no explaining step."""
    with pytest.raises(ValueError, match="no attention to explain itself with"):
        DecoderStep(slim_translator("rnn-encoder-decoder"), explain=True)


@every_form
def test_same_seed_same_weights(form: str) -> None:
    """The weights come from the default generator alone."""
    one, same, other = (slim_translator(form, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@every_form
def test_a_step_against_the_gradient_lowers_the_loss(form: str) -> None:
    """Every parameter gets a gradient, and a small step along it helps."""
    network = slim_translator(form)
    target_out = random_tokens(3, 5, seed=3)

    def loss() -> Tensor:
        logits: Tensor = network(SOURCE, LENGTHS, TARGET)
        return functional.cross_entropy(logits.flatten(0, 1), target_out.flatten())

    before = loss()
    before.backward()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            parameter -= 0.01 * parameter.grad
    assert loss() < before


@every_form
def test_dropout_is_drawn_in_training_only(form: str) -> None:
    """In eval mode two passes agree; in training mode with dropout they do not."""
    architecture, options = SLIM[form]
    network = create_model(architecture, vocabulary=VOCABULARY, dropout=0.5, **options)
    assert not torch.equal(network(SOURCE, LENGTHS, TARGET), network(SOURCE, LENGTHS, TARGET))
    network.eval()
    assert torch.equal(network(SOURCE, LENGTHS, TARGET), network(SOURCE, LENGTHS, TARGET))


@every_form
def test_layer_table_has_every_parameter_once(form: str) -> None:
    """The rows add up to the number of parameters, tied ones counted once."""
    network = slim_translator(form)
    rows = count_layers(network, *network.example_inputs())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert sum(row.parameters for row in rows) == parameters


@pytest.mark.parametrize("architecture", [entry.name for entry in ARCHITECTURES])
def test_sizes_below_one_are_refused(architecture: str) -> None:
    """The error shows all the sizes that were asked for."""
    with pytest.raises(ValueError, match=r"at least 1, got \(0, "):
        create_model(architecture, vocabulary=0)
