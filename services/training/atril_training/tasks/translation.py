"""Translation.

Dimensions: N pairs, B batch, S source positions, T target positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torch.nn import functional

from atril_common.tasks import TranslationTask
from atril_models import Network
from atril_models.translation import Search, SequenceToSequence, decode
from atril_training.datasets import PARALLEL_DATASETS, FileSource
from atril_training.datasets.parallel_text import Pair, ParallelDataset
from atril_training.export import Export
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.translation import TranslationRecipe
from atril_training.tasks.course import Course, DataFacts
from atril_training.tasks.translation_baselines import AdaptedExample, WordForWord
from atril_training.tasks.translation_exports import DECODER, ENCODER, EXPLAINER, export_parts
from atril_training.tokenization import BOS_ID, EOS_ID, PAD_ID, BytePairTokenizer

_EVALUATION_BATCH_SIZE = 100
_BATCHES_SORTED_TOGETHER = 20


class TranslationCourse(Course):
    """Teaches an encoder-decoder the translations of a set, and judges it by its own search."""

    def __init__(
        self, recipe: TranslationRecipe, dataset: ParallelDataset, tokenizer: BytePairTokenizer
    ) -> None:
        super().__init__(recipe)
        self.recipe: TranslationRecipe = recipe
        self.dataset = dataset
        self.tokenizer = tokenizer

    @classmethod
    def prepare(cls, recipe: TranslationRecipe, source: FileSource) -> Self:
        """Load the recipe's data, and learn the byte-pair encoding of what is learnt from."""
        dataset = PARALLEL_DATASETS[recipe.dataset](source)
        texts = (text for pair in dataset.train for text in pair)
        return cls(recipe, dataset, BytePairTokenizer.train(texts, recipe.vocabulary))

    @property
    def data(self) -> DataFacts:
        """The splits of the data set, and what its texts became."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": len(sets.train),
                "validation": len(sets.validation),
                **{name: len(pairs) for name, pairs in sets.tests.items()},
            },
            held_out=sets.held_out,
            notes={
                "languages": (sets.source_language, sets.target_language),
                "vocabulary": self.tokenizer.vocabulary,
                "bleu": bleu_signature(),
            },
        )

    @property
    def search(self) -> Search:
        """How the network is asked."""
        recipe = self.recipe
        return Search(
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            max_length=recipe.max_length,
            beam=recipe.beam,
            length_penalty=recipe.length_penalty,
        )

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many tokens as the encoding has."""
        return {**self.recipe.options, "vocabulary": self.tokenizer.vocabulary}

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Cross-entropy; the best epoch has most validation tokens right, then the lowest loss."""
        recipe = self.recipe
        objective = self.objective(translator(network))
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def objective(self, network: SequenceToSequence) -> "TranslationObjective":
        """What the network learns."""
        return TranslationObjective(network, self)

    def judge(self, network: Network) -> Mapping[str, float]:
        """Exact matches, BLEU and chrF of the searched translations of each test split."""
        return {
            f"{name}_{figure}": value
            for name, pairs in self.dataset.tests.items()
            for figure, value in agreement(
                self.translate(translator(network), [pair.source for pair in pairs]),
                [pair.target for pair in pairs],
            ).items()
        }

    def baselines(self) -> Mapping[str, float]:
        """Exact matches and BLEU of a dictionary, and of the nearest sentence adapted."""
        train = self.dataset.train
        methods: dict[str, Callable[[Sequence[str]], list[str]]] = {
            "word for word": WordForWord(train),
            "adapted example": AdaptedExample(train),
        }
        return {
            f"{name}: {figure} of {method}": value
            for name, pairs in self.dataset.tests.items()
            for method, translate in methods.items()
            for figure, value in agreement(
                translate([pair.source for pair in pairs]), [pair.target for pair in pairs]
            ).items()
        }

    def translate(self, network: SequenceToSequence, texts: Sequence[str]) -> list[str]:
        """The best translation of each text that the recipe's search finds."""
        rows = [self.encode(text) for text in texts]
        # Equal lengths side by side make short batches; the results come back in their places.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        found: dict[int, str] = {}
        for start in range(0, len(order), _EVALUATION_BATCH_SIZE):
            chosen = order[start : start + _EVALUATION_BATCH_SIZE]
            batch = padded([rows[index] for index in chosen], device_of(network))
            for index, hypotheses in zip(chosen, decode(network, *batch, self.search), strict=True):
                found[index] = self.tokenizer.decode(hypotheses[0].tokens)
        return [found[index] for index in range(len(rows))]

    def encode(self, text: str) -> list[int]:
        """A source's tokens with the end token; what is longer than the recipe allows is cut."""
        return [*self.tokenizer.encode(text)[: self.recipe.max_length - 1], EOS_ID]

    def exports(self, network: Network) -> tuple[Export, ...]:
        """Encoder, and one step of the decoder: with attention where it attends, and without."""
        sources = [self.encode(pair.source) for pair in self.dataset.tests["test"]]
        return export_parts(translator(network), sources, self.task(translator(network)))

    def task(self, network: SequenceToSequence) -> TranslationTask:
        """What a server must know to translate with the exported parts."""
        sets, recipe = self.dataset, self.recipe
        return TranslationTask(
            source_language=sets.source_language,
            target_language=sets.target_language,
            encoder_suffix=ENCODER,
            decoder_suffix=DECODER,
            explainer_suffix=EXPLAINER if network.contract.attends else None,
            tokenizer=self.tokenizer.to_json(),
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            max_source_length=recipe.max_length,
            max_target_length=recipe.max_length,
            beam=recipe.beam,
            length_penalty=recipe.length_penalty,
        )

    def with_shuffled_targets(self, seed: int) -> Self:
        """Every sentence to learn from, and to choose the epoch on, gets another's translation."""
        generator = np.random.default_rng(seed)
        train, validation = (
            tuple(
                Pair(pair.source, pairs[other].target)
                for pair, other in zip(pairs, generator.permutation(len(pairs)), strict=True)
            )
            for pairs in (self.dataset.train, self.dataset.validation)
        )
        dataset = replace(self.dataset, train=train, validation=validation)
        return type(self)(self.recipe, dataset, self.tokenizer)


