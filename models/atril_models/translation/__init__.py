"""Encoder-decoders that translate: recurrent, with attention, and of attention alone.

Source: lecture chapter 6.
"""

from atril_models.translation import bahdanau, encoder_decoder, transformer
from atril_models.translation.contract import (
    DecoderStep,
    Encoder,
    SequenceToSequence,
    StepContract,
    TensorSpec,
)
from atril_models.translation.decoding import Hypothesis, Search, StepModel, decode

ARCHITECTURES = (
    *encoder_decoder.ARCHITECTURES,
    *bahdanau.ARCHITECTURES,
    *transformer.ARCHITECTURES,
)

__all__ = [
    "ARCHITECTURES",
    "DecoderStep",
    "Encoder",
    "Hypothesis",
    "Search",
    "SequenceToSequence",
    "StepContract",
    "StepModel",
    "TensorSpec",
    "decode",
]
