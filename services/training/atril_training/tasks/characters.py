"""Models of running text, character by character.

Dimensions: N characters of a text, B batch, T characters of a window, V of the alphabet, P room
for past positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atril_common.tasks import CompletionTask
from atril_models import Network
from atril_models.recurrent.char_transformer import CharacterTransformer, CharacterTransformerStep
from atril_models.recurrent.language_model import CharacterModel, CharacterStep
from atril_models.recurrent.one_step import CACHE, OneStep
from atril_training.baselines.ngrams import NGramModel
from atril_training.datasets import TEXT_DATASETS, FileSource, TextDataset
from atril_training.export import BATCH_DIMENSION, Export, OutputSpec, ParityCase, TensorSpec
from atril_training.fitting import Fit, Objective, Reporter, Validation, device_of, fit
from atril_training.recipes.sequential import TextRecipe
from atril_training.tasks.course import Course, DataFacts

TOKENS, TOKEN, LOGITS = "tokens", "token", "logits"
LENGTH_DIMENSION, PAST_DIMENSION = "length", "past"
STEP = "-step"
"""Suffix of the graph that takes one character at a time."""

_TRACED_LENGTH, _TRACED_ROOM = 4, 3
_BATCH_SIZES = (1, 7, 32)
_READ_AT_ONCE = 2_048
"""Characters of a long text that a recurrent network reads at a time, its state carried on."""
_WINDOWS_AT_ONCE = 64


class TextCourse(Course):
    """Teaches a network to predict each next character of a text."""

    def __init__(
        self, recipe: TextRecipe, dataset: TextDataset, shuffle_seed: int | None = None
    ) -> None:
        super().__init__(recipe)
        self.recipe: TextRecipe = recipe
        self.dataset = dataset
        self.shuffle_seed = shuffle_seed

    @classmethod
    def prepare(cls, recipe: TextRecipe, source: FileSource) -> "TextCourse":
        """Load the recipe's text."""
        return cls(recipe, TEXT_DATASETS[recipe.dataset](source))

    @property
    def data(self) -> DataFacts:
        """The parts of the text; the examples are characters."""
        sets = self.dataset
        return DataFacts(
            name=sets.name,
            checksums_sha256=sets.checksums,
            examples={
                "train": len(sets.train),
                "validation": len(sets.validation),
                **{name: len(text) for name, text in sets.tests.items()},
            },
            held_out=sets.held_out,
            notes={"alphabet": sets.alphabet, "entropy_nats": dict(sets.entropy_nats)},
        )

    def options(self) -> Mapping[str, object]:
        """The recipe's, and as many characters as the text has different ones."""
        return {**self.recipe.options, "vocabulary": len(self.dataset.alphabet)}

    def train(self, network: Network, reporter: Reporter) -> tuple[Fit, ...]:
        """Cross-entropy on windows of the text; the validation text's decides."""
        objective = _NextCharacter(network, self)
        recipe = self.recipe
        return (fit(network, objective, recipe.optimization, reporter, seed=recipe.seed),)

    def judge(self, network: Network) -> Mapping[str, float]:
        """Nats a character on each test text, and the share of characters told right."""
        return {
            f"{name}_{figure}": value
            for name, text in self.dataset.tests.items()
            for figure, value in read_text(network, self.tokens(text)).items()
        }

    def baselines(self) -> Mapping[str, float]:
        """Nats a character by n-grams, of the order that is best on the validation text."""
        most = self.recipe.most_grams
        sets = self.dataset
        grams = NGramModel(self.tokens(sets.train).tolist(), len(sets.alphabet), most)
        validation = self.tokens(sets.validation).tolist()
        best = min(range(1, most + 1), key=lambda n: grams.cross_entropy(validation, n))
        orders = {"single characters": 1, "pairs": 2, "best n-grams": best}
        return {
            f"{name}: {title}": grams.cross_entropy(self.tokens(text).tolist(), order)
            for name, text in sets.tests.items()
            for title, order in orders.items()
        }

    def tokens(self, text: str) -> Tensor:
        """Places in the alphabet, [N]."""
        return torch.from_numpy(self.dataset.tokens(text))

    def exports(self, network: Network) -> tuple[Export, ...]:
        """One character at a time, and a whole text of any length that the network can read."""
        text = self.tokens(next(iter(self.dataset.tests.values())))
        form = _form_of(network)
        whole = Export(
            module=network,
            inputs=(TensorSpec(TOKENS, (BATCH_DIMENSION, LENGTH_DIMENSION), torch.int64),),
            outputs=(
                OutputSpec(
                    LOGITS,
                    (BATCH_DIMENSION, LENGTH_DIMENSION, len(self.dataset.alphabet)),
                    same_argmax=True,
                ),
            ),
            example=(_windows(text, 2, _TRACED_LENGTH),),
            cases=tuple(
                ParityCase(
                    {BATCH_DIMENSION: batch, LENGTH_DIMENSION: length},
                    [(_windows(text, batch, length),)],
                )
                for length in (self.recipe.window, 1, self.recipe.window // 2)
                for batch in _BATCH_SIZES
            ),
            task=CompletionTask(
                alphabet=self.dataset.alphabet,
                output=LOGITS,
                step_suffix=STEP,
                context=form.context,
            ),
        )
        return (form.step_export(text), whole)

    def with_shuffled_targets(self, seed: int) -> "TextCourse":
        """What follows a character to learn from is what follows another one."""
        return TextCourse(self.recipe, self.dataset, shuffle_seed=seed)


class _NextCharacter(Objective[tuple[Tensor, Tensor]]):
    """Cross-entropy of the character after each, in windows drawn anywhere in the text."""

    def __init__(self, network: Network, course: TextCourse) -> None:
        self.network = network
        device = device_of(network)
        text = course.tokens(course.dataset.train)
        following = text[1:]
        if course.shuffle_seed is not None:
            order = np.random.default_rng(course.shuffle_seed).permutation(len(following))
            following = following[torch.from_numpy(order)]
        self.text, self.following = text[:-1].to(device), following.to(device)
        self.validation = course.tokens(course.dataset.validation)
        self.window = course.recipe.window
        self.batch_size = course.recipe.optimization.batch_size

    @property
    def steps(self) -> int:
        """As many as would cover the text once."""
        return max(1, len(self.text) // (self.window * self.batch_size))

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Characters and those after them, [B, T] each."""
        device = self.text.device
        offsets = torch.arange(self.window, device=device)
        for _ in range(self.steps):
            starts = torch.randint(
                len(self.text) - self.window + 1, (self.batch_size, 1), generator=generator
            )
            places = starts.to(device) + offsets
            yield self.text[places], self.following[places]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean in nats a character."""
        tokens, following = batch
        logits: Tensor = self.network(tokens)
        return functional.cross_entropy(logits.flatten(0, 1), following.flatten())

    def validate(self) -> Validation:
        """The loss on the validation text decides."""
        figures = read_text(self.network, self.validation)
        return Validation((-figures["nats"],), figures)


def read_text(network: Network, tokens: Tensor) -> dict[str, float]:
    """Mean loss in nats, and the share of characters that were thought the likeliest.

    A recurrent network reads the text from its beginning to its end. A Transformer reads it in
    windows of its context that overlap by half, so that every character but the first ones is told
    from at least half a context. Its `window_nats` are those of windows that do not overlap, where
    a character has between none and all of the context before it: what is measured on random
    windows too, but for chance.

    Shape: tokens [N].
    """
    form = _form_of(network)
    with torch.no_grad():
        return form.read(tokens.to(device_of(network)))


_Model = TypeVar("_Model", CharacterModel, CharacterTransformer)


class _Form(ABC, Generic[_Model]):
    """What differs between the two kinds of networks."""

    def __init__(self, model: _Model) -> None:
        self.model: _Model = model

    @property
    @abstractmethod
    def context(self) -> int | None:
        """The most characters that can be read."""

    @abstractmethod
    def step_export(self, text: Tensor) -> Export:
        """The graph of one character at a time, compared on steps into a real text."""

    @abstractmethod
    def read(self, tokens: Tensor) -> dict[str, float]:
        """See `read_text`."""


class _Recurrent(_Form[CharacterModel]):
    @property
    def context(self) -> None:
        return None

    def read(self, tokens: Tensor) -> dict[str, float]:
        state = None
        tally = _Tally()
        for start in range(0, len(tokens) - 1, _READ_AT_ONCE):
            part = tokens[None, start : start + _READ_AT_ONCE + 1]
            logits, state = self.model.read(part[:, :-1], state)
            tally.add(logits, part[:, 1:])
        return tally.figures()

    def step_export(self, text: Tensor) -> Export:
        step = CharacterStep(self.model).eval()
        cases = []
        for batch in _BATCH_SIZES:
            inputs = step.example_inputs(batch)
            batches = []
            for token in _windows(text, batch, _TRACED_LENGTH).unbind(1):
                inputs = (token, *inputs[1:])
                batches.append(inputs)
                with torch.no_grad():
                    inputs = (token, *step(*inputs)[1:])
            cases.append(ParityCase({BATCH_DIMENSION: batch}, batches))
        return _step_export(step, cases[1].batches[-1], tuple(cases))


class _Attending(_Form[CharacterTransformer]):
    @property
    def context(self) -> int:
        context: int = self.model.context
        return context

    def read(self, tokens: Tensor) -> dict[str, float]:
        half = max(1, self.context // 2)
        apart = self._read_windows(tokens, self.context)
        return {**self._read_windows(tokens, half), "window_nats": apart["nats"]}

    def _read_windows(self, tokens: Tensor, stride: int) -> dict[str, float]:
        """Windows this far apart; of each the characters that were not in the one before."""
        tally = _Tally()
        count = len(tokens) - 1
        length = min(self.context, count)
        known = max(0, length - stride)  # of a window's characters, what the one before had too
        given, following = (
            part.unfold(0, length, stride) for part in (tokens[:-1], tokens[1:])
        )  # [windows, length]
        for start in range(0, len(given), _WINDOWS_AT_ONCE):
            rows = slice(start, start + _WINDOWS_AT_ONCE)
            logits, targets = self.model(given[rows]), following[rows]
            if start == 0:
                tally.add(logits[0, :known], targets[0, :known])
            tally.add(logits[:, known:], targets[:, known:])
        rest = count - (length + (len(given) - 1) * stride)
        if rest:
            last = self.model(tokens[None, -rest - known - 1 : -1])
            tally.add(last[:, known:], tokens[None, -rest:])
        return tally.figures()

    def step_export(self, text: Tensor) -> Export:
        step = CharacterTransformerStep(self.model).eval()
        cases = tuple(
            ParityCase(
                {BATCH_DIMENSION: batch, PAST_DIMENSION: room},
                self._steps(step, _windows(text, batch, room + 1), room),
            )
            for room in (self.context - 1, 1, 5)
            for batch in _BATCH_SIZES
        )
        example = self._steps(step, _windows(text, 2, _TRACED_ROOM + 1), _TRACED_ROOM)[-1]
        return _step_export(step, example, cases)

    def _steps(
        self, step: CharacterTransformerStep, tokens: Tensor, room: int
    ) -> list[tuple[Tensor, ...]]:
        """The first and the last step that caches of this room allow."""
        batch = len(tokens)
        heads, channels = self.model.cache_shape
        caches = [torch.zeros(batch, heads, room, channels) for _ in step.input_names[3:]]
        steps: list[tuple[Tensor, ...]] = []
        for position, token in enumerate(tokens.unbind(1)):
            place = torch.full((batch,), position)
            inputs = (token, place, place, *(cache.clone() for cache in caches))
            if position in (0, room):
                steps.append(inputs)
            if position < room:
                with torch.no_grad():
                    updates = step(*inputs)[1:]
                for cache, update in zip(caches, updates, strict=True):
                    cache[:, :, position : position + 1] = update
        return steps


class _Tally:
    """Losses and right answers, added up over parts of a text."""

    def __init__(self) -> None:
        self.loss, self.right, self.count = 0.0, 0, 0

    def add(self, logits: Tensor, following: Tensor) -> None:
        """Logits [..., V] and the characters that follow, [...]."""
        rows, targets = logits.flatten(0, -2), following.flatten()
        self.loss += functional.cross_entropy(rows, targets, reduction="sum").item()
        self.right += int((rows.argmax(dim=1) == targets).sum())
        self.count += len(targets)

    def figures(self) -> dict[str, float]:
        """Their means."""
        return {"nats": self.loss / self.count, "accuracy": self.right / self.count}


def _form_of(network: Network) -> "_Recurrent | _Attending":
    if isinstance(network, CharacterTransformer):
        return _Attending(network)
    assert isinstance(network, CharacterModel)
    return _Recurrent(network)


def _windows(text: Tensor, batch: int, length: int) -> Tensor:
    """So many windows of this length from all over the text, [B, T]."""
    starts = torch.linspace(0, len(text) - length, batch).long()
    return torch.stack([text[start : start + length] for start in starts])


def _step_export(
    step: OneStep, example: tuple[Tensor, ...], cases: tuple[ParityCase, ...]
) -> Export:
    with torch.no_grad():
        answers = step(*example)
    return Export(
        module=step,
        inputs=tuple(
            TensorSpec(name, _dims(name, tensor), tensor.dtype)
            for name, tensor in zip(step.input_names, example, strict=True)
        ),
        outputs=tuple(
            OutputSpec(name, (BATCH_DIMENSION, *tensor.shape[1:]), same_argmax=name == LOGITS)
            for name, tensor in zip(step.output_names, answers, strict=True)
        ),
        example=example,
        cases=cases,
        suffix=STEP,
    )


def _dims(name: str, tensor: Tensor) -> tuple[int | str, ...]:
    dims: list[int | str] = [BATCH_DIMENSION, *tensor.shape[1:]]
    if name.startswith(CACHE) and tensor.dim() > 1:
        dims[2] = PAST_DIMENSION
    return tuple(dims)
