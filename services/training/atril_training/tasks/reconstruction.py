"""Autoencoders that give back what they are given.

Dimensions: N pictures, B batch, D values a picture, Z code size, K components.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_common.tasks import AutoencoderParts, ReconstructionTask, Task
from atril_models import Network
from atril_models.autoencoders import Autoencoder, DeterministicAutoencoder
from atril_models.autoencoders.contractive import ContractiveAutoencoder
from atril_models.autoencoders.dense import DenseAutoencoder
from atril_models.autoencoders.penalties import (
    SPARSITY_DISTANCES,
    jacobian_norm,
    sparsity_penalty,
)
from atril_models.autoencoders.sparse import KSparseAutoencoder
from atril_training.baselines.projection import (
    PrincipalComponents,
    principal_components,
    squared_error,
)
from atril_training.fitting import Fit, Objective, Reporter, SilentReporter, Validation, device_of
from atril_training.graphs import GraphCourse, GraphInputs, Graphs
from atril_training.quasi_newton import fit_quasi_newton
from atril_training.recipes.autoencoding import (
    Penalty,
    PrincipalSubspaceRecipe,
    ReconstructionRecipe,
)
from atril_training.tasks.autoencoding import (
    DECODER_SUFFIX,
    ENCODER_SUFFIX,
    RECONSTRUCTION,
    AutoencodingCourse,
    PictureObjective,
    as_rows,
    grey_levels,
    in_batches,
)
from atril_training.tasks.probing import probe_baseline, probe_error

_SMALLEST_MARGIN = 1e-4
"""Between the active units and the others, for pictures that parity is measured on."""


class ReconstructionCourse(AutoencodingCourse, GraphCourse):
    """Teaches an autoencoder to give back its pictures."""

    recipe: ReconstructionRecipe

    def objective(self, network: Network) -> Objective[tuple[Tensor, Tensor]]:
        """The loss of the reconstruction, and the recipe's penalty."""
        return _Reconstruction(network, self)

    def task(self, parts: AutoencoderParts) -> Task:
        """Reconstruction, and what can be done with codes."""
        return ReconstructionTask(self.image, RECONSTRUCTION, parts)

    def parity_pictures(self, network: Autoencoder) -> Tensor:
        """Test pictures; of a k-sparse autoencoder those whose active units no rounding decides."""
        pictures = super().parity_pictures(network)
        if not isinstance(network, KSparseAutoencoder):
            return pictures
        with torch.no_grad():
            return pictures[network.margin(pictures) > _SMALLEST_MARGIN]

    def judge(self, network: Network) -> Mapping[str, float]:
        """On each test split the squared error a picture, and what the penalty is about."""
        assert isinstance(network, DeterministicAutoencoder)
        figures: dict[str, float] = {}
        for name, split in self.test_splits.items():
            pictures = grey_levels(split.pixels).to(device_of(network))
            figures[f"{name}_squared_error"] = _squared_error(network, pictures)
            figures |= {
                f"{name}_{figure}": value
                for figure, value in code_figures(network, pictures, self.recipe.penalty).items()
            }
        if self.recipe.probe is not None:
            figures["test_probe_error"] = probe_error(
                network, self.dataset, self.recipe.probe, self.recipe.seed
            )
        return figures

    def graph_inputs(self, graphs: Graphs, split: GraphInputs, limit: int) -> dict[str, Tensor]:
        """Pictures for the whole and the encoder, and the codes of these for the decoder."""
        chosen = self.dataset.train if split == "train" else self.dataset.test
        pictures = grey_levels(chosen.pixels[:limit])
        code = graphs[ENCODER_SUFFIX].answers(pictures)[0]
        return {"": pictures, ENCODER_SUFFIX: pictures, DECODER_SUFFIX: code}

    def judge_graphs(self, graphs: Graphs) -> Mapping[str, float]:
        """The squared error a picture of what the whole answers, on each test split."""
        return {
            f"{name}_squared_error": _squared_error(
                graphs[""].only(RECONSTRUCTION), grey_levels(split.pixels)
            )
            for name, split in self.test_splits.items()
        }

    def baselines(self) -> Mapping[str, float]:
        """Squared errors of the mean picture and of principal components.

        With a penalty, also what it is about in a network that has learnt without it.
        """
        recipe = self.recipe
        components = self._components()
        figures = self._figures_without_penalty()
        for name, split in self.test_splits.items():
            rows = as_rows(grey_levels(split.pixels))
            for count in (0, recipe.components - 1, recipe.components):
                method = f"{count} principal components" if count else "mean picture"
                estimate = components.project(rows, count)
                figures[f"{name}: {method}"] = squared_error(estimate, rows)
        if recipe.probe is not None:
            figures |= probe_baseline(self.build(), self.dataset, recipe.probe, recipe.seed)
        return figures

    def _components(self) -> PrincipalComponents:
        return principal_components(as_rows(grey_levels(self.dataset.train.pixels)))

    def _figures_without_penalty(self) -> dict[str, float]:
        """What the penalty is about, in the same network after the same learning without it."""
        if self.recipe.penalty is None:
            return {}
        free = type(self)(replace(self.recipe, penalty=None), self.dataset, self.wanted)
        network = free.build()
        free.train(network, SilentReporter())
        assert isinstance(network, DeterministicAutoencoder)
        with torch.no_grad():
            return {
                f"{name}: {figure}, without the penalty": value
                for name, split in self.test_splits.items()
                for figure, value in code_figures(
                    network, grey_levels(split.pixels), self.recipe.penalty
                ).items()
            }


