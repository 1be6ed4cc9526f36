"""A pair of exported graphs as a model that the reference search can drive."""

from collections.abc import Mapping

import torch
from torch import Tensor

from atril_models.translation import StepContract, TensorSpec
from atril_training.parity import open_session


class ExportedTranslator:
    """Encoder and decoder step in ONNX Runtime, with tensors in and out.

    Args:
        contract: of the network that was exported.
        encoder, decoder: the files.
        explain: whether the decoder is the explaining one.
    """

    def __init__(
        self, contract: StepContract, encoder: bytes, decoder: bytes, *, explain: bool = False
    ) -> None:
        self.contract = contract
        self._encoder, self._decoder = open_session(encoder), open_session(decoder)
        self._outputs = contract.decoder_outputs(explain=explain)

    def encode(self, source: Tensor, source_length: Tensor) -> dict[str, Tensor]:
        """See `StepModel.encode`."""
        inputs = {"source": source, "source_length": source_length}
        return _run(self._encoder, inputs, self.contract.encoder_outputs)

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StepModel.step`."""
        return _run(self._decoder, inputs, self._outputs)


def _run(
    session: object, inputs: Mapping[str, Tensor], outputs: tuple[TensorSpec, ...]
) -> dict[str, Tensor]:
    names = [spec.name for spec in outputs]
    feed = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
    answers = session.run(names, feed)  # type: ignore[attr-defined]
    return {name: torch.from_numpy(answer) for name, answer in zip(names, answers, strict=True)}
