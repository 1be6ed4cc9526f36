"""Files that nobody vouches for: where they lead, how large they are, what they do when run."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from atril_common.core import InferRequest
from atril_common.errors import LoadFailedError, NotReadyError
from atril_inference.control import ControlMode, ModelControl
from atril_inference.engine import Engine
from atril_inference.loader import LoadPolicy
from atril_inference.onnx_files import external_locations
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)
DEADLINE_S = 60.0


@asynccontextmanager
async def engine_over(root: Path, policy: LoadPolicy) -> AsyncIterator[Engine]:
    """An engine under explicit control that has loaded everything."""
    control = ModelControl(ControlMode.EXPLICIT, load_models=("*",))
    engine = Engine(LocalRepository(root), CPU, 64, control, policy)
    await asyncio.wait_for(engine.start(), DEADLINE_S)
    try:
        yield engine
    finally:
        await asyncio.wait_for(engine.close(), DEADLINE_S)


async def reason(root: Path, policy: LoadPolicy) -> str:
    """Why the one version of `m` is not served."""
    async with engine_over(root, policy) as engine:
        (entry,) = [e for e in engine.entries() if e.name == "m"]
        assert entry.state == "UNAVAILABLE"
        return entry.reason


def external(location: str) -> ModelProto:
    """`matmul` with its matrix in another file."""
    model = tiny_models.matmul()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return model


def published(root: Path, model: ModelProto) -> Path:
    """Version 1 of `m`; the folder of the version."""
    return (
        write_model(root, config_of("m", tiny_models.matmul(), max_batch_size=8), {1: model}) / "1"
    )


async def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    """ONNX external data in the version's own folder."""
    place = published(tmp_path, external("weights.bin"))
    (place / "weights.bin").write_bytes(tiny_models.WEIGHTS.tobytes())
    async with engine_over(tmp_path, LoadPolicy()) as engine:
        x = np.ones((1, 4), np.float32)
        response = await engine.infer(InferRequest("m", {"x": x}))
        assert np.array_equal(response.outputs["y"], x @ tiny_models.WEIGHTS)


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "{root}/secret", "..\\secret", "link"]
)
async def test_weights_elsewhere_are_refused_before_the_model_is_opened(
    tmp_path: Path, location: str
) -> None:
    """An absolute path, one with `..`, a link: the reason names the file, nothing is read."""
    root = tmp_path / "root"
    place = published(root, external(location.format(root=tmp_path)))
    for secret in (tmp_path / "secret", root / "m" / "secret"):
        secret.write_bytes(tiny_models.WEIGHTS.tobytes())
    (place / "link").symlink_to(tmp_path / "secret")
    told = await reason(root, LoadPolicy())
    assert "not in its folder" in told or "leads out of the repository" in told


def _in_node() -> ModelProto:
    model = tiny_models.matmul()
    model.graph.node.add(op_type="Constant").attribute.add(
        name="value", type=onnx.AttributeProto.TENSOR, t=external("../x").graph.initializer[0]
    )
    return model


def _in_subgraph() -> ModelProto:
    model = tiny_models.matmul()
    attribute = model.graph.node.add(op_type="If").attribute.add(type=onnx.AttributeProto.GRAPH)
    attribute.g.CopyFrom(_in_node().graph)
    return model


def _in_function() -> ModelProto:
    model = tiny_models.matmul()
    model.functions.add(name="f").node.extend(_in_node().graph.node)
    return model


def _in_sparse() -> ModelProto:
    model = tiny_models.matmul()
    model.graph.sparse_initializer.add().indices.CopyFrom(external("../x").graph.initializer[0])
    return model


def _in_training() -> ModelProto:
    model = tiny_models.matmul()
    model.training_info.add().algorithm.CopyFrom(external("../x").graph)
    return model