class PrincipalSubspaceCourse(ReconstructionCourse):
    """Brings a linear autoencoder to the subspace of the first principal components."""

    recipe: PrincipalSubspaceRecipe

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """L-BFGS in float64 on all pictures: in float32 the last steps are mostly rounding."""
        network.double()
        objective = _Reconstruction(network, self)
        given, wanted = (objective.pixels.double() / 255).chunk(2, dim=1)

        def validation() -> Mapping[str, float]:
            return objective.validate().figures

        rounds = self.recipe.optimization.epochs
        result = fit_quasi_newton(
            network, lambda: objective.loss((given, wanted)), rounds, reporter, figures=validation
        )
        network.float()
        return (result,)

    def judge(self, network: Network) -> Mapping[str, float]:
        """The squared errors, and the largest angle to the subspace in radians."""
        assert isinstance(network, DenseAutoencoder)
        return {**super().judge(network), "largest_principal_angle": self._angle(network)}

    def baselines(self) -> Mapping[str, float]:
        """Those of a reconstruction, and the angle before learning."""
        network = self.build()
        assert isinstance(network, DenseAutoencoder)
        return {**super().baselines(), "angle, untrained": self._angle(network)}

    def _angle(self, network: DenseAutoencoder) -> float:
        """Between what the decoder spans and the first components of the training pictures."""
        output = network.decoder[-1]
        assert isinstance(output, nn.Linear)
        spanned = np.linalg.qr(output.weight.detach().double().cpu().numpy())[0]  # [D, Z]
        axes = self._components().axes[: self.recipe.components].T  # [D, K]
        outside = spanned - axes @ (axes.T @ spanned)
        sine = min(1.0, float(np.linalg.norm(outside, ord=2)))
        return float(np.arcsin(sine))


class _Reconstruction(PictureObjective):
    def __init__(self, network: Network, course: ReconstructionCourse) -> None:
        super().__init__(network, course)
        assert isinstance(network, DeterministicAutoencoder)
        self.autoencoder = network
        self.recipe = course.recipe
        self.dtype = next(network.parameters()).dtype
        self.annealed = True

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The reconstruction's, and the penalty."""
        given, wanted = (part.to(self.dtype) for part in batch)
        loss = reconstruction_loss(self.autoencoder, given, wanted, self.recipe.loss)
        if self.recipe.penalty is not None:
            loss = loss + penalty_of(self.autoencoder, given, self.recipe.penalty)
        return loss

    def epoch_started(self, epoch: int, epochs: int) -> None:
        """A k-sparse autoencoder has fewer active units every epoch until half of them are over."""
        if self.recipe.initial_k is None:
            return
        assert isinstance(self.autoencoder, KSparseAutoencoder)
        k, first = self.autoencoder.k, self.recipe.initial_k
        left = max(0.0, 1 - 2 * epoch / epochs)
        self.autoencoder.anneal(k + round(left * (first - k)))
        self.annealed = left == 0

    def validate(self) -> Validation:
        """The loss with its penalty decides, once a k-sparse autoencoder is annealed."""
        parts = [
            (len(part), self.loss((part, part)).item()) for part in in_batches(self.validation)
        ]
        loss = sum(count * value for count, value in parts) / len(self.validation)
        error = _squared_error(self.autoencoder, self.validation.to(self.dtype))
        return Validation((float(self.annealed), -loss), {"loss": loss, "squared_error": error})


def reconstruction_loss(
    network: DeterministicAutoencoder, given: Tensor, wanted: Tensor, kind: str
) -> Tensor:
    """The mean over the batch of the loss summed over a picture; cross-entropy in nats."""
    sums = network.decode_sums(network.encode(given))
    if kind == "cross-entropy":
        total = functional.binary_cross_entropy_with_logits(sums, wanted, reduction="sum")
    else:
        total = functional.mse_loss(network.output(sums), wanted, reduction="sum")
    return total / len(given)


def penalty_of(network: DeterministicAutoencoder, given: Tensor, penalty: Penalty) -> Tensor:
    """The penalty with its weight."""
    if penalty.kind == "contractive":
        return penalty.weight * _jacobian_norms(network, given).mean()
    assert isinstance(network, DenseAutoencoder)
    distance = SPARSITY_DISTANCES[penalty.kind]
    total = torch.zeros((), dtype=given.dtype, device=given.device)
    for activations in network.layer_activations(given):
        total = total + sparsity_penalty(activations, penalty.target, distance)
    return penalty.weight * total


def code_figures(
    network: DeterministicAutoencoder, pictures: Tensor, penalty: Penalty | None
) -> dict[str, float]:
    """What a penalty is about.

    `squared_jacobian_norm` is the mean over the pictures. `mean_activation` is that of all units of
    the code, and `activation_error` how far it is from the target as a share of that.
    """
    if penalty is None:
        return {}
    if penalty.kind == "contractive":
        norms = [_jacobian_norms(network, part) for part in in_batches(pictures)]
        return {"squared_jacobian_norm": torch.cat(norms).mean().item()}
    codes = torch.cat([network.encode(part) for part in in_batches(pictures)])
    mean = codes.mean().item()
    return {
        "mean_activation": mean,
        "activation_error": abs(mean - penalty.target) / penalty.target,
    }


def _jacobian_norms(network: DeterministicAutoencoder, given: Tensor) -> Tensor:
    if isinstance(network, ContractiveAutoencoder):
        return network.squared_jacobian_norm(given)
    return jacobian_norm(network.encode, given)


def _squared_error(network: nn.Module, pictures: Tensor) -> float:
    errors = [
        (network(part) - part).square().flatten(1).sum(dim=1) for part in in_batches(pictures)
    ]
    return torch.cat(errors).mean().item()
