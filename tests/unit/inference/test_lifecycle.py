"""Loading, reloading and unloading over real files and real sessions."""

import asyncio
import gc
import json
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from onnx import ModelProto

from atril_common.core import InferRequest, InferResponse, LoadOptions, ModelIndexEntry
from atril_common.errors import (
    InvalidInputError,
    LoadFailedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
)
from atril_inference.control import ControlMode, ModelControl
from atril_inference.engine import Engine
from atril_inference.loader import LoadPolicy
from atril_inference.manager import CHANGES_WAITING
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)
EXPLICIT = ModelControl(ControlMode.EXPLICIT)
POLL = ModelControl(ControlMode.POLL, poll_interval_s=0.02)
DEADLINE_S = 30.0
X = np.zeros((1, 1), np.float32)


def adds(constant: float) -> ModelProto:
    """A model whose answer to `X` tells which file it was."""
    return tiny_models.add_constant(constant)


def write(root: Path, name: str = "m", policy: str = "", **versions: float | bytes) -> Path:
    """A model of versions `v1=…`: what it adds, or the bytes of its file."""
    config = config_of(name, adds(0), max_batch_size=8, queue_delay_us=0)
    if policy:
        text_format.Parse(policy, config.version_policy)
    numbers = {int(label[1:]): value for label, value in versions.items()}
    return write_model(
        root, config, {n: v if isinstance(v, bytes) else adds(v) for n, v in numbers.items()}
    )


def put(root: Path, version: int, content: float | bytes, name: str = "m") -> None:
    """Put a version, new or changed, in its place as publication does: whole, by one rename."""
    staging = root / ".staging"
    staging.mkdir()
    onnx = content if isinstance(content, bytes) else adds(content).SerializeToString()
    (staging / "model.onnx").write_bytes(onnx)
    place = root / name / str(version)
    if place.exists():
        (staging / "model.onnx").replace(place / "model.onnx")
        staging.rmdir()
    else:
        staging.rename(place)


@asynccontextmanager
async def engine_over(
    root: Path, control: ModelControl = EXPLICIT, max_model_bytes: int = 1 << 20
) -> AsyncIterator[Engine]:
    """An engine that has started."""
    engine = Engine(LocalRepository(root), CPU, 64, control, LoadPolicy(max_model_bytes))
    await engine.start()
    try:
        yield engine
    finally:
        await asyncio.wait_for(engine.close(), DEADLINE_S)


async def answer(engine: Engine, version: str = "", name: str = "m") -> tuple[str, float]:
    """Which version answers, and what it adds."""
    response: InferResponse = await engine.infer(InferRequest(name, {"x": X}, version))
    return response.model_version, float(response.outputs["y"][0, 0])


async def index(engine: Engine, name: str = "m") -> dict[str, tuple[str, str]]:
    """State and reason by version."""
    return {e.version: (e.state, e.reason) for e in await engine.index() if e.name == name}


async def until(engine: Engine, version: str, state: str, reason: str = "") -> None:
    """Wait for a version to come to a state."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            entry = (await index(engine)).get(version, ("", ""))
            if entry[0] == state and reason in entry[1]:
                return
            await asyncio.sleep(0.01)


async def test_explicit_control_loads_nothing_unasked(tmp_path: Path) -> None:
    """2.6: a model never loaded is in the index with its name only; 2.7: it is not waited for."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        assert await engine.index() == [ModelIndexEntry("m")]
        assert await engine.ready()
        with pytest.raises(NotFoundError, match="'m' is not found"):
            engine.infer(InferRequest("m", {"x": X}))
        await engine.load("m")
        assert await answer(engine) == ("1", 1)


@pytest.mark.parametrize(
    ("names", "loaded"), [(("a",), ["a"]), (("*",), ["a", "b"]), ((), [])], ids=str
)
async def test_explicit_control_loads_at_the_start_what_it_is_told(
    tmp_path: Path, names: tuple[str, ...], loaded: list[str]
) -> None:
    """2.6: names, or `*` for all."""
    write(tmp_path, "a", v1=1)
    write(tmp_path, "b", v1=1)
    async with engine_over(tmp_path, EXPLICIT._replace(load_models=names)) as engine:
        assert [e.name for e in await engine.index(ready_only=True)] == loaded


async def test_a_model_to_be_loaded_at_the_start_that_is_not_there_is_missed(
    tmp_path: Path,
) -> None:
    """2.7: not ready, and the index says which."""
    async with engine_over(tmp_path, EXPLICIT._replace(load_models=("m",))) as engine:
        assert not await engine.ready()
        assert (await index(engine))[""][0] == "UNAVAILABLE"


