"""Courses that translate: what they learn, how they are judged, and what is exported."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from atril_common.errors import RefusedError
from atril_common.tasks import TranslationTask, read_task
from atril_models import Network
from atril_models.translation import Search, SequenceToSequence, decode
from atril_training.card import Judgement
from atril_training.composition import compose
from atril_training.configuration import model_config
from atril_training.datasets import ParallelDataset, file_source
from atril_training.datasets.number_corpus import date_pair
from atril_training.datasets.parallel_text import Pair
from atril_training.export import Export, export_graph
from atril_training.fitting import SilentReporter
from atril_training.parity import measure_parity
from atril_training.pipeline import judge_course, require_quality, train_course
from atril_training.recipes import RECIPES, Optimization, at_least
from atril_training.recipes.translation import TranslationRecipe
from atril_training.tasks import prepare
from atril_training.tasks.translation import (
    TranslationCourse,
    agreement,
    bleu_signature,
    padded,
    translator,
)
from atril_training.tasks.translation_baselines import AdaptedExample, WordForWord, pieces
from atril_training.tokenization import BOS_ID, EOS_ID, PAD_ID, BytePairTokenizer
from tests.support.exported_translator import ExportedTranslator

CPU = torch.device("cpu")
OPTIONS: dict[str, dict[str, object]] = {
    "rnn-encoder-decoder": {"embedding_size": 24, "hidden_size": 32, "maxout_units": 24},
    "bahdanau": {
        "embedding_size": 24,
        "hidden_size": 32,
        "alignment_size": 24,
        "maxout_units": 24,
    },
    "transformer": {
        "model_size": 32,
        "layers": 1,
        "heads": 4,
        "feedforward_size": 48,
        "dropout": 0.0,
    },
}


def _dates() -> ParallelDataset:
    """A thousand days of a century in the long form."""
    start = datetime.date(1950, 1, 1)
    days = np.random.default_rng(0).permutation(36_500)[:1000].tolist()
    pairs = [date_pair(start + datetime.timedelta(days=day), "long") for day in days]
    return ParallelDataset(
        name="dates",
        source_language="en",
        target_language="es",
        train=tuple(pairs[:800]),
        validation=tuple(pairs[800:900]),
        tests={"test": tuple(pairs[900:])},
        checksums={},
        held_out="days drawn at random",
    )


def _course(
    architecture: str, epochs: int, *, learnt_from: int = 800, **changes: object
) -> TranslationCourse:
    recipe = TranslationRecipe(
        architecture=architecture,
        dataset="number_corpus",
        options=OPTIONS[architecture],
        optimization=Optimization(
            epochs=epochs, batch_size=16, peak_learning_rate=0.01, clip_norm=1.0
        ),
        bars=(at_least("test_exact_match", 0.9, baseline="test: exact_match of word for word"),),
        vocabulary=400,
        max_length=20,
    )
    dataset = _dates()
    texts = (text for pair in dataset.train for text in pair)
    tokenizer = BytePairTokenizer.train(texts, recipe.vocabulary)
    dataset = replace(dataset, train=dataset.train[:learnt_from])
    return TranslationCourse(replace(recipe, **changes), dataset, tokenizer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def course() -> TranslationCourse:
    """Bahdanau's network on dates; tests must not change it."""
    return _course("bahdanau", 4)


@pytest.fixture(scope="module")
def trained(course: TranslationCourse) -> SequenceToSequence:
    """A finished training of a few seconds; tests must not change its network."""
    network, _training = train_course(course, SilentReporter(), "cpu")
    return translator(network)


@pytest.fixture(scope="module")
def judgement(course: TranslationCourse, trained: SequenceToSequence) -> Judgement:
    """How well it translates."""
    return judge_course(course, trained)


