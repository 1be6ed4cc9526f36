"""From a published FP32 model to its variants: convert, judge, compare, publish."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import orjson
import torch

from atril_common.errors import InvalidInputError, NotFoundError, RefusedError
from atril_common.repository import CARD_FILE, MODEL_FILE
from atril_training.card import Metric, Proof, card_of_graph
from atril_training.catalogue.cards import latest_card
from atril_training.configuration import model_config
from atril_training.datasets import FileSource
from atril_training.export import Export, batch_cases, check_graph
from atril_training.fitting import deterministic
from atril_training.graphs import Graph, GraphCourse, Graphs
from atril_training.pipeline import prove
from atril_training.provenance import code_version, package_versions
from atril_training.publication import Publication, publish_together
from atril_training.recipes import find_recipe
from atril_training.recipes.recipe import QualityBar, Recipe, figure_text
from atril_training.recipes.variants import Loss, Precision, VariantBars
from atril_training.tasks import prepare
from atril_training.variants.conversion import QUANTIZED_OPERATORS, to_float16, to_int8

CALIBRATION_EXAMPLES = 320
PARITY_EXAMPLES = 1000

FP32 = "FP32"


@dataclass(frozen=True, slots=True, eq=False)
class PublishedVariant:
    """A variant that was published; `paths` are the folders of the versions, the whole's last."""

    precision: Precision
    paths: tuple[Path, ...]
    metrics: tuple[Metric, ...]
    proofs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Original:
    """A published FP32 model: its newest version, and all graphs of it."""

    name: str
    version: int
    card: Mapping[str, Any]
    course: GraphCourse
    exports: tuple[Export, ...]
    files: Mapping[str, bytes]
    graphs: Graphs


def publish_variants(
    model_name: str, precisions: Sequence[Precision], *, repository: Path, source: FileSource
) -> tuple[PublishedVariant, ...]:
    """Publish variants of the newest version of a model, each as the next version of its own name.

    Args:
        model_name: of the FP32 model; the variants are `<model_name>-<precision>`.
        precisions: which variants; the recipe of the model has the bars of each.
        repository: where the model is, and the variants are published.
        source: where the files of the data set come from.

    Raises:
        NotFoundError: the repository has no such model.
        RefusedError: the recipe has no such variant, the files or the data are not those of the
            card, or a variant loses more than its bars allow; of that one, and those after it,
            nothing was published.
    """
    if not precisions:
        return ()
    original = _open(model_name, repository, source)
    check_variants(original.course.recipe, precisions)
    bars = {bar.precision: bar for bar in original.course.recipe.variants}
    recipe = original.course.recipe
    with deterministic(recipe.seed, recipe.threads), torch.no_grad():
        fp32 = original.course.judge_graphs(original.graphs)
        return tuple(
            _publish(original, fp32, bars[precision], repository) for precision in precisions
        )


def check_variants(recipe: Recipe, precisions: Sequence[Precision]) -> None:
    """Check that a recipe has bars for variants: worth doing before hours of training.

    Raises:
        RefusedError: it has none for one of them; the text says which it has.
    """
    known = [bars.precision for bars in recipe.variants]
    for precision in precisions:
        if precision not in known:
            raise RefusedError(
                f"the recipe {recipe.title} has no variant '{precision}'; it has "
                f"{', '.join(known) or 'none'}"
            )


def _open(model_name: str, repository: Path, source: FileSource) -> _Original:
    found = latest_card(repository, model_name)
    if found is None:
        raise NotFoundError(f"{repository} has no model '{model_name}' with a card")
    version, card = found
    if "variant" in card:
        raise RefusedError(f"'{model_name}' is a variant of '{card['variant']['of']['model']}'")
    try:
        recipe = find_recipe(card["architecture"], card["recipe"]["dataset"])
    except (KeyError, TypeError) as err:
        raise InvalidInputError(f"the card of '{model_name}' has no recipe: {err}") from err
    course = prepare(recipe, source)
    if not isinstance(course, GraphCourse):
        raise RefusedError(f"the recipe {recipe.title} has no variants")
    if dict(course.data.checksums_sha256) != card["data"]["checksums_sha256"]:
        raise RefusedError(
            f"the data of '{model_name}' are not those of its card: a variant is judged on the "
            f"same test split"
        )
    with deterministic(recipe.seed, recipe.threads):
        exports = course.exports(course.build().eval())
    files = {
        export.suffix: _read(repository / (model_name + export.suffix) / str(version))
        for export in exports
    }
    graphs = {suffix: Graph.load(content) for suffix, content in files.items()}
    return _Original(model_name, version, card, course, exports, files, graphs)


def _read(folder: Path) -> bytes:
    """The model file of a version, which must be the one that its card tells of."""
    try:
        content = (folder / MODEL_FILE).read_bytes()
        expected = orjson.loads((folder / CARD_FILE).read_bytes())["files_sha256"][MODEL_FILE]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as err:
        raise RefusedError(f"{folder} is not a published version: {err!r}") from err
    if hashlib.sha256(content).hexdigest() != expected:
        raise RefusedError(f"{folder / MODEL_FILE} is not the file that its card tells of")
    return content