@pytest.mark.parametrize("mode", [ControlMode.NONE, ControlMode.POLL])
async def test_requests_change_nothing_without_explicit_control(
    tmp_path: Path, mode: ControlMode
) -> None:
    """E28: `explicit model load / unload is not allowed`."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path, ModelControl(mode)) as engine:
        for change in (engine.load, engine.unload):
            with pytest.raises(NotReadyError, match="explicit model load / unload is not allowed"):
                await change("m")
        assert await answer(engine) == ("1", 1)


async def test_a_reload_serves_what_is_new_and_keeps_what_is_not(tmp_path: Path) -> None:
    """2.6: an unchanged version is kept, sessions, statistics and all."""
    write(tmp_path, policy="all {}", v1=1, v2=2)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        first, second = engine.served()
        put(tmp_path, 2, 22)
        put(tmp_path, 3, 3)
        await engine.load("m")
        assert next(engine.served()) is first
        assert second not in list(engine.served())
        assert [await answer(engine, v) for v in ("", "1", "2")] == [("3", 3), ("1", 1), ("2", 22)]


async def test_a_changed_configuration_is_loaded(tmp_path: Path) -> None:
    """2.6: same files, another configuration."""
    folder = write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        config = (folder / "config.pbtxt").read_text().replace("size: 8", "size: 4")
        (folder / "config.pbtxt").write_text(config)
        await engine.load("m")
        assert (await engine.config("m")).max_batch_size == 4


async def test_a_version_that_the_policy_wants_no_more_is_unloaded(tmp_path: Path) -> None:
    """2.6: under `latest` a new version takes the old one's place, which is `unloaded`."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        put(tmp_path, 2, 2)
        await engine.load("m")
        assert await answer(engine) == ("2", 2)
        await until(engine, "1", "UNAVAILABLE", "unloaded")
        with pytest.raises(NotFoundError, match="version 1 is not found"):
            engine.infer(InferRequest("m", {"x": X}, "1"))
        assert await engine.ready()


@pytest.mark.parametrize("version", [1, 2], ids=["the same version", "a new version"])
async def test_a_broken_version_leaves_the_old_one_serving(tmp_path: Path, version: int) -> None:
    """2.6, E29: the load fails with the reason, the index has it, the old version answers."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        put(tmp_path, version, b"not onnx")
        with pytest.raises(LoadFailedError, match=r"failed to load 'm'.*model\.onnx"):
            await engine.load("m")
        assert await answer(engine) == ("1", 1)
        state, reason = (await index(engine))[str(version)]
        assert state == ("READY" if version == 1 else "UNAVAILABLE")
        assert "model.onnx" in reason
        assert await engine.ready(), "what goes on being served is ready"
        put(tmp_path, version, 5)
        await engine.load("m")
        assert await answer(engine) == (str(version), 5)
        assert (await index(engine))[str(version)] == ("READY", "")


async def test_a_broken_configuration_leaves_the_old_one_serving(tmp_path: Path) -> None:
    """E29: as a broken version."""
    folder = write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        (folder / "config.pbtxt").write_text("{")
        with pytest.raises(LoadFailedError, match=r"config\.pbtxt"):
            await engine.load("m")
        assert await answer(engine) == ("1", 1)
        assert "config.pbtxt" in (await index(engine))[""][1]


async def test_a_load_of_a_model_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """2.6: and leaves no trace in the index."""
    async with engine_over(tmp_path) as engine:
        for name in ("m", "..", "a/b", ""):
            with pytest.raises(NotFoundError):
                await engine.load(name)
            with pytest.raises(NotFoundError):
                await engine.unload(name)
        assert await engine.index() == []


async def test_an_unloaded_model_is_known_and_not_missed(tmp_path: Path) -> None:
    """2.6, 2.7, E03: `unloaded` in the index, no answers, and the server is ready."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path, EXPLICIT._replace(load_models=("*",))) as engine:
        await engine.unload("m", unload_dependents=True)
        await until(engine, "1", "UNAVAILABLE", "unloaded")
        assert await engine.ready()
        assert not await engine.model_ready("m")
        with pytest.raises(NotFoundError, match="has no available versions"):
            engine.infer(InferRequest("m", {"x": X}))
        await engine.load("m")
        assert await answer(engine) == ("1", 1)


async def test_an_unload_of_a_broken_model_makes_the_server_ready(tmp_path: Path) -> None:
    """2.7: explicitly unloaded models do not count."""
    write(tmp_path, v1=b"not onnx")
    async with engine_over(tmp_path, EXPLICIT._replace(load_models=("*",))) as engine:
        assert not await engine.ready()
        await engine.unload("m")
        assert await engine.ready()


