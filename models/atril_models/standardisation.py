"""Networks that were trained on standardised numbers, in the numbers' own units."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Units:
    """Mean and standard deviation of each number of a row, in its own unit.

    Raises:
        ValueError: there is not one standard deviation for each mean, one is not finite, or a
            standard deviation is not above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"expected a standard deviation for each of {len(self.mean)} means, "
                f"got {len(self.std)}"
            )
        for index, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            if not isfinite(mean) or not (isfinite(std) and std > 0):
                raise ValueError(
                    f"number {index}: expected a finite mean and a standard deviation above 0, "
                    f"got {mean} and {std}"
                )


class InOwnUnits(nn.Module):
    """Standardises what goes into a network, and gives what comes out its unit back.

    y = mean_y + std_y · network((x - mean_x) / std_x)

    Means and deviations are constants of the graph, so that whoever calls it sends and gets plain
    numbers.

    Args:
        network: takes [..., P] of mean 0 and deviation 1.
        inputs: units of the P numbers of an input.
        outputs: units of the numbers of an output; logits have none.

    Shape:
        [..., P] float32; returns what the network returns.
    """

    def __init__(self, network: nn.Module, inputs: Units, outputs: Units | None = None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("input_mean", torch.tensor(inputs.mean))
        self.register_buffer("input_std", torch.tensor(inputs.std))
        self.register_buffer("output_mean", torch.tensor(outputs.mean) if outputs else None)
        self.register_buffer("output_std", torch.tensor(outputs.std) if outputs else None)
        self.input_mean: Tensor
        self.input_std: Tensor
        self.output_mean: Tensor | None
        self.output_std: Tensor | None

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's answer to an input in its own units."""
        outputs: Tensor = self.network((inputs - self.input_mean) / self.input_std)
        if self.output_mean is None or self.output_std is None:
            return outputs
        return self.output_mean + self.output_std * outputs