def test_a_short_training_meets_its_bar(course: TranslationCourse, judgement: Judgement) -> None:
    """Days that were never seen are translated exactly, and word for word they are not."""
    require_quality(course.recipe, judgement)
    assert judgement.figures["test_exact_match"] > 0.9
    assert judgement.figures["test_bleu"] > 95
    assert judgement.figures["test_chrf"] > 95


def test_the_bar_fails_with_shuffled_targets(course: TranslationCourse) -> None:
    """The same training on other sentences' translations misses the bar by far."""
    shuffled = course.with_shuffled_targets(0)
    network, _training = train_course(shuffled, SilentReporter(), "cpu")
    judgement = judge_course(shuffled, network)
    assert judgement.figures["test_exact_match"] < 0.1
    with pytest.raises(RefusedError, match="test_exact_match is 0"):
        require_quality(course.recipe, judgement)


def test_shuffling_deals_out_the_same_translations(course: TranslationCourse) -> None:
    """Only who gets which changes, and what it is judged with stays."""
    shuffled = course.with_shuffled_targets(0).dataset
    for ours, theirs in (
        (course.dataset.train, shuffled.train),
        (course.dataset.validation, shuffled.validation),
    ):
        assert [pair.source for pair in ours] == [pair.source for pair in theirs]
        assert sorted(pair.target for pair in ours) == sorted(pair.target for pair in theirs)
        assert ours != theirs
    assert shuffled.tests == course.dataset.tests


def test_translations_come_in_the_order_of_their_sources(
    course: TranslationCourse, trained: SequenceToSequence
) -> None:
    """Although they are searched in the order of their lengths."""
    texts = [pair.source for pair in course.dataset.tests["test"][:7]]
    together = course.translate(trained, texts)
    assert together == [course.translate(trained, [text])[0] for text in texts]
    assert together == course.translate(trained, texts[::-1])[::-1]


def test_validation_counts_what_greedy_search_finds() -> None:
    """Exact matches given the true tokens before each are those of searched translations."""
    short = _course("bahdanau", 3)
    network, training = train_course(short, SilentReporter(), "cpu")
    (fit,) = training.fits
    claimed = fit.epochs[fit.best_epoch - 1].validation["exact_match"]
    pairs = short.dataset.validation
    found = short.translate(translator(network), [pair.source for pair in pairs])
    assert claimed == agreement(found, [pair.target for pair in pairs])["exact_match"]
    assert 0 < claimed < 1


def test_the_same_seed_gives_the_same_weights() -> None:
    """Bit for bit, and another seed other ones."""
    networks: list[Network] = []
    for seed in (0, 0, 1):
        course = _course("transformer", 1, learnt_from=160, seed=seed)
        networks.append(train_course(course, SilentReporter(), "cpu")[0])
    one, same, other = (network.state_dict() for network in networks)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_has_every_pair_once_under_teacher_forcing(course: TranslationCourse) -> None:
    """Batches of equal size; the target is what follows, one later, after the begin token."""
    objective = course.objective(translator(course.build()))
    generator = torch.Generator().manual_seed(0)
    seen: list[tuple[int, ...]] = []
    for batch in objective.batches(generator):
        assert len(batch.source) == 16
        assert batch.source.shape[1] == batch.source_length.max()
        assert (batch.target[:, 0] == BOS_ID).all()
        assert torch.equal(batch.target[:, 1:], batch.following[:, :-1])
        assert (batch.following != PAD_ID).any(0).all()
        for row, length in zip(batch.source, batch.source_length, strict=True):
            assert row[length - 1] == EOS_ID
            assert (row[length:] == PAD_ID).all()
            seen.append(tuple(row[:length].tolist()))
    expected = [tuple(course.encode(pair.source)) for pair in course.dataset.train]
    assert sorted(seen) == sorted(expected)


