"""How well what an encoder has learnt tells the labels: a classifier on its code.

It is an instrument of judgement. The labels are never seen by the autoencoder that is published.

Dimensions: N pictures, B batch, K classes.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models import Network
from atril_models.autoencoders import DeterministicAutoencoder
from atril_models.autoencoders.classifier import CodeClassifier
from atril_training.datasets import ImageDataset, Split
from atril_training.fitting import (
    Objective,
    SilentReporter,
    Validation,
    device_of,
    fit,
)
from atril_training.recipes.autoencoding import Probe
from atril_training.recipes.recipe import Optimization
from atril_training.tasks.autoencoding import grey_levels, in_batches


def probe_error(
    network: DeterministicAutoencoder, dataset: ImageDataset, probe: Probe, seed: int
) -> float:
    """Share of the test pictures that the classifier gets wrong; the network is left as it is."""
    with torch.enable_grad():
        torch.manual_seed(seed)
        if probe.fine_tuned:
            classifier = CodeClassifier(deepcopy(network), len(dataset.labels)).to(
                device_of(network)
            )
            return _error_after(classifier, _inputs(dataset), dataset, probe.optimization, seed)
        inputs = [_codes(network, pictures) for pictures in _inputs(dataset)]
        return _linear_error(inputs, dataset, probe.optimization, seed)


def probe_baseline(
    untrained: Network, dataset: ImageDataset, probe: Probe, seed: int
) -> dict[str, float]:
    """What the same classifier reaches without what the autoencoder has learnt.

    Where the encoder is fine-tuned, that is the same network from random weights; where it is
    fixed, the classifier on the pixels themselves.
    """
    if probe.fine_tuned:
        assert isinstance(untrained, DeterministicAutoencoder)
        error = probe_error(untrained, dataset, probe, seed)
        return {"test: the same classifier, not pre-trained": error}
    torch.manual_seed(seed)
    inputs = [pictures.flatten(1) for pictures in _inputs(dataset)]
    error = _linear_error(inputs, dataset, probe.optimization, seed)
    return {"test: the same classifier on the pixels": error}


class _Labels(Objective[tuple[Tensor, Tensor]]):
    """Cross-entropy of a classifier on inputs that are there as a whole."""

    def __init__(
        self,
        classifier: nn.Module,
        train: tuple[Tensor, Tensor],
        validation: tuple[Tensor, Tensor],
        batch_size: int,
    ) -> None:
        self.classifier = classifier
        self.inputs, self.targets = train
        self.validation = validation
        self.batch_size = min(batch_size, len(self.targets))

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return len(self.targets) // self.batch_size

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets."""
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for rows in torch.split(order, self.batch_size)[: self.steps]:
            yield self.inputs[rows], self.targets[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean cross-entropy in nats."""
        inputs, targets = batch
        return functional.cross_entropy(self.classifier(inputs), targets)

    def validate(self) -> Validation:
        """The errors decide, and among equals the loss."""
        inputs, targets = self.validation
        logits = torch.cat([self.classifier(part) for part in in_batches(inputs)])
        error = _error(logits, targets)
        loss = functional.cross_entropy(logits, targets).item()
        return Validation((-error, -loss), {"error": error, "loss": loss})


def _error_after(
    classifier: nn.Module,
    inputs: list[Tensor],
    dataset: ImageDataset,
    optimization: Optimization,
    seed: int,
) -> float:
    """Train on the first of (train, validation, test) inputs, choose on the second, judge."""
    device = device_of(classifier)
    splits = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (
        (one.to(device), _targets(split).to(device))
        for one, split in zip(inputs, splits, strict=True)
    )
    objective = _Labels(classifier, train, validation, optimization.batch_size)
    fit(classifier, objective, optimization, SilentReporter(), seed=seed)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in in_batches(test[0])])
    return _error(logits, test[1])


def _linear_error(
    inputs: list[Tensor], dataset: ImageDataset, optimization: Optimization, seed: int
) -> float:
    classifier = nn.Linear(inputs[0].shape[1], len(dataset.labels)).to(inputs[0].device)
    nn.init.zeros_(classifier.weight)
    return _error_after(classifier, inputs, dataset, optimization, seed)


def _inputs(dataset: ImageDataset) -> list[Tensor]:
    return [
        grey_levels(split.pixels) for split in (dataset.train, dataset.validation, dataset.test)
    ]


def _codes(network: DeterministicAutoencoder, pictures: Tensor) -> Tensor:
    device = device_of(network)
    with torch.no_grad():
        codes = [network.encode(part.to(device)).flatten(1) for part in in_batches(pictures)]
    return torch.cat(codes)


def _targets(split: Split) -> Tensor:
    return torch.from_numpy(split.targets)


def _error(logits: Tensor, targets: Tensor) -> float:
    return float((logits.argmax(dim=1) != targets).float().mean())
