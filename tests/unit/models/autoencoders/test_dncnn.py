"""DnCNN: the paper's layers, the residual, and pictures of any size."""

import pytest
import torch
from torch.nn import functional

from atril_models import count_layers, create_model
from atril_models.autoencoders.dncnn import DnCNN


def test_layers_are_the_papers() -> None:
    """17 convolutions of 576, 15 times 36,864, and 576 weights; 15 normalisations of 128."""
    with torch.device("meta"):
        network = create_model("dncnn")
        rows = count_layers(network, *network.example_inputs())
    convolutions = [row.parameters for row in rows if row.kind == "Conv2d"]
    norms = [row.parameters for row in rows if row.kind == "BatchNorm2d"]
    assert convolutions == [576, *[36_864] * 15, 576]
    assert norms == [128] * 15


def test_answer_is_the_picture_less_the_noise_it_predicts() -> None:
    """x~ = x - r(x), with r a plain stack of the layers."""
    torch.manual_seed(0)
    network = DnCNN(depth=3, width=4).eval()
    image = torch.rand(2, 1, 9, 11)
    torch.testing.assert_close(network(image), image - network.residual(image))
    torch.testing.assert_close(network.predict_noise(image), image - network(image))


@pytest.mark.parametrize("downsampling", [1, 2, 3])
def test_any_size(downsampling: int) -> None:
    """The same weights take pictures of any height and width, down to one pixel."""
    network = DnCNN(depth=3, width=4, channels=3, downsampling=downsampling).eval()
    for shape in ((1, 3, 1, 1), (2, 3, 8, 9), (1, 3, 13, 6)):
        assert network(torch.rand(shape)).shape == shape


@pytest.mark.parametrize("downsampling", [2, 3])
def test_cutting_up_is_exact(downsampling: int) -> None:
    """The interleaved pictures are `pixel_unshuffle`'s, of a picture filled up with its edge."""
    network = DnCNN(depth=2, width=4, channels=3, downsampling=downsampling)
    image = torch.rand(2, 3, 12, 6)
    expected = functional.pixel_unshuffle(image, downsampling)
    assert torch.equal(network._pieces(image), expected)
    filled = functional.pad(image[..., :-1], (0, 1, 0, 0), mode="replicate")
    expected = functional.pixel_unshuffle(filled, downsampling)
    assert torch.equal(network._pieces(image[..., :-1]), expected)


def test_downsampling_works_on_interleaved_pictures() -> None:
    """With a residual that copies its pieces, the predicted noise is the picture itself."""
    network = DnCNN(depth=2, width=4, downsampling=2).eval()
    with torch.no_grad():
        for layer in (network.residual[0], network.residual[-1]):
            layer.weight.zero_()
            for piece in range(4):
                layer.weight[piece, piece, 1, 1] = 1
    image = torch.rand(1, 1, 6, 4)
    torch.testing.assert_close(network.predict_noise(image), image)


def test_receptive_field_is_the_papers() -> None:
    """17 layers of 3×3 see 35×35 pixels: (2·17 + 1) a side."""
    network = DnCNN(width=1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    image = torch.ones(1, 1, 60, 60, requires_grad=True)
    network.predict_noise(image)[0, 0, 30, 30].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].nonzero()
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [35, 35]


@pytest.mark.parametrize(
    "options", [{"depth": 1}, {"width": 0}, {"channels": 0}, {"downsampling": 0}]
)
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    """The error lists the four sizes and what each must be at least."""
    with pytest.raises(ValueError, match="a depth of at least 2 and width, channels and downsamp"):
        DnCNN(**options)
