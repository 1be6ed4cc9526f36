"""From a recipe to published models: train, judge, export, prove, publish."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atril_common.errors import RefusedError
from atril_common.repository import MODEL_FILE
from atril_models import Network
from atril_training.card import Judgement, Proof, Training, build_card, card_of_graph
from atril_training.composition import compose
from atril_training.configuration import model_config
from atril_training.datasets import FileSource
from atril_training.errors import DivergedError
from atril_training.export import Export, export_graph
from atril_training.fitting import Reporter, deterministic
from atril_training.latency import measure_latency
from atril_training.parity import ParityRecord, measure_parity
from atril_training.publication import Publication, check_fits, publish_together
from atril_training.recipes.recipe import Recipe
from atril_training.tasks import Course, prepare


@dataclass(frozen=True, slots=True, eq=False)
class PublishedModel:
    """What came of a recipe; `paths` are the folders of the versions, the whole model's last.

    `proofs` has one entry for each graph; a translator's last path is that of all its graphs.
    """

    paths: tuple[Path, ...]
    recipe: Recipe
    training: Training
    judgement: Judgement
    parameters: int
    proofs: tuple[Proof, ...]


def train_and_publish(
    recipe: Recipe,
    *,
    repository: Path,
    model_name: str,
    source: FileSource,
    reporter: Reporter,
    device: str = "cpu",
) -> PublishedModel:
    """Train by a recipe and publish the result, if it meets its bars.

    Args:
        recipe: what to learn.
        repository: root of the model repository; made if it does not exist.
        model_name: under which name to publish; parts have suffixes of it.
        source: where the files of the data set come from.
        reporter: told how training goes on.
        device: where to train, in torch's words; export and proof are made on the CPU.

    Raises:
        RefusedError: the model misses a bar or its parity, or does not fit the one that is
            published under this name; nothing was published.
        AtrilError: the data, the name or the training itself is at fault.
    """
    course = prepare(recipe, source)
    check_publishable(course, model_name, repository)
    network, training = train_course(course, reporter, device)
    judgement = judge_course(course, network)
    require_quality(recipe, judgement)

    network.cpu()
    exports = course.exports(network)
    graphs = tuple(export_graph(export) for export in exports)
    proofs = tuple(map(prove, exports, graphs))
    for export, proof in zip(exports, proofs, strict=True):
        require_parity(model_name + export.suffix, proof.parity)
    composition = compose(model_name, exports)
    own_names = [model_name + export.suffix for export in exports]
    names = own_names if composition is None else [*own_names, model_name]
    card = build_card(course, network, training, judgement)
    publications = [
        Publication(
            model_config(own_name, export),
            export.labels,
            {MODEL_FILE: graph},
            card_of_graph(card, proof, model_name, names),
        )
        for own_name, export, graph, proof in zip(own_names, exports, graphs, proofs, strict=True)
    ]
    if composition is not None:
        files = {name: graphs[place] for name, place in composition.files.items()}
        whole = replace(proofs[composition.step], size_bytes=sum(map(len, files.values())))
        of_whole = card_of_graph(card, whole, model_name, names)
        publications.append(Publication(composition.config, (), files, of_whole))
    paths = publish_together(publications, repository)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return PublishedModel(paths, recipe, training, judgement, parameters, proofs)


def check_publishable(course: Course, model_name: str, repository: Path) -> None:
    """Check that what a course gives can be published, before it is trained.

    Raises:
        RefusedError: it does not fit what is there.
        InvalidInputError: the name is not one that a repository can hold.
    """
    with deterministic(course.recipe.seed, course.recipe.threads):
        exports = course.exports(course.build().eval())
    for export in exports:
        name = model_name + export.suffix
        check_fits(model_config(name, export), export.labels, repository)
    if composition := compose(model_name, exports):
        check_fits(composition.config, (), repository)


def train_course(course: Course, reporter: Reporter, device: str) -> tuple[Network, Training]:
    """Build and train the network of a course; it is left in eval mode on its device.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    recipe = course.recipe
    started_s = time.perf_counter()
    with deterministic(recipe.seed, recipe.threads):
        network = course.build().to(device)
        try:
            fits = course.train(network, reporter)
        except DivergedError as err:
            raise DivergedError(f"{recipe.title}: {err}") from err
    return network.eval(), Training(device, time.perf_counter() - started_s, fits)


def judge_course(course: Course, network: Network) -> Judgement:
    """Figures and baselines on the test split, whatever random draws they need being the same."""
    recipe = course.recipe
    with deterministic(recipe.seed, recipe.threads), torch.no_grad():
        figures = course.judge(network)
    with deterministic(recipe.seed, recipe.threads):
        return Judgement(figures, course.baselines())


def prove(export: Export, onnx_model: bytes) -> Proof:
    """Measure parity, size and latency of an exported graph."""
    return Proof(
        measure_parity(export, onnx_model), measure_latency(export, onnx_model), len(onnx_model)
    )


def require_quality(recipe: Recipe, judgement: Judgement) -> None:
    """Hold a trained network to the bars of its recipe.

    Raises:
        RefusedError: it misses one; the text says which and by how much.
    """
    failures = [
        text for bar in recipe.bars for text in bar.failures(judgement.figures, judgement.baselines)
    ]
    if failures:
        raise RefusedError(f"{recipe.title}: {'; '.join(failures)}; nothing was published")


def require_parity(model_name: str, parity: ParityRecord) -> None:
    """Hold an export to the parity bar.

    Raises:
        RefusedError: ONNX Runtime and PyTorch differ by more; the text has every figure that does.
    """
    if failures := parity.failures():
        raise RefusedError(
            f"{model_name}: ONNX Runtime does not answer as PyTorch does: {'; '.join(failures)}; "
            f"nothing was published"
        )
