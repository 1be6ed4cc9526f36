"""Recipes of the autoencoders (lecture 4)."""

from collections.abc import Mapping

from atril_models import ImageSpec
from atril_training.recipes.autoencoding import (
    DenoisingRecipe,
    Noise,
    Penalty,
    PhotographRecipe,
    PrincipalSubspaceRecipe,
    Probe,
    ReconstructionRecipe,
    VariationalRecipe,
)
from atril_training.recipes.recipe import Optimization, QualityBar, at_least, at_most

_DIGIT = ImageSpec(channels=1, height=8, width=8)
_MNIST = ImageSpec(channels=1, height=28, width=28)


def _squared_error_bars(test: float, tail: float, components: int) -> tuple[QualityBar, QualityBar]:
    """Errors a picture that principal components do not reach."""
    return (
        at_most("test_squared_error", test, baseline=f"test: {components} principal components"),
        at_most("tail_squared_error", tail, baseline=f"tail: {components} principal components"),
    )


_LINEAR_ON_DIGITS = PrincipalSubspaceRecipe(
    architecture="linear-autoencoder",
    dataset="digits",
    options={"code_size": 10},
    picture=_DIGIT,
    loss="squared error",
    components=10,
    optimization=Optimization(
        epochs=25, batch_size=1164, peak_learning_rate=1.0, optimizer="lbfgs", schedule="constant"
    ),
    bars=(
        at_most("largest_principal_angle", 0.01, baseline="angle, untrained"),
        *_squared_error_bars(1.28, 1.30, components=9),
    ),
)

_DEEP_ON_DIGITS = ReconstructionRecipe(
    architecture="deep-autoencoder",
    dataset="digits",
    options={"widths": (128, 64, 8), "activation": "elu"},
    picture=_DIGIT,
    loss="squared error",
    components=8,
    optimization=Optimization(epochs=100, batch_size=32, peak_learning_rate=3e-3),
    bars=_squared_error_bars(1.25, 1.29, components=8),
)

_CONTRACTIVE_ON_DIGITS = ReconstructionRecipe(
    architecture="contractive-autoencoder",
    dataset="digits",
    options={"code_size": 128},
    picture=_DIGIT,
    loss="cross-entropy",
    components=12,
    penalty=Penalty("contractive", 0.3),
    optimization=Optimization(epochs=100, batch_size=32, peak_learning_rate=1e-2),
    bars=(
        *_squared_error_bars(1.0, 1.05, components=12),
        at_most(
            "test_squared_jacobian_norm",
            10.0,
            baseline="test: squared_jacobian_norm, without the penalty",
        ),
    ),
)

_K_SPARSE_ON_DIGITS = ReconstructionRecipe(
    architecture="k-sparse-autoencoder",
    dataset="digits",
    options={"code_size": 128, "k": 6, "alpha": 1.0},
    picture=_DIGIT,
    loss="squared error",
    components=6,
    initial_k=32,
    optimization=Optimization(epochs=60, batch_size=32, peak_learning_rate=3e-3),
    bars=_squared_error_bars(1.55, 1.6, components=6),
)


def _sparse_on_digits(architecture: str, penalty: Penalty) -> ReconstructionRecipe:
    return ReconstructionRecipe(
        architecture=architecture,
        dataset="digits",
        options={"widths": (200,)},
        picture=_DIGIT,
        loss="cross-entropy",
        components=10,
        penalty=penalty,
        optimization=Optimization(epochs=100, batch_size=32, peak_learning_rate=2e-2),
        bars=(
            *_squared_error_bars(0.63, 0.63, components=10),
            at_most(
                "test_activation_error", 0.2, baseline="test: activation_error, without the penalty"
            ),
            at_most(
                "tail_activation_error", 0.2, baseline="tail: activation_error, without the penalty"
            ),
        ),
    )


def _gain_bars(test: float, tail: float) -> tuple[QualityBar, QualityBar]:
    """Decibels above the best of the simple methods."""
    return (
        at_least("test_gain_db", test, baseline="test: best simple method, gain"),
        at_least("tail_gain_db", tail, baseline="tail: best simple method, gain"),
    )


