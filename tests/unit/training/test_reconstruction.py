"""Autoencoders that give back what they are given: bars, penalties, probes and exports."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import ReconstructionTask
from atril_models.autoencoders import DeterministicAutoencoder
from atril_models.autoencoders.sparse import KSparseAutoencoder
from atril_training.datasets import file_source
from atril_training.export import export_graph
from atril_training.fitting import SilentReporter, deterministic
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import RECIPES
from atril_training.recipes.autoencoding import (
    Penalty,
    PrincipalSubspaceRecipe,
    Probe,
    ReconstructionRecipe,
)
from atril_training.recipes.recipe import Optimization, at_most
from atril_training.tasks import prepare
from atril_training.tasks.autoencoding import grey_levels
from atril_training.tasks.reconstruction import (
    PrincipalSubspaceCourse,
    ReconstructionCourse,
    code_figures,
    penalty_of,
    reconstruction_loss,
)


def _recipe(architecture: str, **changes: object) -> ReconstructionRecipe:
    recipe = RECIPES[architecture, "digits"]
    assert isinstance(recipe, ReconstructionRecipe)
    return replace(recipe, **changes)


def _course(recipe: ReconstructionRecipe) -> ReconstructionCourse:
    course = prepare(recipe, file_source(None))
    assert isinstance(course, ReconstructionCourse)
    return course


def _built(course: ReconstructionCourse) -> DeterministicAutoencoder:
    with deterministic(0, 1):
        network = course.build()
    assert isinstance(network, DeterministicAutoencoder)
    return network


SHORT = _recipe(
    "k-sparse-autoencoder",
    optimization=Optimization(epochs=12, batch_size=32, peak_learning_rate=5e-3),
)


def test_short_run_meets_its_bars_and_shuffled_targets_do_not() -> None:
    """Six units of 128 beat six principal components; other pictures as targets teach nothing."""
    course = _course(SHORT)
    network, training = train_course(course, SilentReporter(), "cpu")
    require_quality(SHORT, judge_course(course, network))
    assert training.fits[0].best_epoch > 6, "the best epoch is one after the annealing"

    shuffled = course.with_shuffled_targets(0)
    network, _ = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match=r"test_squared_error is .* the bar is at most 1.55"):
        require_quality(SHORT, judge_course(shuffled, network))


def test_shuffled_targets_are_the_same_pictures_of_others() -> None:
    """Nothing is lost or added, and the validation and test splits stay."""
    course = _course(SHORT)
    shuffled = course.with_shuffled_targets(1)
    before, after = course.wanted, shuffled.wanted
    assert not np.array_equal(before, after)
    assert sorted(row.tobytes() for row in before) == sorted(row.tobytes() for row in after)
    assert shuffled.dataset is course.dataset


def test_linear_autoencoder_reaches_the_principal_subspace() -> None:
    """The default recipe: the angle's bar and the error of as many principal components."""
    recipe = RECIPES["linear-autoencoder", "digits"]
    assert isinstance(recipe, PrincipalSubspaceRecipe)
    course = prepare(recipe, file_source(None))
    assert isinstance(course, PrincipalSubspaceCourse)
    network, training = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    require_quality(recipe, judgement)
    assert judgement.figures["test_squared_error"] == pytest.approx(
        judgement.baselines["test: 10 principal components"], rel=1e-3
    )
    assert judgement.baselines["angle, untrained"] > 1
    losses = [epoch.train_loss for epoch in training.fits[0].epochs]
    assert losses == sorted(losses, reverse=True)
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("architecture", "figure"),
    [
        ("contractive-autoencoder", "squared_jacobian_norm"),
        ("sparse-autoencoder", "activation_error"),
        ("sparse-autoencoder-l1", "activation_error"),
        ("sparse-autoencoder-l2", "activation_error"),
    ],
)
def test_penalty_does_what_it_is_for(architecture: str, figure: str) -> None:
    """After a few epochs with it the code has what it asks for more than after those without."""
    optimization = Optimization(epochs=8, batch_size=32, peak_learning_rate=2e-2)
    course = _course(_recipe(architecture, optimization=optimization))
    network, _ = train_course(course, SilentReporter(), "cpu")
    judgement = judge_course(course, network)
    without = judgement.baselines[f"test: {figure}, without the penalty"]
    assert judgement.figures[f"test_{figure}"] < 0.6 * without


