"""Every encoder-decoder in a slim form, with sources for it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from atril_models import create_model
from atril_models.translation import SequenceToSequence

VOCABULARY = 23
BOS, EOS = 1, 2

SLIM: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "rnn-encoder-decoder": (
        "rnn-encoder-decoder",
        {"embedding_size": 6, "hidden_size": 10, "maxout_units": 7},
    ),
    "bahdanau": (
        "bahdanau",
        {"embedding_size": 6, "hidden_size": 10, "alignment_size": 8, "maxout_units": 7},
    ),
    "transformer": (
        "transformer",
        {"model_size": 12, "layers": 2, "heads": 3, "feedforward_size": 20},
    ),
    "transformer-pre-norm": (
        "transformer",
        {"model_size": 12, "layers": 2, "heads": 3, "feedforward_size": 20, "pre_norm": True},
    ),
}
"""By a name of the form: the architecture and its options beside the vocabulary."""


def slim_translator(form: str, seed: int = 0) -> SequenceToSequence:
    """One of the slim forms with fresh weights, in eval mode."""
    architecture, options = SLIM[form]
    torch.manual_seed(seed)
    network = create_model(architecture, vocabulary=VOCABULARY, **options)
    assert isinstance(network, SequenceToSequence)
    return network.eval()


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Tokens that are neither begin nor end."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(EOS + 1, VOCABULARY, shape, generator=generator)