class Batch(NamedTuple):
    """Pairs to learn from: sources [B, S] of these lengths, and targets [B, T] and what follows."""

    source: Tensor
    source_length: Tensor
    target: Tensor
    following: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Pairs as padded tensors where the network lies; their lengths are known here, too."""

    source: Tensor
    target: Tensor
    source_lengths: list[int]
    target_lengths: list[int]

    @classmethod
    def of(
        cls, pairs: Sequence[Pair], course: TranslationCourse, device: torch.device
    ) -> "_Tokens":
        longest = course.recipe.max_length
        encode = course.tokenizer.encode_all
        rows = [
            ([*source, EOS_ID], [*target, EOS_ID])
            for source, target in zip(
                encode([pair.source for pair in pairs]),
                encode([pair.target for pair in pairs]),
                strict=True,
            )
            if max(len(source), len(target)) < longest
        ]
        sources, targets = [source for source, _ in rows], [target for _, target in rows]
        return cls(
            padded(sources, device)[0],
            padded(targets, device)[0],
            [len(row) for row in sources],
            [len(row) for row in targets],
        )

    def __len__(self) -> int:
        return len(self.source_lengths)

    def batch(self, rows: Sequence[int]) -> Batch:
        device = self.source.device
        chosen = torch.tensor(rows, device=device)
        lengths = [self.source_lengths[row] for row in rows]
        following = self.target[chosen, : max(self.target_lengths[row] for row in rows)]
        target = functional.pad(following[:, :-1], (1, 0), value=BOS_ID)
        return Batch(
            self.source[chosen, : max(lengths)],
            torch.tensor(lengths, device=device),
            target,
            following,
        )


class TranslationObjective(Objective[Batch]):
    """Cross-entropy of each target token given those before it."""

    def __init__(self, network: SequenceToSequence, course: TranslationCourse) -> None:
        self.network = network
        self.recipe = course.recipe
        device = device_of(network)
        self.train = _Tokens.of(course.dataset.train, course, device)
        self.validation = _Tokens.of(course.dataset.validation, course, device)

    @property
    def steps(self) -> int:
        """What fills no batch is left out of the epoch."""
        return max(1, len(self.train) // self.recipe.optimization.batch_size)

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Pairs of about equal lengths, which are sought among a few batches at a time."""
        size = self.recipe.optimization.batch_size
        order = torch.randperm(len(self.train), generator=generator).tolist()[: self.steps * size]
        batches: list[list[int]] = []
        for start in range(0, len(order), size * _BATCHES_SORTED_TOGETHER):
            near = sorted(order[start : start + size * _BATCHES_SORTED_TOGETHER], key=self._lengths)
            batches += [near[first : first + size] for first in range(0, len(near), size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield self.train.batch(batches[index])

    def loss(self, batch: Batch) -> Tensor:
        """The mean over all tokens, in nats."""
        logits = self.network(batch.source, batch.source_length, batch.target)
        return functional.cross_entropy(
            logits.flatten(0, 1),
            batch.following.flatten(),
            ignore_index=PAD_ID,
            label_smoothing=self.recipe.label_smoothing,
        )

    def validate(self) -> Validation:
        """Tokens and whole targets that are right given what is before each token, and the loss.

        A target whose every token is right in this way is the one that greedy search finds.
        """
        loss, right_tokens, tokens, right = 0.0, 0, 0, 0
        order = sorted(range(len(self.validation)), key=self.validation.source_lengths.__getitem__)
        for start in range(0, len(order), _EVALUATION_BATCH_SIZE):
            batch = self.validation.batch(order[start : start + _EVALUATION_BATCH_SIZE])
            logits = self.network(batch.source, batch.source_length, batch.target)
            counted = batch.following != PAD_ID
            hit = (logits.argmax(-1) == batch.following) | ~counted
            loss += functional.cross_entropy(
                logits.flatten(0, 1),
                batch.following.flatten(),
                ignore_index=PAD_ID,
                reduction="sum",
            ).item()
            tokens += int(counted.sum())
            right_tokens += int((hit & counted).sum())
            right += int(hit.all(1).sum())
        figures = {
            "loss": loss / tokens,
            "token_accuracy": right_tokens / tokens,
            "exact_match": right / len(order),
        }
        return Validation((figures["token_accuracy"], -figures["loss"]), figures)

    def _lengths(self, row: int) -> tuple[int, int]:
        return self.train.source_lengths[row], self.train.target_lengths[row]


def translator(network: Network) -> SequenceToSequence:
    """The network as what it must be here."""
    if not isinstance(network, SequenceToSequence):
        raise TypeError(f"{type(network).__name__} does not translate")
    return network


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows padded on the right, int64 [B, S], and their lengths, int64 [B]."""
    tensors = [torch.tensor(row) for row in rows]
    tokens = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD_ID)
    return tokens.to(device), torch.tensor([len(row) for row in rows], device=device)


def agreement(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Share of translations equal to their references, corpus BLEU and chrF, of 100."""
    equal = sum(one == other for one, other in zip(translations, references, strict=True))
    return {
        "exact_match": equal / len(references),
        "bleu": float(BLEU().corpus_score(translations, [references]).score),
        "chrf": float(CHRF().corpus_score(translations, [references]).score),
    }


def bleu_signature() -> str:
    """How sacreBLEU counts here: Post 2018, arXiv:1804.08771."""
    bleu = BLEU()
    bleu.corpus_score(["one"], [["one"]])
    return str(bleu.get_signature())