def test_batches_are_of_about_equal_lengths(course: TranslationCourse) -> None:
    """Fewer than a tenth of the source positions are padding."""
    objective = course.objective(translator(course.build()))
    batches = list(objective.batches(torch.Generator().manual_seed(0)))
    positions = sum(batch.source.numel() for batch in batches)
    assert sum(int(batch.source_length.sum()) for batch in batches) > 0.9 * positions


def test_pairs_too_long_are_not_learnt_from() -> None:
    """With room for 11 tokens only, longer sources and targets stay outside."""
    short = _course("transformer", 1, max_length=11)
    encode = short.tokenizer.encode
    fitting = [p for p in short.dataset.train if max(len(encode(t)) for t in p) < 11]
    assert 0 < len(fitting) < len(short.dataset.train)
    objective = short.objective(translator(short.build()))
    assert objective.steps == len(fitting) // 16


def test_sources_too_long_are_cut(course: TranslationCourse) -> None:
    """What is asked for never exceeds what was learnt, and ends with the end token."""
    tokens = course.encode("March " * 100)
    assert len(tokens) == course.recipe.max_length
    assert tokens[-1] == EOS_ID


def test_label_smoothing_changes_the_loss_by_its_definition() -> None:
    """(1 - e) times the cross-entropy plus e times the mean over all tokens, padding left out."""
    plain, smooth = (_course("transformer", 1, label_smoothing=e) for e in (0.0, 0.1))
    torch.manual_seed(0)
    network = translator(plain.build()).eval()
    losses = []
    for one in (plain, smooth):
        objective = one.objective(network)
        batch = next(iter(objective.batches(torch.Generator().manual_seed(0))))
        with torch.no_grad():
            losses.append(objective.loss(batch).item())
            logits = network(batch.source, batch.source_length, batch.target)
    counted = batch.following != PAD_ID
    log_probabilities = torch.log_softmax(logits, -1)
    truth = -log_probabilities.gather(-1, batch.following[..., None]).squeeze(-1)[counted].mean()
    uniform = -log_probabilities.mean(-1)[counted].mean()
    assert losses[0] == pytest.approx(truth.item(), rel=1e-5)
    assert losses[1] == pytest.approx((0.9 * truth + 0.1 * uniform).item(), rel=1e-5)


@pytest.fixture(scope="module", params=list(OPTIONS))
def exported(request: pytest.FixtureRequest) -> tuple[TranslationCourse, Network, list[Export]]:
    """Each network, barely trained, with its exports."""
    course = _course(request.param, 1, learnt_from=160)
    network, _training = train_course(course, SilentReporter(), "cpu")
    return course, network, list(course.exports(network))


@pytest.fixture(scope="module")
def graphs(exported: tuple[TranslationCourse, Network, list[Export]]) -> dict[str, bytes]:
    """Its files by suffix."""
    return {export.suffix: export_graph(export) for export in exported[2]}


def test_every_part_is_published(
    exported: tuple[TranslationCourse, Network, list[Export]],
) -> None:
    """Encoder, explaining step where there is attention, the step, and the whole of them."""
    course, network, exports = exported
    contract = translator(network).contract
    explainer = ["-explainer"] if contract.attends else []
    assert [export.suffix for export in exports] == ["-encoder", *explainer, "-decoder"]
    assert [export.task is None for export in exports] == [True] * (len(exports) - 1) + [False]
    task = exports[-1].task
    assert isinstance(task, TranslationTask)
    assert task.explainer_suffix == (explainer[0] if explainer else None)
    tokenizer = BytePairTokenizer.from_json(task.tokenizer)
    assert tokenizer.encode("March 3, 2021") == course.tokenizer.encode("March 3, 2021")
    config = model_config("dates-decoder", exports[-1])
    assert [value.name for value in config.input] == [s.name for s in contract.decoder_inputs]
    assert read_task(config) is None

    whole = compose("dates", exports)
    assert whole is not None
    assert (whole.config.name, whole.config.backend) == ("dates", "atril")
    assert read_task(whole.config) == task
    assert {name: exports[place].suffix for name, place in whole.files.items()} == {
        "encoder.onnx": "-encoder",
        "decoder.onnx": "-decoder",
        **({"explainer.onnx": "-explainer"} if explainer else {}),
    }