@pytest.mark.parametrize("change", ["reload", "unload"])
async def test_accepted_requests_are_answered_by_what_accepted_them(
    tmp_path: Path, change: str
) -> None:
    """2.6: running and queued requests finish on the old version."""
    slow = tiny_models.slow(10)
    write_model(tmp_path, config_of("m", slow, max_batch_size=1, queue_delay_us=0), {1: slow})
    inputs = {"rounds": np.array([[50]], np.int64), "x": np.ones((1, 1), np.float32)}
    async with engine_over(tmp_path, EXPLICIT._replace(load_models=("m",))) as engine:
        futures = [engine.infer(InferRequest("m", inputs)) for _ in range(6)]
        if change == "unload":
            await engine.unload("m")
            assert (await index(engine))["1"][0] in ("UNLOADING", "UNAVAILABLE")
        else:
            shutil.copytree(tmp_path / "m" / "1", tmp_path / "m" / "2")
            await engine.load("m")
        answers = await asyncio.wait_for(asyncio.gather(*futures), DEADLINE_S)
        assert [a.model_version for a in answers] == ["1"] * 6
        await until(engine, "1", "UNAVAILABLE", "unloaded")


async def test_loads_of_one_model_wait_for_each_other_and_are_bounded(tmp_path: Path) -> None:
    """Concurrent loads are serialised; one more than `CHANGES_WAITING` is refused."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        loads = [asyncio.ensure_future(engine.load("m")) for _ in range(CHANGES_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="'m'"):
            await engine.load("m")
        await asyncio.wait_for(asyncio.gather(*loads), DEADLINE_S)
        assert len(list(engine.served())) == 1
        await engine.load("m")


async def test_a_caller_who_leaves_stops_no_load(tmp_path: Path) -> None:
    """A cancelled load goes on, and no version is left in LOADING."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        load = asyncio.ensure_future(engine.load("m"))
        await asyncio.sleep(0)
        load.cancel()
        await until(engine, "1", "READY")


