"""Pictures of every mode become the tensor that their pixels say."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from atril_common.imaging import normalise, pixels_from_image
from atril_common.tasks import ImageInput

GREY = ImageInput("image", 4, 6, (0.0,), (1.0,))
COLOUR = ImageInput("image", 4, 6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def ramp(height: int = 4, width: int = 6) -> NDArray[np.uint8]:
    """Different grey values in every corner."""
    return (np.arange(height * width, dtype=np.uint8) * 10).reshape(height, width)


def reopened(image: Image.Image, file_format: str = "PNG", **options: object) -> Image.Image:
    """The picture after a trip through a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def test_grey_pixels_pass_unchanged() -> None:
    """A greyscale picture of the model's size is taken as it is."""
    np.testing.assert_array_equal(pixels_from_image(Image.fromarray(ramp()), GREY), ramp()[None])


def test_grey_fills_all_channels_of_a_colour_model() -> None:
    """A colour model gets three equal channels of a grey picture."""
    pixels = pixels_from_image(Image.fromarray(ramp()), COLOUR)
    np.testing.assert_array_equal(pixels, np.stack([ramp()] * 3))


def test_channels_come_first() -> None:
    """Height, width, channels become channels, height, width."""
    colour = np.stack([ramp(), ramp() + 1, ramp() + 2], axis=-1)
    pixels = pixels_from_image(Image.fromarray(colour), COLOUR)
    np.testing.assert_array_equal(pixels, colour.transpose(2, 0, 1))
    assert pixels.flags.c_contiguous


def test_colour_becomes_grey_by_luma() -> None:
    """Red, green and blue weigh 0.299, 0.587 and 0.114."""
    colour = Image.new("RGB", (6, 4), (200, 100, 50))
    expected = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert abs(float(pixels_from_image(colour, GREY)[0, 0, 0]) - expected) <= 0.5


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_alpha_changes_nothing(mode: str) -> None:
    """A picture that has an alpha channel but no transparent pixel equals the one without."""
    picture = reopened(Image.fromarray(ramp()).convert(mode))
    assert picture.mode == mode
    np.testing.assert_array_equal(pixels_from_image(picture, GREY), ramp()[None])


@pytest.mark.parametrize(("alpha", "expected"), [(0, 0), (128, 100), (255, 200)])
def test_transparency_shows_black(alpha: int, expected: int) -> None:
    """A transparent pixel is black, a half transparent one half as bright."""
    picture = reopened(Image.new("RGBA", (6, 4), (200, 200, 200, alpha)))
    assert abs(int(pixels_from_image(picture, GREY)[0, 0, 0]) - expected) <= 1


def test_transparent_colour_of_a_grey_file_shows_black() -> None:
    """A PNG may call one grey value transparent instead of having an alpha channel."""
    picture = reopened(Image.fromarray(ramp()), transparency=200)
    expected = np.where(ramp() == 200, 0, ramp())
    np.testing.assert_array_equal(pixels_from_image(picture, GREY), expected[None])


def test_transparent_palette_entry_shows_black() -> None:
    """A palette's transparency is honoured, one entry or a table of them."""
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 240, 240, 240, 10, 10, 10])
    for transparency, expected in [(1, 0), (2, 240), (b"\xff\x00", 0), (b"\x00\xff", 240)]:
        picture = reopened(palette, transparency=transparency)
        assert (pixels_from_image(picture, GREY) == expected).all()


def test_palette_colours_are_looked_up() -> None:
    """A palette picture is its colours, not its indices."""
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    pixels = pixels_from_image(reopened(palette), COLOUR)
    np.testing.assert_array_equal(pixels[:, 0, 0], [10, 20, 30])


def test_bilevel_is_black_and_white() -> None:
    """Mode 1 becomes 0 and 255."""
    bits = ramp() > 100
    pixels = pixels_from_image(reopened(Image.fromarray(bits)), GREY)
    np.testing.assert_array_equal(pixels[0], np.where(bits, 255, 0))


def test_sixteen_bits_are_scaled() -> None:
    """16-bit greys become the nearest 8-bit grey: v × 255 / 65535, and are not clipped."""
    deep = np.linspace(0, 65535, 24).round().astype(np.uint16).reshape(4, 6)
    picture = reopened(Image.fromarray(deep))
    assert picture.mode.startswith("I;16")
    expected = np.rint(deep / 257)
    np.testing.assert_array_equal(pixels_from_image(picture, GREY)[0], expected)


def test_sixteen_bits_of_an_8_bit_picture_give_it_back() -> None:
    """Scaling up to 16 bits (× 257) and down again is the identity."""
    picture = reopened(Image.fromarray(ramp().astype(np.uint16) * 257))
    np.testing.assert_array_equal(pixels_from_image(picture, GREY)[0], ramp())


def test_transparent_colour_of_a_16_bit_file_shows_black() -> None:
    """One 16-bit grey may be transparent too."""
    picture = Image.fromarray(np.full((4, 6), 50_000, np.uint16))
    picture.info["transparency"] = 50_000
    assert not pixels_from_image(picture, GREY).any()


def test_cmyk_becomes_colour() -> None:
    """A print JPEG is converted: no ink is white."""
    picture = reopened(Image.new("CMYK", (6, 4), (0, 0, 0, 0)), "JPEG")
    assert picture.mode == "CMYK"
    assert (pixels_from_image(picture, COLOUR) >= 250).all()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, ramp()),
        (2, ramp()[:, ::-1]),
        (3, ramp()[::-1, ::-1]),
        (4, ramp()[::-1]),
        (5, ramp(6, 4).T),
        (6, np.rot90(ramp(6, 4), -1)),
        (7, np.rot90(ramp(6, 4), 2).T),
        (8, np.rot90(ramp(6, 4), 1)),
    ],
)
def test_exif_orientation_is_honoured(orientation: int, upright: NDArray[np.uint8]) -> None:
    """A camera that was held sideways says so, and the picture is turned before it is scaled."""
    stored = ramp() if orientation < 5 else ramp(6, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = reopened(Image.fromarray(stored), exif=exif)
    np.testing.assert_array_equal(pixels_from_image(picture, GREY)[0], upright)


def test_the_image_itself_is_not_changed() -> None:
    """Training may convert one image for many models."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = reopened(Image.fromarray(ramp()), exif=exif)
    pixels_from_image(picture, GREY)
    np.testing.assert_array_equal(np.asarray(picture), ramp())


def test_size_is_the_models() -> None:
    """Any size is scaled to height and width of the model, in that order."""
    assert pixels_from_image(Image.new("L", (31, 17)), COLOUR).shape == (3, 4, 6)


def test_normalise_is_the_formula() -> None:
    """`(value / 255 - mean) / std`, channel by channel, in float32."""
    spec = ImageInput("image", 1, 1, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    pixels = np.array([255, 255, 51], np.uint8).reshape(1, 3, 1, 1)
    tensor = normalise(pixels, spec)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor.ravel(), [1.0, 3.0, 0.1], rtol=1e-6)


@given(arrays(np.uint8, (3, 1, 4, 6)), st.integers(0, 2))
def test_normalise_treats_each_picture_alone(pixels: NDArray[np.uint8], index: int) -> None:
    """A picture's tensor does not depend on its neighbours in the batch."""
    spec = ImageInput("image", 4, 6, (0.3,), (0.7,))
    np.testing.assert_array_equal(normalise(pixels, spec)[index], normalise(pixels[index], spec))