def test_every_part_agrees_with_torch(
    exported: tuple[TranslationCourse, Network, list[Export]], graphs: dict[str, bytes]
) -> None:
    """Within 1e-4 at several batch sizes, lengths and rooms; the likeliest token is the same."""
    for export in exported[2]:
        record = measure_parity(export, graphs[export.suffix])
        assert record.failures() == ()
        sizes = [case.sizes for case in record.cases]
        assert {size["batch"] for size in sizes} == {1, 7, 64}
        if export.suffix != "-encoder":
            agreements = [o.argmax_agreement for case in record.cases for o in case.outputs]
            assert agreements.count(1.0) == len(record.cases)


def test_the_graphs_free_dimensions_are_those_of_the_contract(
    exported: tuple[TranslationCourse, Network, list[Export]], graphs: dict[str, bytes]
) -> None:
    """Batch, source and cache are free in the file itself, and no other dimension is."""
    for export in exported[2]:
        graph = onnx.load_from_string(graphs[export.suffix]).graph
        for value, spec in zip(
            (*graph.input, *graph.output), (*export.inputs, *export.outputs), strict=True
        ):
            dims = value.type.tensor_type.shape.dim
            free = [bool(dim.dim_param) for dim in dims]
            assert free == [isinstance(dim, str) for dim in spec.dims], value.name


def test_the_step_only_multiplies_with_caches(
    exported: tuple[TranslationCourse, Network, list[Export]], graphs: dict[str, bytes]
) -> None:
    """No node copies, transposes or extends a cache, nor what a Transformer's encoder gives."""
    contract = translator(exported[1]).contract
    kept = {spec.name for spec in contract.caches}
    kept |= {spec.name for spec in contract.memory if contract.caches}
    nodes = onnx.load_from_string(graphs["-decoder"]).graph.node
    users = {node.op_type for node in nodes if kept.intersection(node.input)}
    assert users == ({"MatMul", "Shape"} if contract.caches else set())


@pytest.mark.parametrize("beam", [1, 4])
def test_the_exported_graphs_translate_as_torch_does(
    exported: tuple[TranslationCourse, Network, list[Export]], graphs: dict[str, bytes], beam: int
) -> None:
    """Every token and every score of the n-best lists, also for sources longer than any traced."""
    course, network, _exports = exported
    torch_model = translator(network)
    model = ExportedTranslator(torch_model.contract, graphs["-encoder"], graphs["-decoder"])
    texts = [pair.source for pair in course.dataset.tests["test"][:20]]
    rows = [*map(course.encode, texts), [EOS_ID], [*course.tokenizer.encode(" ".join(texts[:4]))]]
    search = Search(
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        max_length=40,
        beam=beam,
        length_penalty=0.6,
        n_best=beam,
    )
    expected = decode(torch_model, *padded(rows, CPU), search)
    found = decode(model, *padded(rows, CPU), search)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        assert [o.score for o in ours] == pytest.approx([o.score for o in theirs], abs=1e-4)


def test_the_explaining_graph_shows_where_it_looked(
    exported: tuple[TranslationCourse, Network, list[Export]], graphs: dict[str, bytes]
) -> None:
    """The same tokens as without, and attention that is a distribution over the source."""
    course, network, _exports = exported
    contract = translator(network).contract
    if not contract.attends:
        assert "-explainer" not in graphs
        return
    batch = padded([course.encode(p.source) for p in course.dataset.tests["test"][:5]], CPU)
    search = Search(bos_id=BOS_ID, eos_id=EOS_ID, max_length=20)
    plain = ExportedTranslator(contract, graphs["-encoder"], graphs["-decoder"])
    explaining = ExportedTranslator(
        contract, graphs["-encoder"], graphs["-explainer"], explain=True
    )
    expected = decode(plain, *batch, search)
    found = decode(explaining, *batch, replace(search, explain=True))
    for (one,), (other,) in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert len(one.attention) == len(one.tokens) + one.finished
        assert np.sum(one.attention, axis=1) == pytest.approx(1, abs=1e-5)


