"""Recipes of the encoder-decoders (lecture 6)."""

from collections.abc import Mapping
from dataclasses import dataclass

from atril_training.recipes.recipe import Optimization, Recipe, at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationRecipe(Recipe):
    """How a network that translates is trained, and how it is asked.

    Args:
        vocabulary: ids of the byte-pair encoding of both languages, at most.
        max_length: tokens of a source or a target at most, with the end token. Longer pairs are
            not learnt from, and a search stops there.
        label_smoothing: share of the target's probability that is spread over all tokens in
            training (Szegedy et al. 2016; Vaswani et al. 2017, §5.4).
        beam: hypotheses that the search keeps; 1 is greedy.
        length_penalty: exponent of the search's length penalty.
    """

    vocabulary: int
    max_length: int
    label_smoothing: float = 0.0
    beam: int = 1
    length_penalty: float = 0.0


def _on_numbers(
    architecture: str,
    options: Mapping[str, object],
    optimization: Optimization,
    bars: Mapping[str, float],
) -> TranslationRecipe:
    """Number and date words; the bars are exact matches of greedy search by test split."""
    return TranslationRecipe(
        architecture=architecture,
        dataset="number_corpus",
        options=options,
        optimization=optimization,
        vocabulary=800,  # of which the corpus fills 640: every word is then a token
        max_length=24,
        bars=tuple(
            at_least(
                f"{split}_exact_match", bound, baseline=f"{split}: exact_match of adapted example"
            )
            for split, bound in bars.items()
        ),
    )


def _on_sentences(
    architecture: str,
    dataset: str,
    options: Mapping[str, object],
    optimization: Optimization,
    bleu: float,
) -> TranslationRecipe:
    """Sentences of people, by beam search; the bar is BLEU on text as it was written."""
    return TranslationRecipe(
        architecture=architecture,
        dataset=dataset,
        options=options,
        optimization=optimization,
        vocabulary=10_000,
        max_length=80,
        label_smoothing=0.1,
        beam=5,
        length_penalty=0.6,
        bars=(at_least("test_bleu", bleu, baseline="test: bleu of word for word"),),
    )


# The smallest of fairseq's Transformers, with the rates and the dropout that Wu et al. 2021
# (arXiv:2105.14462) found best for Multi30k: larger ones do worse.
_SMALL_TRANSFORMER = {
    "model_size": 128,
    "layers": 4,
    "heads": 4,
    "feedforward_size": 256,
    "dropout": 0.3,
}
_NOAM = Optimization(
    epochs=70,
    batch_size=256,
    peak_learning_rate=0.005,
    betas=(0.9, 0.98),
    schedule="inverse_sqrt",
    warm_up_fraction=0.25,
)

RECIPES = (
    _on_numbers(
        "rnn-encoder-decoder",
        {"embedding_size": 48, "hidden_size": 128, "maxout_units": 64},
        Optimization(epochs=8, batch_size=64, peak_learning_rate=0.004, clip_norm=1.0),
        # All of a sentence has to pass through one vector, which shows where its parts are new:
        # on the combinations held out it does worse than an adapted example.
        {"test": 0.92, "range": 0.6},
    ),
    _on_numbers(
        "bahdanau",
        {"embedding_size": 48, "hidden_size": 64, "alignment_size": 64, "maxout_units": 64},
        Optimization(epochs=5, batch_size=64, peak_learning_rate=0.005, clip_norm=1.0),
        {"test": 0.99, "range": 0.99, "combination": 0.99},
    ),
    _on_numbers(
        "transformer",
        {
            "model_size": 48,
            "layers": 2,
            "heads": 4,
            "feedforward_size": 96,
            "dropout": 0.0,
            "pre_norm": True,
        },
        Optimization(
            epochs=10, batch_size=64, peak_learning_rate=0.004, betas=(0.9, 0.98), clip_norm=1.0
        ),
        {"test": 0.99, "range": 0.99, "combination": 0.99},
    ),
    _on_sentences(
        "rnn-encoder-decoder",
        "multi30k",
        {"embedding_size": 256, "hidden_size": 512, "maxout_units": 256, "dropout": 0.5},
        Optimization(epochs=25, batch_size=128, peak_learning_rate=0.001, clip_norm=1.0),
        bleu=17,
    ),
    _on_sentences(
        "bahdanau",
        "multi30k",
        {
            "embedding_size": 256,
            "hidden_size": 320,
            "alignment_size": 256,
            "maxout_units": 256,
            "dropout": 0.5,
        },
        Optimization(epochs=30, batch_size=128, peak_learning_rate=0.001, clip_norm=1.0),
        bleu=30,
    ),
    _on_sentences("transformer", "multi30k", _SMALL_TRANSFORMER, _NOAM, bleu=39),
    _on_sentences("transformer", "tatoeba", {**_SMALL_TRANSFORMER, "dropout": 0.1}, _NOAM, bleu=30),
)
