"""The training loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atril_common.imaging import normalise
from atril_common.model_config import ImageInput
from atril_models import create_model
from atril_training.datasets import ImageDataset, Split
from atril_training.errors import DivergedError
from atril_training.recipes import Recipe
from atril_training.trainer import (
    EpochRecord,
    SilentReporter,
    TrainingRun,
    evaluate,
    shift_pictures,
    train,
)


class _Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []
        self.epochs: list[EpochRecord] = []

    def batch_finished(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self.batches.append((epoch, batch, batches))

    def epoch_finished(self, record: EpochRecord) -> None:
        self.epochs.append(record)


@pytest.fixture
def small(digits: ImageDataset) -> ImageDataset:
    """The digits with 200 pictures to learn from."""
    return replace(digits, train=digits.train.take(np.arange(200)))


def _weights(run: TrainingRun) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in run.network.state_dict().values()])


def test_same_seed_gives_the_same_weights_bit_for_bit(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """Neither the state of the default generator nor the process's threads make a difference."""
    one = replace(recipe, epochs=1, seed=5)
    torch.manual_seed(111)
    first = train(one, small, image, SilentReporter())
    torch.manual_seed(222)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    second = train(one, small, image, SilentReporter())
    torch.set_num_threads(threads)
    other = train(replace(one, seed=6), small, image, SilentReporter())
    assert torch.equal(_weights(first), _weights(second))
    assert not torch.equal(_weights(first), _weights(other))


def test_training_leaves_the_random_state_alone(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """The default generator, the threads and the deterministic switch are as they were."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(recipe, epochs=1), small, image, SilentReporter())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_learns(run: TrainingRun) -> None:
    """Two epochs lower the loss and get most digits right."""
    first, second = run.epochs
    assert second.train_loss < first.train_loss
    assert run.test.accuracy > 0.5


def test_best_epoch_is_chosen_on_the_validation_split(
    recipe: Recipe, digits: ImageDataset, image: ImageInput
) -> None:
    """The weights kept are those with the best validation figures, not the last ones."""
    train_split, validation = digits.train.take(np.arange(64)), digits.validation
    # At this rate and with these few pictures the figures go up and down.
    wild = replace(recipe, epochs=8, peak_learning_rate=0.03, warm_up_fraction=0.9)
    data = replace(digits, train=train_split)
    run = train(wild, data, image, SilentReporter())
    ranks = [(e.validation_accuracy, -e.validation_loss) for e in run.epochs]
    assert ranks.index(max(ranks)) + 1 == run.best_epoch
    kept = evaluate(run.network, validation, image)
    best = run.epochs[run.best_epoch - 1]
    assert kept.accuracy == best.validation_accuracy
    assert kept.loss == pytest.approx(best.validation_loss)
    assert ranks[-1] != max(ranks)


def test_test_split_does_not_influence_training(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """With other test pictures the weights are the same."""
    one = replace(recipe, epochs=1)
    half = replace(small, test=small.test.take(np.arange(100)))
    runs = [train(one, data, image, SilentReporter()) for data in (small, half)]
    assert torch.equal(_weights(runs[0]), _weights(runs[1]))
    assert [run.test.examples for run in runs] == [359, 100]


def test_reporter_is_told_of_every_batch_and_epoch(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """200 pictures in batches of 32 are 6 steps; what fills no batch is left out."""
    notes = _Notes()
    run = train(recipe, small, image, notes)
    assert notes.batches == [(epoch, batch, 6) for epoch in (1, 2) for batch in range(1, 7)]
    assert tuple(notes.epochs) == run.epochs


def test_loss_that_is_not_a_number_ends_the_training(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """The error says where it happened and at which learning rate."""
    exploding = replace(recipe, peak_learning_rate=1e30, warm_up_fraction=0.01)
    with pytest.raises(
        DivergedError, match=r"lenet5 on digits: the loss is (nan|inf) in epoch 1, batch \d of 6"
    ):
        train(exploding, small, image, SilentReporter())


def test_evaluation_counts_errors_and_averages_the_loss(image: ImageInput) -> None:
    """A network that always says class 0 errs on all others; the loss is the mean of -log p."""

    class AlwaysZero(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[np.log(3.0), 0.0]]).float().expand(len(pictures), 2)

    split = Split(np.zeros((1200, 1, 32, 32), np.uint8), np.arange(1200) % 2)
    result = evaluate(AlwaysZero(), split, image)
    assert (result.errors, result.examples, result.accuracy) == (600, 1200, 0.5)
    # softmax of (log 3, 0) is (3/4, 1/4)
    assert result.loss == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-5)


def test_shift_moves_each_picture_as_a_whole() -> None:
    """Every result is the picture moved by at most the limit, with background where it left."""
    picture = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 5, 5)
    padded = torch.nn.functional.pad(picture, (2, 2, 2, 2))
    allowed = {
        bytes(padded[:, y : y + 5, x : x + 5].flatten().tolist())
        for y in range(5)
        for x in range(5)
    }
    generator = torch.Generator().manual_seed(0)
    shifted = shift_pictures(picture.expand(500, 1, 5, 5), 2, generator)
    assert shifted.shape == (500, 1, 5, 5)
    assert {bytes(one.flatten().tolist()) for one in shifted} == allowed


def test_recipe_without_shifts_uses_the_pictures_as_they_are(
    recipe: Recipe, small: ImageDataset, image: ImageInput
) -> None:
    """With one step an epoch and no shift, the first loss is that of the untouched pictures."""
    seen = replace(small, train=small.train.take(np.arange(32)))
    still = replace(recipe, epochs=1, max_shift=0)
    run = train(still, seen, image, SilentReporter())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(still.seed)
        network = create_model("lenet5")
    pictures = torch.from_numpy(normalise(seen.train.pixels, image))
    expected = torch.nn.functional.cross_entropy(
        network(pictures), torch.from_numpy(seen.train.targets)
    )
    assert run.epochs[0].train_loss == pytest.approx(expected.item(), rel=1e-5)