def test_default_recipes_are_on_the_generated_corpus() -> None:
    """All three architectures train from what is installed, with a bar on what was held out."""
    for architecture in OPTIONS:
        first = next(recipe for key, recipe in RECIPES.items() if key[0] == architecture)
        assert first.dataset == "number_corpus"
        assert {bar.metric for bar in first.bars} >= {"test_exact_match", "range_exact_match"}


def test_the_default_courses_fit_their_networks() -> None:
    """Every pair of the corpus is short enough, and the vocabulary is that of the encoding."""
    course = prepare(RECIPES["transformer", "number_corpus"], file_source(Path("not read")))
    assert isinstance(course, TranslationCourse)
    for architecture in OPTIONS:
        recipe = RECIPES[architecture, "number_corpus"]
        assert isinstance(recipe, TranslationRecipe)
        assert recipe.vocabulary == course.recipe.vocabulary
        network = TranslationCourse(recipe, course.dataset, course.tokenizer).build()
        assert translator(network).contract.vocabulary == course.tokenizer.vocabulary
    pairs = (*course.dataset.train, *(p for split in course.dataset.tests.values() for p in split))
    longest = max(len(ids) for ids in course.tokenizer.encode_all([t for p in pairs for t in p]))
    assert longest < course.recipe.max_length
    assert course.data.examples == {
        "train": 12_000,
        "validation": 500,
        "test": 400,
        "range": 400,
        "combination": 400,
    }


def test_agreement_counts_exact_translations_and_corpus_bleu() -> None:
    """Equal texts give 1 and 100; one of two equal gives a half, and BLEU between."""
    assert agreement(["a b c d", "e f g h"], ["a b c d", "e f g h"]) == {
        "exact_match": 1.0,
        "bleu": pytest.approx(100),
        "chrf": pytest.approx(100),
    }
    half = agreement(["a b c d", "e f"], ["a b c d", "e f g h"])
    assert half["exact_match"] == 0.5
    assert 0 < half["bleu"] < 100
    assert "tok:13a" in bleu_signature()


def test_word_for_word_takes_the_word_that_comes_with_another() -> None:
    """Frequent words do not crowd out the right ones, and unknown ones stay."""
    pairs = [Pair("the cat", "el gato"), Pair("the dog", "el perro"), Pair("a dog", "un perro")]
    assert WordForWord(pairs)(["a cat, the bird"]) == ["un gato, el bird"]


def test_an_example_is_adapted_where_it_differs() -> None:
    """The nearest sentence's translation with the differing words exchanged: most dates."""
    dates = _dates()
    translate = AdaptedExample(dates.train)
    pairs = dates.tests["test"]
    found = translate([pair.source for pair in pairs])
    assert agreement(found, [pair.target for pair in pairs])["exact_match"] > 0.9


def test_an_example_of_another_length_stays_as_it_is() -> None:
    """There is nothing to tell which of its words to exchange."""
    pairs = [Pair("March 3, 2021", "3 de marzo de 2021"), Pair("zero", "cero")]
    assert AdaptedExample(pairs)(["in March 2021"]) == ["3 de marzo de 2021"]


def test_pieces_joined_are_the_text() -> None:
    """Words, blanks and marks, nothing lost."""
    text = "Twenty-one  thousand, ¿qué?\n"
    assert pieces(text) == [
        "Twenty", "-", "one", "  ", "thousand", ",", " ", "¿", "qué", "?", "\n",
    ]  # fmt: skip
    assert "".join(pieces(text)) == text
