"""Courses on rows of numbers: what they learn, how they are judged, and what is exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import NearestCentroid

from atril_common.errors import RefusedError
from atril_common.tasks import ClassificationTask, FeaturesInput, RegressionTask
from atril_models import ClassifierWithProbabilities, Network, create_model
from atril_models.activations import ACTIVATIONS, MAXOUT, hidden_layer
from atril_models.feedforward import FeedforwardNetwork
from atril_training.datasets import file_source
from atril_training.export import (
    BATCH_DIMENSION,
    Export,
    OutputSpec,
    TensorSpec,
    batch_cases,
    export_graph,
)
from atril_training.fitting import Fit, SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import RECIPES, Recipe
from atril_training.recipes.feedforward import RECIPES as FEEDFORWARD_RECIPES
from atril_training.tasks import Course, prepare
from atril_training.tasks.features import (
    FeatureClassificationCourse,
    FeatureRegressionCourse,
    LeastSquaresCourse,
    least_squares,
    standardised,
    units_of,
)

NO_FILES = file_source(Path("not read"))
ON_TABLES = [
    (recipe.architecture, recipe.dataset)
    for recipe in FEEDFORWARD_RECIPES
    if recipe.dataset not in ("digits", "mnist")
]
every_table_recipe = pytest.mark.parametrize("key", ON_TABLES, ids="-".join)


def _course(key: tuple[str, str], epochs: int | None = None) -> Course:
    recipe = RECIPES[key]
    if epochs is not None:
        recipe = replace(recipe, optimization=replace(recipe.optimization, epochs=epochs))
    return prepare(recipe, NO_FILES)


@pytest.fixture(scope="module")
def line() -> tuple[LeastSquaresCourse, Network, Fit]:
    """Linear regression after its whole recipe."""
    course = _course(("linear-regression", "diabetes"))
    assert isinstance(course, LeastSquaresCourse)
    network, training = train_course(course, SilentReporter(), "cpu")
    (fit,) = training.fits
    return course, network, fit


def test_linear_regression_reaches_the_least_squares_solution(
    line: tuple[LeastSquaresCourse, Network, Fit],
) -> None:
    """Weights, in the features' own units, within 1e-6 of the normal equations' in float64."""
    course, network, _fit = line
    assert isinstance(network, FeedforwardNetwork)
    assert network.output.weight.dtype == torch.float32
    features, targets = course.dataset.train.features, course.dataset.train.targets
    centred, wanted = features - features.mean(axis=0), targets - targets.mean()
    expected = np.linalg.solve(centred.T @ centred, centred.T @ wanted)
    scales = np.array(course.target_units.std) / np.array(course.units.std)
    found = network.output.weight[0].detach().double().numpy() * scales
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    assert judge_course(course, network).figures["distance_from_least_squares"] < 1e-6


def test_linear_regression_predicts_what_least_squares_predicts(
    line: tuple[LeastSquaresCourse, Network, Fit],
) -> None:
    """On rows that it never saw, in milligrams, years and points of progression."""
    course, network, _fit = line
    judgement = judge_course(course, network)
    for split in ("test", "tail"):
        baseline = judgement.baselines[f"{split}: least squares"]
        assert judgement.figures[f"{split}_rmse"] == pytest.approx(baseline, rel=1e-6)
    require_quality(course.recipe, judgement)


def test_descent_with_every_row_never_sees_the_order_of_the_rows(
    line: tuple[LeastSquaresCourse, Network, Fit],
) -> None:
    """One step an epoch, and the epoch kept is that of the lowest cost on the training split."""
    course, network, fit = line
    objective = course.objective(network)
    assert objective.steps == 1
    ((features, targets),) = objective.batches(torch.Generator().manual_seed(0))
    assert len(features) == len(targets) == len(course.dataset.train)
    costs = [record.validation["train_cost"] for record in fit.epochs]
    assert fit.best_epoch == 1 + costs.index(min(costs))


def test_distance_counts_every_weight(line: tuple[LeastSquaresCourse, Network, Fit]) -> None:
    """A network of zeros is a distance of 1 away, as the baseline says, and a wrong bias counts."""
    course, network, _fit = line
    other = FeedforwardNetwork((10,), 1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    figures = course.judge(other)
    assert figures["distance_from_least_squares"] == pytest.approx(1)
    assert course.baselines()["weights of zero"] == 1.0
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.output.bias += 0.01
    assert 0.001 < course.judge(other)["distance_from_least_squares"] < 0.1


@pytest.mark.parametrize(
    ("key", "epochs"),
    [
        (("linear-regression", "diabetes"), None),
        (("mlp-regression", "friedman"), 40),
        (("mlp-regression", "diabetes"), 30),
        (("softmax-regression", "iris"), 40),
        (("mlp", "wine"), 30),
        (("mlp", "breast_cancer"), 15),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_bars_are_met_by_learning_and_missed_without(
    key: tuple[str, str], epochs: int | None
) -> None:
    """A training, most cut short, meets the bars; with the targets dealt out at random it fails."""
    course = _course(key, epochs)
    network, _training = train_course(course, SilentReporter(), "cpu")
    require_quality(course.recipe, judge_course(course, network))
    shuffled = course.with_shuffled_targets(seed=0)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    with pytest.raises(RefusedError, match="missed by"):
        require_quality(course.recipe, judge_course(shuffled, network))


def test_shuffling_deals_out_the_same_targets() -> None:
    """The rows stay, and targets are permuted where they are learnt from, not where judged."""
    course = _course(("mlp", "wine"))
    assert isinstance(course, FeatureClassificationCourse)
    shuffled = course.with_shuffled_targets(seed=1)
    before, after = course.dataset, shuffled.dataset
    for split, dealt in ((before.train, after.train), (before.validation, after.validation)):
        assert np.array_equal(split.features, dealt.features)
        assert not np.array_equal(split.targets, dealt.targets)
        assert np.array_equal(np.sort(split.targets), np.sort(dealt.targets))
    assert before.test is after.test
    assert before.tail is after.tail


@every_table_recipe
def test_export_takes_and_answers_plain_numbers(key: tuple[str, str]) -> None:
    """ONNX Runtime on features in their own units gives what the network gives, in any batch."""
    course = _course(key, epochs=1)
    network, _training = train_course(course, SilentReporter(), "cpu")
    (export,) = course.exports(network)
    graph = export_graph(export)
    assert measure_parity(export, graph).failures() == ()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape[0]) == ("features", "batch")
    assert isinstance(export.task, ClassificationTask | RegressionTask)
    assert isinstance(export.task.input, FeaturesInput)
    assert len(export.task.input.features) == given.shape[1]
    assert export.task.output in [output.name for output in session.get_outputs()]


def test_regression_answers_in_the_unit_of_its_target(
    line: tuple[LeastSquaresCourse, Network, Fit],
) -> None:
    """The exported line is weights · features + bias of plain numbers."""
    course, network, _fit = line
    (export,) = course.exports(network)
    session = onnxruntime.InferenceSession(export_graph(export))
    test = course.dataset.test
    (answers,) = session.run(["prediction"], {"features": test.features.astype(np.float32)})
    design = np.concatenate([test.features, np.ones((len(test), 1))], axis=1)
    train = course.dataset.train
    ones = np.ones((len(train), 1))
    weights = least_squares(np.concatenate([train.features, ones], axis=1), train)
    assert answers.shape == (len(test), 1)
    np.testing.assert_allclose(answers[:, 0], design @ weights, rtol=1e-5)


def test_exported_softmax_is_stable() -> None:
    """At ±1e4 the graph answers with probabilities, not NaN: lecture 2.1.7 as it is served."""
    network = FeedforwardNetwork((3,), 3)
    with torch.no_grad():
        network.output.weight.copy_(torch.eye(3))
    logits = torch.tensor([[1e4, 1e4, -1e4], [-1e4, -1e4 - 1, -2e4], [1e4, -1e4, 0.0]])
    dims = (BATCH_DIMENSION, 3)
    export = Export(
        module=ClassifierWithProbabilities(network).eval(),
        inputs=(TensorSpec("features", dims),),
        outputs=(OutputSpec("logits", dims), OutputSpec("probabilities", dims)),
        example=(logits[:2],),
        cases=(),
    )
    session = onnxruntime.InferenceSession(export_graph(export))
    (answered,) = session.run(["probabilities"], {"features": logits.numpy()})
    second = 1 / (1 + np.exp(-1))
    expected = [[0.5, 0.5, 0], [second, 1 - second, 0], [1, 0, 0]]
    np.testing.assert_allclose(answered, expected, atol=1e-7)


def test_every_activation_is_exported() -> None:
    """One network with a layer of each activation answers in ONNX Runtime as in PyTorch."""
    torch.manual_seed(0)
    names = (*ACTIVATIONS, MAXOUT)
    module = torch.nn.Sequential(*(hidden_layer(6, 6, name, pieces=3) for name in names)).eval()
    rows = torch.randn(64, 6)
    dims = (BATCH_DIMENSION, 6)
    export = Export(
        module=module,
        inputs=(TensorSpec("features", dims),),
        outputs=(OutputSpec("hidden", dims, tolerance=1e-6),),
        example=(rows[:2],),
        cases=batch_cases((rows,)),
    )
    assert measure_parity(export, export_graph(export)).failures() == ()


@every_table_recipe
def test_same_seed_learns_the_same_weights(key: tuple[str, str]) -> None:
    """Two trainings give the same bits; another seed gives others."""
    course = _course(key, epochs=2)
    other = prepare(replace(course.recipe, seed=1), NO_FILES)
    states = [
        train_course(each, SilentReporter(), "cpu")[0].state_dict()
        for each in (course, course, other)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_figures_are_those_of_their_definition() -> None:
    """RMSE, mean absolute error and R² of a network that always answers with the mean."""
    course = _course(("mlp-regression", "diabetes"))
    assert isinstance(course, FeatureRegressionCourse)
    constant = FeedforwardNetwork((10,), 1)
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
    figures, targets = course.judge(constant), course.dataset.test.targets
    errors = course.dataset.train.targets.mean() - targets
    assert figures["test_rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-6)
    assert figures["test_rmse"] == pytest.approx(
        course.baselines()["test: mean of the targets"], rel=1e-6
    )
    assert figures["test_mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    assert figures["test_r2"] == pytest.approx(1 - (errors**2).mean() / targets.var(), abs=1e-6)


def test_baselines_of_classes_are_those_of_scikit_learn() -> None:
    """Nearest class mean, in own units and standardised, and the most frequent class."""
    course = _course(("mlp", "breast_cancer"))
    assert isinstance(course, FeatureClassificationCourse)
    train, tail = course.dataset.train, course.dataset.tail
    baselines = course.baselines()
    scaled = [standardised(split.features, units_of(train.features)) for split in (train, tail)]
    dummy = DummyClassifier().fit(train.features, train.targets)
    own = NearestCentroid().fit(train.features, train.targets)
    standard = NearestCentroid().fit(scaled[0], train.targets)
    assert baselines["tail: most frequent class"] == dummy.score(tail.features, tail.targets)
    assert baselines["tail: nearest class mean"] == own.score(tail.features, tail.targets)
    assert baselines["tail: nearest class mean, standardised"] == standard.score(
        scaled[1], tail.targets
    )


def test_constant_feature_cannot_be_standardised() -> None:
    """The error names the column, before anything is divided by 0."""
    with pytest.raises(ValueError, match=r"number 1: .* above 0, got 5.0 and 0.0"):
        units_of(np.array([[1.0, 5.0], [2.0, 5.0]]))


def _comparison(dataset: str) -> tuple[Recipe, Recipe]:
    return RECIPES["mlp-shallow", dataset], RECIPES["mlp-deep", dataset]


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_shallow_and_deep_differ_in_depth_alone(dataset: str) -> None:
    """Same options, pictures and optimisation, so the same budget; counts within 1 % of it."""
    shallow, deep = _comparison(dataset)
    assert replace(deep, architecture="mlp-shallow", bars=shallow.bars) == shallow
    counts = [
        sum(p.numel() for p in create_model(recipe.architecture, **recipe.options).parameters())
        for recipe in (shallow, deep)
    ]
    assert max(counts) <= 1.01 * min(counts)