def test_losses_are_sums_over_a_picture() -> None:
    """Squared error and cross-entropy of each picture written out, averaged over the batch."""
    network = _built(_course(_recipe("deep-autoencoder")))
    given, wanted = torch.rand(2, 5, 1, 8, 8)
    with torch.no_grad():
        output = network(given)
        squared = float(reconstruction_loss(network, given, wanted, "squared error"))
        crossed = float(reconstruction_loss(network, given, wanted, "cross-entropy"))
    nats = -(wanted * output.log() + (1 - wanted) * (1 - output).log())
    assert squared == pytest.approx(float((output - wanted).square().sum()) / 5, rel=1e-5)
    assert crossed == pytest.approx(float(nats.sum()) / 5, rel=1e-5)


def test_sparsity_is_asked_of_every_layer() -> None:
    """Equation 4.2.5 sums over the encoder's layers."""
    recipe = _recipe("sparse-autoencoder", options={"widths": (30, 20)})
    network = _built(_course(recipe))
    given = torch.rand(5, 1, 8, 8)
    penalty = Penalty("l1", 2.0, target=0.05)
    with torch.no_grad():
        layers = network.layer_activations(given)
        expected = sum(float((layer.mean(dim=0) - 0.05).abs().sum()) for layer in layers)
        assert float(penalty_of(network, given, penalty)) == pytest.approx(2 * expected, rel=1e-5)


def test_contractive_penalty_of_any_encoder() -> None:
    """A deep encoder has one too, by autograd, with the weight of the recipe."""
    network = _built(_course(_recipe("deep-autoencoder")))
    pictures = grey_levels(np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8))
    penalty = Penalty("contractive", 0.5)
    with torch.no_grad():
        norm = code_figures(network, pictures, penalty)["squared_jacobian_norm"]
        assert float(penalty_of(network, pictures, penalty)) == pytest.approx(norm / 2, rel=1e-5)
    assert math.isfinite(norm)
    assert norm > 0


def test_k_sparse_learns_with_fewer_units_every_epoch() -> None:
    """From nearly the initial number it falls to k at the half, and stays."""
    course = _course(SHORT)
    network = _built(course).train()
    assert isinstance(network, KSparseAutoencoder)
    objective = course.objective(network)
    active = []
    for epoch in range(1, 13):
        objective.epoch_started(epoch, 12)
        active.append(network.train().active_units)
    assert active == sorted(active, reverse=True)
    assert active[0] > 20
    assert active[5:] == [6] * 7


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_probe_judges_the_code_and_leaves_the_network_alone(fine_tuned: bool) -> None:
    """A classifier on the code tells digits apart; the autoencoder's weights do not change."""
    probe = Probe(
        optimization=Optimization(epochs=6, batch_size=32, peak_learning_rate=5e-3),
        fine_tuned=fine_tuned,
    )
    baseline = "not pre-trained" if fine_tuned else "on the pixels"
    bar = at_most("test_probe_error", 0.2, baseline=f"test: the same classifier, {baseline}")
    recipe = replace(SHORT, probe=probe, bars=(bar,))
    course = _course(recipe)
    network, _ = train_course(course, SilentReporter(), "cpu")
    before = [parameter.clone() for parameter in network.parameters()]
    judgement = judge_course(course, network)
    assert judgement.figures["test_probe_error"] < 0.12
    assert judgement.figures == judge_course(course, network).figures
    assert all(map(torch.equal, before, network.parameters()))
    name = next(name for name in judgement.baselines if baseline in name)
    assert 0 < judgement.baselines[name] < 0.5


def test_exports_are_encoder_decoder_and_whole_in_parity() -> None:
    """The parts first; the whole says what it is for and how to reach the parts."""
    course = _course(SHORT)
    network = _built(course).eval()
    exports = course.exports(network)
    assert [export.suffix for export in exports] == ["-encoder", "-decoder", ""]
    for export in exports:
        assert not measure_parity(export, export_graph(export)).failures()
    task = exports[-1].task
    assert isinstance(task, ReconstructionTask)
    assert task.parts.encoder_outputs == ("code",)
    assert task.parts.code_shape == (128,)
    assert (exports[0].task, exports[1].task) == (None, None)


def test_parity_pictures_are_not_those_that_rounding_decides() -> None:
    """Of a network in which two units are equal, no picture is left to compare."""
    course = _course(SHORT)
    network = _built(course).eval()
    assert isinstance(network, KSparseAutoencoder)
    assert len(course.parity_pictures(network)) > 300
    with torch.no_grad():
        network.encoder.weight.zero_()
        network.encoder.bias.zero_()
    assert len(course.parity_pictures(network)) == 0