async def test_a_closed_engine_loads_no_more(tmp_path: Path) -> None:
    """E26: `Server is stopping`."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.close()
        with pytest.raises(NotReadyError, match="Server is stopping"):
            await engine.load("m")


def _json(**changes: int) -> str:
    config = config_of("m", adds(0), max_batch_size=8, queue_delay_us=0)
    for field, value in changes.items():
        setattr(config, field, value)
    return json_format.MessageToJson(config, preserving_proto_field_name=True)


async def test_a_configuration_of_the_request_stands_in_for_the_repositorys(
    tmp_path: Path,
) -> None:
    """2.6: for this load; the next one without it takes the repository's again."""
    write(tmp_path, v1=1, v2=2)
    override = json.loads(_json(max_batch_size=3)) | {"version_policy": {"all": {}}}
    async with engine_over(tmp_path) as engine:
        await engine.load("m", LoadOptions(json.dumps(override)))
        assert (await engine.config("m")).max_batch_size == 3
        assert len(list(engine.served())) == 2
        await engine.load("m")
        assert (await engine.config("m")).max_batch_size == 8
        assert len(list(engine.served())) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"max_batch_size": "x"}', '{"nothing": 1}', '{"name": "other"}', "{" * 9999],
    ids=lambda t: t[:12],
)
async def test_a_malformed_configuration_of_a_request_changes_nothing(
    tmp_path: Path, text: str
) -> None:
    """2.6: the caller is told; what is served goes on, and the index has nothing of it."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        with pytest.raises(InvalidInputError, match=r"config"):
            await engine.load("m", LoadOptions(text))
        assert await index(engine) == {"1": ("READY", "")}


async def test_uploaded_files_are_served_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.6: files stand in for the model's folder, which need not be in the repository."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(uploads))
    async with engine_over(tmp_path / "repository") as engine:
        files = {"7/model.onnx": adds(7).SerializeToString()}
        await engine.load("m", LoadOptions(_json(), files))
        assert await answer(engine) == ("7", 7)
        with pytest.raises(LoadFailedError):
            await engine.load("m", LoadOptions(_json(), {"8/model.onnx": b"not onnx"}))
        assert await answer(engine) == ("7", 7)
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "model.onnx", "1/", "/1/model.onnx", "../1/model.onnx", "1/../../x", "0/model.onnx", "1/.x",
        "1/a/b", "1/a\\..\\b", "1/a\0b", "",
    ],
)  # fmt: skip
async def test_a_file_name_that_no_version_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    """Untrusted names: nothing is written, and the text names the file."""
    async with engine_over(tmp_path) as engine:
        with pytest.raises(InvalidInputError, match="<version>/<file>"):
            await engine.load("m", LoadOptions(_json(), {name: b""}))
    assert list(tmp_path.iterdir()) == []


async def test_uploads_are_bounded(tmp_path: Path) -> None:
    """Too many files, too many bytes, no configuration, a name that is none."""
    async with engine_over(tmp_path, max_model_bytes=1000) as engine:
        with pytest.raises(TooLargeError, match="65 files"):
            await engine.load("m", LoadOptions(_json(), {f"{n}/m": b"" for n in range(1, 66)}))
        with pytest.raises(TooLargeError, match="1001 bytes"):
            await engine.load("m", LoadOptions(_json(), {"1/model.onnx": bytes(1001)}))
        with pytest.raises(InvalidInputError, match="'config'"):
            await engine.load("m", LoadOptions(None, {"1/model.onnx": b""}))
        with pytest.raises(InvalidInputError, match="model name"):
            await engine.load("../m", LoadOptions(_json(name="../m"), {"1/model.onnx": b""}))
        with pytest.raises(TooLargeError, match="characters"):
            await engine.load("m", LoadOptions(" " * (1 << 20) + "{}"))


async def test_polling_follows_the_repository(tmp_path: Path) -> None:
    """2.6: new versions, new models, changed configurations and removed models are noticed."""
    folder = write(tmp_path, v1=1)
    async with engine_over(tmp_path, POLL) as engine:
        put(tmp_path, 2, 2)
        await until(engine, "2", "READY")
        assert await answer(engine) == ("2", 2)
        (folder / "config.pbtxt").write_text(
            (folder / "config.pbtxt").read_text() + "version_policy { all {} }"
        )
        await until(engine, "1", "READY")
        write(tmp_path, "n", v1=1)
        async with asyncio.timeout(DEADLINE_S):
            while not await engine.ready() or len(list(engine.served())) < 3:
                await asyncio.sleep(0.01)
        shutil.rmtree(folder)
        await until(engine, "1", "UNAVAILABLE", "unloaded")
        assert await answer(engine, name="n") == ("1", 1)


async def test_polling_leaves_the_old_version_until_the_new_one_can_be_loaded(
    tmp_path: Path,
) -> None:
    """A broken version is told in the index, and tried again once its files change."""
    write(tmp_path, v1=1)
    async with engine_over(tmp_path, POLL) as engine:
        put(tmp_path, 2, b"not onnx")
        await until(engine, "2", "UNAVAILABLE", "model.onnx")
        assert await answer(engine) == ("1", 1)
        put(tmp_path, 2, 2)
        await until(engine, "2", "READY")


async def test_polling_unloads_nothing_when_the_repository_cannot_be_seen(tmp_path: Path) -> None:
    """An unmounted file system is not the removal of every model."""
    root = tmp_path / "root"
    write(root, v1=1)
    async with engine_over(root, POLL) as engine:
        root.rename(tmp_path / "away")
        await asyncio.sleep(0.2)
        assert await answer(engine) == ("1", 1)
        (tmp_path / "away").rename(root)
        put(root, 2, 2)
        await until(engine, "2", "READY")


async def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path) -> None:
    """Untrusted files: a model folder that is a link to elsewhere is told in the index."""
    write(tmp_path / "elsewhere", v1=1)
    root = tmp_path / "root"
    write(root, "inside", v1=1)
    (root / "m").symlink_to(tmp_path / "elsewhere" / "m")
    async with engine_over(root, ModelControl(ControlMode.NONE)) as engine:
        assert "leads out of the repository" in (await index(engine))[""][1]
        assert await answer(engine, name="inside") == ("1", 1)


async def test_a_hundred_loads_leave_no_session_and_no_thread(tmp_path: Path) -> None:
    """Load and unload leave nothing behind."""
    write(tmp_path, v1=1)
    alive: list[weakref.ref[object]] = []
    async with engine_over(tmp_path) as engine:
        await engine.load("m")
        threads = threading.active_count()
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(100):
            await engine.load("m")
            alive.extend(weakref.ref(model) for model in engine.served())
            await engine.unload("m")
            await until(engine, "1", "UNAVAILABLE", "unloaded")
        gc.collect()
        assert [ref() for ref in alive if ref() is not None] == []
        # The loop's own pool of threads may still grow to its bound.
        assert threading.active_count() <= threads + (os.cpu_count() or 1) + 4
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 4
