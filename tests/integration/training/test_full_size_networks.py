"""The convolutional networks at their published size, untrained: ONNX Runtime against PyTorch.

Their shapes and counts are in tests/unit/models; their slim forms are trained by the recipes.
"""

import pytest
import torch

from atril_models import CATALOGUE, ClassifierWithProbabilities, Family, create_model
from atril_training.export import (
    BATCH_DIMENSION,
    Export,
    OutputSpec,
    TensorSpec,
    batch_cases,
    export_graph,
)
from atril_training.parity import measure_parity

BATCH_SIZES = (1, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, entry in CATALOGUE.items() if entry.family is Family.CONVOLUTIONAL]
)
def test_published_size_is_exported_in_parity(name: str) -> None:
    """Logits within 1e-4 and the same class for each picture, at three batch sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_model(name)
        (example,) = network.example_inputs(max(BATCH_SIZES))
        pictures = torch.randn(example.shape)
        with torch.no_grad():
            network(pictures)  # moves the batch normalisations' averages away from where they start
    network.eval()
    logits = network(pictures[:1])
    export = Export(
        module=ClassifierWithProbabilities(network).eval(),
        inputs=(TensorSpec("image", (BATCH_DIMENSION, *pictures.shape[1:])),),
        outputs=(
            OutputSpec("logits", (BATCH_DIMENSION, logits.shape[1]), same_argmax=True),
            OutputSpec("probabilities", (BATCH_DIMENSION, logits.shape[1]), tolerance=1e-5),
        ),
        example=(pictures[:2],),
        cases=batch_cases((pictures,), BATCH_SIZES),
    )
    parity = measure_parity(export, export_graph(export))
    assert parity.failures() == ()
    assert [case.sizes[BATCH_DIMENSION] for case in parity.cases] == list(BATCH_SIZES)