def _publish(
    original: _Original, fp32: Mapping[str, float], bars: VariantBars, repository: Path
) -> PublishedVariant:
    name = f"{original.name}-{bars.precision}"
    converted = _convert(original, bars.precision)
    figures = original.course.judge_graphs({s: Graph.load(c) for s, c in converted.items()})
    metrics = tuple(_metric(loss, figures, fp32) for loss in bars.losses)
    exports = _comparisons(original, bars)
    proofs = tuple(prove(export, converted[export.suffix]) for export in exports)
    failures = [
        *(text for metric in metrics for text in _losses(metric)),
        *(
            f"{name}{export.suffix}: {text}"
            for export, proof in zip(exports, proofs, strict=True)
            for text in proof.parity.failures(bars.argmax_agreement)
        ),
    ]
    if failures:
        raise RefusedError(f"{name} loses too much: {'; '.join(failures)}; it was not published")
    card = _card(original, bars, figures, fp32, metrics)
    names = [name + export.suffix for export in exports]
    publications = [
        Publication(
            model_config(own_name, export),
            export.labels,
            {MODEL_FILE: converted[export.suffix]},
            card_of_graph(card, proof, name, names),
        )
        for own_name, export, proof in zip(names, exports, proofs, strict=True)
    ]
    return PublishedVariant(
        bars.precision, publish_together(publications, repository), metrics, proofs
    )


def _convert(original: _Original, precision: Precision) -> dict[str, bytes]:
    """Every graph of the model in another precision, by suffix.

    Raises:
        RefusedError: a converted graph is not valid, or has other inputs or outputs.
    """
    if precision is Precision.FP16:
        converted = {suffix: to_float16(content) for suffix, content in original.files.items()}
    else:
        inputs = original.course.graph_inputs(original.graphs, "train", CALIBRATION_EXAMPLES)
        converted = {
            suffix: to_int8(content, inputs[suffix].numpy())
            for suffix, content in original.files.items()
        }
    for export in original.exports:
        model = onnx.load_model_from_string(converted[export.suffix])
        check_graph(model, export.inputs, export.outputs)
    return converted


def _metric(loss: Loss, figures: Mapping[str, float], fp32: Mapping[str, float]) -> Metric:
    reference = fp32[loss.metric]
    bar = QualityBar(
        metric=loss.metric, bound=loss.bound(reference), better=loss.better, baseline=FP32
    )
    return Metric(loss.metric, figures[loss.metric], bar, reference)


def _comparisons(original: _Original, bars: VariantBars) -> tuple[Export, ...]:
    """What was published, as something to compare a variant with: the FP32 graph is the module."""
    inputs = original.course.graph_inputs(original.graphs, "test", PARITY_EXAMPLES)
    comparisons = []
    for export in original.exports:
        graph, tensor = original.graphs[export.suffix], inputs[export.suffix]
        largest = [float(answer.abs().max()) for answer in graph.answers(tensor)]
        outputs = tuple(
            replace(spec, tolerance=bars.tolerance * scale)
            for spec, scale in zip(export.outputs, largest, strict=True)
        )
        comparisons.append(
            replace(
                export,
                module=graph,
                outputs=outputs,
                example=(tensor[:2],),
                cases=batch_cases((tensor,)),
            )
        )
    return tuple(comparisons)


def _losses(metric: Metric) -> Iterator[str]:
    """What is wrong with a figure, in words; nothing if all is well."""
    if not metric.bar.is_met(metric.value):
        yield (
            f"{metric.name} is {figure_text(metric.value)}, the FP32 model's is "
            f"{figure_text(metric.baseline_value)}, and the bar {figure_text(metric.bar.bound)}"
        )


def _card(
    original: _Original,
    bars: VariantBars,
    figures: Mapping[str, float],
    fp32: Mapping[str, float],
    metrics: Sequence[Metric],
) -> dict[str, object]:
    """The FP32 model's card with the variant's own figures, and where it comes from.

    How the weights were learnt is the FP32 model's; code and packages are those that converted it.
    """
    variant: dict[str, object] = {
        "precision": bars.precision,
        "of": {
            "model": original.name,
            "version": original.version,
            "sha256": {
                original.name + suffix: hashlib.sha256(content).hexdigest()
                for suffix, content in original.files.items()
            },
            "code_version": original.card["code_version"],
            "packages": original.card["packages"],
        },
        "bars": asdict(bars),
        "fp32_figures": dict(fp32),
        "parity_against": "the FP32 model in ONNX Runtime",
    }
    if bars.precision is Precision.INT8:
        variant["calibration"] = {
            "split": "train",
            "examples": CALIBRATION_EXAMPLES,
            "method": "smallest and largest value",
            "operators": QUANTIZED_OPERATORS,
        }
    return {
        **original.card,
        "variant": variant,
        "code_version": code_version(),
        "packages": package_versions(),
        "metrics": [asdict(metric) for metric in metrics],
        "figures": dict(figures),
    }
