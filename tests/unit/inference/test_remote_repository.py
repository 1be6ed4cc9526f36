"""Repositories at URLs: a real S3-compatible server, and file systems of fsspec's own."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import fsspec
import numpy as np
import orjson
import pytest

from atril_common.core import InferRequest
from atril_common.errors import InvalidInputError, LoadFailedError, NotFoundError
from atril_inference.control import ControlMode, ModelControl
from atril_inference.engine import Engine
from atril_inference.loader import LoadPolicy
from atril_inference.remote_repository import RemoteRepository, open_repository
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.object_store import BUCKET, object_store
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)
LIMIT = 1 << 20
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder behind `s3://models`."""
    with (
        object_store(tmp_path_factory.mktemp("store")) as (bucket, environment),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def root(store: Path) -> Path:
    """The folder behind an empty bucket."""
    for path in store.iterdir():
        shutil.rmtree(path)
    return store


def write(root: Path, name: str = "m", policy: str = "", **versions: float) -> Path:
    """A model of versions `v1=…`, by what each adds."""
    config = config_of(name, tiny_models.add_constant(0), max_batch_size=8, queue_delay_us=0)
    if policy == "all":
        config.version_policy.all.SetInParent()
    return write_model(
        root, config, {int(k[1:]): tiny_models.add_constant(v) for k, v in versions.items()}
    )


def put(root: Path, version: int, constant: float) -> None:
    """Put a version of `m` into the store."""
    place = root / "m" / str(version)
    place.mkdir(exist_ok=True)
    model = tiny_models.add_constant(constant).SerializeToString()
    (place / "model.onnx").write_bytes(model)


@asynccontextmanager
async def engine_over(url: str, cache: Path | None, control: ModelControl) -> AsyncIterator[Engine]:
    """An engine that has started."""
    engine = Engine(open_repository(url, cache, LIMIT), CPU, 64, control, LoadPolicy(LIMIT))
    await engine.start()
    try:
        yield engine
    finally:
        await asyncio.wait_for(engine.close(), DEADLINE_S)


async def answer(engine: Engine) -> tuple[str, float]:
    """Which version of `m` answers, and what it adds."""
    response = await engine.infer(InferRequest("m", {"x": np.zeros((1, 1), np.float32)}))
    return response.model_version, float(response.outputs["y"][0, 0])


def cached(cache: Path) -> dict[str, int]:
    """What is in the cache, and when it was written."""
    return {
        p.relative_to(cache).as_posix(): p.stat().st_mtime_ns
        for p in cache.rglob("*")
        if p.is_file() and not p.relative_to(cache).parts[0].startswith(".")
    }


async def test_models_of_a_bucket_are_served_and_followed(root: Path, tmp_path: Path) -> None:
    """2.6 over S3: loaded at the start, new and changed versions by polling, removal, return."""
    write(root, v1=1)
    poll = ModelControl(ControlMode.POLL, poll_interval_s=0.05)
    async with engine_over(f"s3://{BUCKET}", tmp_path / "cache", poll) as engine:
        assert await engine.ready(), engine.entries()
        assert await answer(engine) == ("1", 1)
        put(root, 2, 2)
        async with asyncio.timeout(DEADLINE_S):
            while await answer(engine) != ("2", 2):
                await asyncio.sleep(0.02)
            put(root, 2, 22)
            while await answer(engine) != ("2", 22):
                await asyncio.sleep(0.02)
            write(root, "n", v1=1)
            shutil.rmtree(root / "m")
            while [e.name for e in await engine.index(ready_only=True)] != ["n"]:
                await asyncio.sleep(0.02)
        shutil.rmtree(root / "n")
        await asyncio.sleep(0.3)
        assert [e.name for e in await engine.index(ready_only=True)] == ["n"], "nothing is seen"


async def test_a_prefix_of_a_bucket_is_a_repository_on_request(root: Path, tmp_path: Path) -> None:
    """2.6 over S3 under explicit control, below a prefix; never loaded models are listed."""
    write(root / "team" / "models", v1=1)
    write(root / "team" / "models", "other", v1=1)
    explicit = ModelControl(ControlMode.EXPLICIT)
    async with engine_over(f"s3://{BUCKET}/team/models/", tmp_path / "cache", explicit) as engine:
        assert [e.name for e in await engine.index()] == ["m", "other"]
        await engine.load("m")
        assert await answer(engine) == ("1", 1)
        assert not (tmp_path / "cache" / "other").exists()
        with pytest.raises(NotFoundError):
            await engine.load("absent")


def test_only_what_is_wanted_and_changed_is_fetched(root: Path, tmp_path: Path) -> None:
    """By the version policy, and by the store's tags, over a restart, too; the rest goes."""
    folder = write(root, v1=1, v2=2)
    cache = tmp_path / "cache"
    repository = open_repository(f"s3://{BUCKET}", cache, LIMIT)
    repository.fetch("m", None)
    first = cached(cache)
    assert set(first) == {"m/config.pbtxt", "m/2/model.onnx"}
    repository.close()
    repository = open_repository(f"s3://{BUCKET}", cache, LIMIT)
    (folder / "config.pbtxt").write_text(
        (folder / "config.pbtxt").read_text() + "version_policy { all {} }"
    )
    repository.fetch("m", None)
    second = cached(cache)
    assert second["m/2/model.onnx"] == first["m/2/model.onnx"], "it was fetched again"
    assert second["m/config.pbtxt"] != first["m/config.pbtxt"]
    assert "m/1/model.onnx" in second
    shutil.rmtree(root / "m" / "1")
    repository.fetch("m", None)
    assert set(cached(cache)) == {"m/config.pbtxt", "m/2/model.onnx"}
    repository.close()


def test_a_model_that_is_not_what_its_card_says_is_refused(root: Path, tmp_path: Path) -> None:
    """A checksum that differs; once the store has the right file it is fetched."""
    write(root, v1=1)
    content = tiny_models.add_constant(5).SerializeToString()
    checksums = {"model.onnx": hashlib.sha256(content).hexdigest()}
    (root / "m" / "1" / "card.json").write_bytes(orjson.dumps({"files_sha256": checksums}))
    repository = open_repository(f"s3://{BUCKET}", tmp_path / "cache", LIMIT)
    with pytest.raises(LoadFailedError, match="sha256"):
        repository.fetch("m", None)
    put(root, 1, 5)
    folder = repository.fetch("m", None)
    assert (folder.path / "1" / "model.onnx").read_bytes() == content
    repository.close()


def test_more_than_the_limit_is_not_fetched(root: Path, tmp_path: Path) -> None:
    """The reason has both figures, and nothing was fetched."""
    write(root, v1=1)
    (root / "m" / "1" / "weights.bin").write_bytes(bytes(5000))
    repository = open_repository(f"s3://{BUCKET}", tmp_path / "cache", 5000)
    with pytest.raises(LoadFailedError, match="at most 5000"):
        repository.fetch("m", None)
    assert not (tmp_path / "cache" / "m" / "1").exists()
    repository.close()


def test_a_store_that_does_not_answer_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that a poll changes nothing."""
    file_system = fsspec.filesystem("memory")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(file_system, "find", fails)
    repository = RemoteRepository(file_system, "/models", tmp_path / "cache", LIMIT)
    with pytest.raises(OSError, match="no route to host"):
        repository.snapshot()
    repository.close()


def test_paths_of_the_store_lead_nowhere(tmp_path: Path) -> None:
    """An object may be called anything; what does not stay in its model's folder is no file."""
    names = ["m/config.pbtxt", "m/../../evil", "m/a\\..\\b", "../x/y", "m//z", "m/1/./model.onnx"]
    listing = {f"/models/{name}": {"size": 1, "created": 1} for name in names}

    class Listing:
        """A file system that lists what no honest one would."""

        def find(self, path: str, *, detail: bool) -> dict[str, dict[str, int]]:
            """Everything, whatever was asked."""
            return listing

    repository = RemoteRepository(Listing(), "/models", tmp_path / "cache", LIMIT)
    (only,) = repository.snapshot().values()
    assert [file[0] for file in only] == ["config.pbtxt"]
    repository.close()


async def test_a_repository_in_memory_is_served(tmp_path: Path) -> None:
    """Whatever fsspec reads; without a cache folder nothing is left behind."""
    write(tmp_path, v1=1)
    file_system = fsspec.filesystem("memory")
    file_system.put(str(tmp_path / "m"), "/lifecycle/m", recursive=True)
    try:
        async with engine_over("memory:///lifecycle", None, ModelControl()) as engine:
            assert await answer(engine) == ("1", 1), engine.entries()
    finally:
        file_system.rm("/lifecycle", recursive=True)


def test_a_cache_is_for_one_process(tmp_path: Path) -> None:
    """Two that write into one folder would serve each other's halves."""
    first = open_repository("memory://x", tmp_path, LIMIT)
    with pytest.raises(InvalidInputError, match="in use by another process"):
        open_repository("memory://x", tmp_path, LIMIT)
    first.close()
    open_repository("memory://x", tmp_path, LIMIT).close()


def test_a_location_says_what_it_is(tmp_path: Path) -> None:
    """Folders and `file://` are read where they are; an unknown protocol is told."""
    write(tmp_path, v1=1)
    for location in (str(tmp_path), f"file://{tmp_path}"):
        repository = open_repository(location, None, LIMIT)
        assert isinstance(repository, LocalRepository)
        assert repository.names() == ["m"]
    with pytest.raises(InvalidInputError, match="nothing://x"):
        open_repository("nothing://x", None, LIMIT)