@pytest.mark.parametrize(
    "make",
    [lambda: external("../x"), _in_node, _in_subgraph, _in_function, _in_sparse, _in_training],
)
def test_external_data_is_found_wherever_onnx_can_hold_it(
    tmp_path: Path, make: Callable[[], ModelProto]
) -> None:
    """Initializers, attributes, sub-graphs, functions, sparse tensors, training graphs."""
    (tmp_path / "model.onnx").write_bytes(make().SerializeToString())
    assert external_locations(tmp_path / "model.onnx") == ["../x"]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_the_walk_ends_on_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A mutated model gives locations or a reason, and nothing else."""
    content = bytearray(_in_subgraph().SerializeToString())
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.mktemp("m") / "model.onnx"
    path.write_bytes(bytes(content))
    try:
        told = external_locations(path)
    except NotReadyError as err:
        told = [str(err)]
        path = path.rename(path.with_name("refused"))
    assert path.name == "model.onnx" or "model.onnx is not an ONNX model" in told[0]


def test_messages_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    """The walk is bounded in depth."""
    model = tiny_models.matmul()
    graph = model.graph
    for _ in range(40):
        attribute = graph.node.add(op_type="If").attribute.add(type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NotReadyError, match="nest deeper"):
        external_locations(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["../other/1/model.onnx", "/etc/passwd", "a/b", "model.ort"])
async def test_the_name_of_the_models_file_leads_nowhere(tmp_path: Path, name: str) -> None:
    """`default_model_filename` is a plain name of an ONNX file."""
    config = config_of("m", tiny_models.matmul(), max_batch_size=8)
    config.default_model_filename = name
    write_model(tmp_path, config, {1: tiny_models.matmul()})
    assert "default_model_filename" in await reason(tmp_path, LoadPolicy())


async def test_a_version_over_the_size_limit_is_not_opened(tmp_path: Path) -> None:
    """All files of the version count; the reason has both figures."""
    place = published(tmp_path, tiny_models.matmul())
    (place / "weights.bin").write_bytes(bytes(4000))
    assert "at most 4000" in await reason(tmp_path, LoadPolicy(max_model_bytes=4000))


async def test_a_good_model_passes_its_trial(tmp_path: Path) -> None:
    """Several models, one child; a broken one has the same reason as without a trial."""
    published(tmp_path, tiny_models.matmul())
    good = config_of("good", tiny_models.matmul(), max_batch_size=8)
    write_model(tmp_path, good, {1: tiny_models.matmul()})
    write_model(tmp_path, config_of("broken", tiny_models.matmul()), {1: b"not onnx"})
    async with engine_over(tmp_path, LoadPolicy(trial_limit_s=DEADLINE_S)) as engine:
        assert {e.name: e.state for e in engine.entries()} == {
            "m": "READY",
            "good": "READY",
            "broken": "UNAVAILABLE",
        }


def endless() -> ModelProto:
    """A model that never answers."""
    return tiny_models.slow(base_rounds=1 << 60, side=8)


async def test_a_model_that_never_answers_is_found_out_in_its_trial(tmp_path: Path) -> None:
    """The reason says so; the engine goes on, and tries others."""
    model = endless()
    write_model(tmp_path, config_of("m", model, max_batch_size=1), {1: model})
    good = config_of("good", tiny_models.matmul(), max_batch_size=8)
    write_model(tmp_path, good, {1: tiny_models.matmul()})
    async with engine_over(tmp_path, LoadPolicy(trial_limit_s=8)) as engine:
        entries = {entry.name: entry for entry in engine.entries()}
        assert entries["good"].state == "READY"
        assert entries["m"].state == "UNAVAILABLE"
        assert "did not come to an end in time" in entries["m"].reason


async def test_a_crash_in_the_trial_is_a_reason(tmp_path: Path) -> None:
    """A child that dies of a signal takes nothing with it; the next load has a new child."""
    model = endless()
    write_model(tmp_path, config_of("m", model, max_batch_size=1), {1: model})
    good = config_of("good", tiny_models.matmul(), max_batch_size=8)
    policy = LoadPolicy(trial_limit_s=DEADLINE_S)
    engine = Engine(LocalRepository(tmp_path), CPU, 64, ModelControl(ControlMode.EXPLICIT), policy)
    await engine.start()
    load = asyncio.ensure_future(engine.load("m"))
    async with asyncio.timeout(DEADLINE_S):
        while not (children := _trials()):
            await asyncio.sleep(0.01)
    os.kill(children[0], signal.SIGSEGV)
    with pytest.raises(LoadFailedError, match="died of SIGSEGV"):
        await asyncio.wait_for(load, DEADLINE_S)
    write_model(tmp_path, good, {1: tiny_models.matmul()})
    await engine.load("good")
    await engine.close()
    assert not _trials()


async def test_a_close_ends_a_trial(tmp_path: Path) -> None:
    """A server that stops does not wait for it."""
    model = endless()
    write_model(tmp_path, config_of("m", model, max_batch_size=1), {1: model})
    policy = LoadPolicy(trial_limit_s=3000)
    engine = Engine(LocalRepository(tmp_path), CPU, 64, load_policy=policy)
    start = asyncio.ensure_future(engine.start())
    async with asyncio.timeout(DEADLINE_S):
        while not _trials():
            await asyncio.sleep(0.01)
    start.cancel()
    await asyncio.wait_for(engine.close(), DEADLINE_S)
    assert not _trials()


def _trials() -> list[int]:
    """The children of this process that try models."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"atril_inference.trial" in command:
            found.append(int(stat.parent.name))
    return found