_DENOISING_ON_DIGITS = DenoisingRecipe(
    architecture="denoising-autoencoder",
    dataset="digits",
    options={"widths": (192, 192), "activation": "elu", "tied": False},
    picture=_DIGIT,
    noise=Noise("gaussian", 0.3),
    loss="squared error",
    optimization=Optimization(epochs=40, batch_size=32, peak_learning_rate=3e-3, weight_decay=0.05),
    bars=_gain_bars(0.5, 0.5),
)

_CONVOLUTIONAL_ON_DIGITS = DenoisingRecipe(
    architecture="conv-denoising-autoencoder",
    dataset="digits",
    options={"widths": (24, 48)},
    picture=_DIGIT,
    noise=Noise("salt-and-pepper", 0.2),
    loss="squared error",
    optimization=Optimization(epochs=60, batch_size=32, peak_learning_rate=3e-3),
    bars=_gain_bars(2.0, 2.0),
)


def _nats_bars(test: float, tail: float, baseline: str) -> tuple[QualityBar, QualityBar]:
    """Nats a picture that a distribution without a network does not reach."""
    return (
        at_most("test_negative_elbo", test, baseline=f"test: {baseline}"),
        at_most("tail_negative_elbo", tail, baseline=f"tail: {baseline}"),
    )


def _bits_on_digits(
    architecture: str, options: Mapping[str, object], peak_learning_rate: float, bar: float
) -> VariationalRecipe:
    """The bar is that of both test splits."""
    return VariationalRecipe(
        architecture=architecture,
        dataset="digits",
        options=options,
        picture=_DIGIT,
        pixels="binary",
        optimization=Optimization(epochs=100, batch_size=32, peak_learning_rate=peak_learning_rate),
        bars=_nats_bars(bar, bar, "independent pixels"),
    )


_GAUSSIAN_ON_DIGITS = VariationalRecipe(
    architecture="gaussian-vae",
    dataset="digits",
    options={"widths": (128,), "latents": 16, "smallest_deviation": 1 / 64},
    picture=_DIGIT,
    pixels="grey",
    levels=17,
    # The density's gradient grows with the inverse variance, which is large where a pixel is dark
    # in every picture.
    optimization=Optimization(epochs=60, batch_size=32, peak_learning_rate=4e-3, clip_norm=200.0),
    bars=_nats_bars(-50.0, -50.0, "one Gaussian"),
)

_ON_PHOTOGRAPHS = PhotographRecipe(
    architecture="dncnn",
    dataset="photographs",
    options={"depth": 6, "width": 24, "downsampling": 2},
    deviation=25 / 255,
    patch_side=40,
    patches=2000,
    optimization=Optimization(
        epochs=6, batch_size=8, peak_learning_rate=1e-2, warm_up_fraction=0.05
    ),
    bars=(at_least("test_psnr_db", 28.3, baseline="test: Gaussian blur"),),
)

# From here on: the real sets.

_LOGISTIC = Probe(
    optimization=Optimization(epochs=30, batch_size=256, peak_learning_rate=2e-3),
    fine_tuned=False,
)
_FINE_TUNED = Probe(
    optimization=Optimization(
        epochs=30, batch_size=128, peak_learning_rate=5e-4, weight_decay=0.05
    ),
    fine_tuned=True,
)

_DEEP_ON_MNIST = ReconstructionRecipe(
    architecture="deep-autoencoder",
    dataset="mnist",
    options={"activation": "elu"},
    picture=_MNIST,
    loss="squared error",
    components=30,
    optimization=Optimization(epochs=60, batch_size=128, peak_learning_rate=1e-3),
    # Half of what 30 principal components leave, 13.9 (Hinton & Salakhutdinov 2006: 3.0).
    bars=(at_most("test_squared_error", 6.9, baseline="test: 30 principal components"),),
)

_CONTRACTIVE_ON_MNIST = ReconstructionRecipe(
    architecture="contractive-autoencoder",
    dataset="mnist",
    picture=_MNIST,
    loss="cross-entropy",
    components=30,
    penalty=Penalty("contractive", 0.1),
    optimization=Optimization(epochs=40, batch_size=128, peak_learning_rate=1e-3),
    probe=_FINE_TUNED,
    bars=(
        at_most("test_squared_error", 13.0, baseline="test: 30 principal components"),
        at_most("test_probe_error", 0.013, baseline="test: the same classifier, not pre-trained"),
    ),
)

