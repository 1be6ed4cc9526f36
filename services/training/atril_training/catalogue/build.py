"""The whole catalogue, trained and published: each architecture by its default recipe."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from atril_common.errors import AtrilError
from atril_models import CATALOGUE, Family
from atril_training.card import Metric
from atril_training.datasets import file_source
from atril_training.fitting import SilentReporter
from atril_training.pipeline import PublishedModel, train_and_publish
from atril_training.recipes import find_recipe

_LONGEST_FIRST = (
    Family.SEQUENCE_TO_SEQUENCE,
    Family.RECURRENT,
    Family.CONVOLUTIONAL,
    Family.AUTOENCODER,
    Family.FEEDFORWARD,
)
"""A long training that begins last would leave the other processor idle."""


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """What came of one architecture; `error` is empty when it was published."""

    architecture: str
    dataset: str
    duration_s: float
    error: str = ""
    parameters: int = 0
    metrics: tuple[Metric, ...] = ()
    parity_max_abs: float = 0.0
    size_bytes: int = 0
    latency_ms: float = 0.0
    graphs: int = 0


def build_catalogue(
    names: Sequence[str], repository: Path, *, data_dir: Path | None, jobs: int
) -> Iterator[BuiltModel]:
    """Train and publish architectures side by side, each in a process of its own.

    Yields:
        One result an architecture, in the order in which they are done. One that fails does not
        stop the others.
    """
    order = sorted(names, key=lambda name: _LONGEST_FIRST.index(CATALOGUE[name].family))
    # Threads of torch and locks of libraries do not survive a fork.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(build_one, name, repository, data_dir) for name in order]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def build_one(name: str, repository: Path, data_dir: Path | None) -> BuiltModel:
    """Train and publish one architecture by its default recipe, under its own name."""
    recipe = find_recipe(name)
    started_s = time.perf_counter()

    def elapsed_s() -> float:
        return time.perf_counter() - started_s

    try:
        published = train_and_publish(
            recipe,
            repository=repository,
            model_name=name,
            source=file_source(data_dir),
            reporter=SilentReporter(),
        )
    except AtrilError as err:
        return BuiltModel(name, recipe.dataset, elapsed_s(), error=str(err))
    return _built(published, elapsed_s)


def _built(published: PublishedModel, elapsed_s: Callable[[], float]) -> BuiltModel:
    recipe = published.recipe
    return BuiltModel(
        architecture=recipe.architecture,
        dataset=recipe.dataset,
        duration_s=elapsed_s(),
        parameters=published.parameters,
        metrics=published.judgement.metrics(recipe),
        parity_max_abs=max(proof.parity.max_abs for proof in published.proofs),
        size_bytes=sum(proof.size_bytes for proof in published.proofs),
        latency_ms=published.proofs[-1].latency.p50_ms,
        graphs=len(published.proofs),
    )