_K_SPARSE_ON_MNIST = ReconstructionRecipe(
    architecture="k-sparse-autoencoder",
    dataset="mnist",
    picture=_MNIST,
    loss="squared error",
    components=25,
    initial_k=100,
    optimization=Optimization(epochs=60, batch_size=128, peak_learning_rate=1e-3),
    probe=_LOGISTIC,
    bars=(
        at_most("test_squared_error", 13.0, baseline="test: 25 principal components"),
        at_most("test_probe_error", 0.0135, baseline="test: the same classifier on the pixels"),
    ),
)

_DENOISING_ON_MNIST = DenoisingRecipe(
    architecture="denoising-autoencoder",
    dataset="mnist",
    picture=_MNIST,
    noise=Noise("masking", 0.25),
    loss="cross-entropy",
    optimization=Optimization(epochs=40, batch_size=128, peak_learning_rate=1e-3),
    probe=_FINE_TUNED,
    bars=(
        at_least("test_gain_db", 0.5, baseline="test: best simple method, gain"),
        at_most("test_probe_error", 0.013, baseline="test: the same classifier, not pre-trained"),
    ),
)

_CONVOLUTIONAL_ON_MNIST = DenoisingRecipe(
    architecture="conv-denoising-autoencoder",
    dataset="mnist",
    picture=_MNIST,
    noise=Noise("gaussian", 0.5),
    loss="squared error",
    optimization=Optimization(epochs=20, batch_size=128, peak_learning_rate=2e-3),
    bars=(at_least("test_gain_db", 2.0, baseline="test: best simple method, gain"),),
)


def _bits_on_mnist(
    architecture: str, options: Mapping[str, object], bar: float
) -> VariationalRecipe:
    """The pixels are drawn anew in each epoch; one sample a picture."""
    return VariationalRecipe(
        architecture=architecture,
        dataset="mnist",
        options=options,
        picture=_MNIST,
        pixels="binary",
        divergence_warm_up=0.1,
        optimization=Optimization(
            epochs=150, batch_size=128, peak_learning_rate=1e-3, clip_norm=100.0
        ),
        bars=(at_most("test_negative_elbo", bar, baseline="test: independent pixels"),),
    )


_ON_TRAIN400 = PhotographRecipe(
    architecture="dncnn",
    dataset="train400",
    deviation=25 / 255,
    patch_side=40,
    patches=128 * 1600,
    optimization=Optimization(epochs=50, batch_size=128, peak_learning_rate=1e-3),
    # A decibel above non-local means on the held-out crops, which leave 27.3 dB. On the usual 68
    # test photographs BM3D reaches 28.57 dB and DnCNN 29.23 dB.
    bars=(
        at_least("test_psnr_db", 28.34, baseline="test: non-local means"),
        at_least("photographs_psnr_db", 30.0, baseline="photographs: non-local means"),
    ),
)

RECIPES = (
    _LINEAR_ON_DIGITS,
    _DEEP_ON_DIGITS,
    _DEEP_ON_MNIST,
    _CONTRACTIVE_ON_DIGITS,
    _CONTRACTIVE_ON_MNIST,
    _K_SPARSE_ON_DIGITS,
    _K_SPARSE_ON_MNIST,
    _sparse_on_digits("sparse-autoencoder", Penalty("kl", 0.5, target=0.05)),
    _sparse_on_digits("sparse-autoencoder-l1", Penalty("l1", 0.3, target=0.05)),
    _sparse_on_digits("sparse-autoencoder-l2", Penalty("l2", 5.0, target=0.05)),
    _DENOISING_ON_DIGITS,
    _DENOISING_ON_MNIST,
    _CONVOLUTIONAL_ON_DIGITS,
    _CONVOLUTIONAL_ON_MNIST,
    _ON_PHOTOGRAPHS,
    _ON_TRAIN400,
    _bits_on_digits("vae", {"widths": (128,), "latents": 8}, 1e-2, 23.5),
    _bits_on_mnist("vae", {"widths": (500, 500), "latents": 40}, 103.0),
    _bits_on_digits("vae-2d", {"widths": (128,)}, 1e-2, 25.0),
    _bits_on_mnist("vae-2d", {"widths": (500, 500)}, 148.0),
    _GAUSSIAN_ON_DIGITS,
    _bits_on_digits("conv-vae", {"widths": (16, 32), "features": 64, "latents": 8}, 3e-3, 23.5),
    _bits_on_mnist("conv-vae", {"latents": 40}, 103.0),
)
