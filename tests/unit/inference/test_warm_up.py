"""What models are run on before they are served, and what follows from how long that took."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest
from atril_common.errors import NotReadyError
from atril_common.tensors import TensorSpec, tensor_to_bytes
from atril_inference import session as session_module
from atril_inference.session import OnnxSession
from atril_inference.session_options import SessionOptions
from atril_inference.warm_up import WarmUpSample, batch_sizes, warm_up_samples
from tests.support import tiny_models

CPU = SessionOptions(device="cpu", intra_op_threads=1)
X = (TensorSpec("x", "FP32", (-1, 4)),)
BUDGET_S = 60.0


def parsed(text: str) -> ModelConfig:
    """A configuration from its text."""
    return text_format.Parse(text, ModelConfig())


def samples(config: ModelConfig, inputs: Any = X, folder: Path = Path()) -> list[WarmUpSample]:
    """All samples of a model."""
    return list(warm_up_samples(config, inputs, folder))


def opened(folder: Path, model: ModelProto) -> OnnxSession:
    """A session that is not warmed up yet."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxSession.load(path, "1", CPU)


def test_the_powers_of_two_and_the_maximum_are_warmed_up() -> None:
    """Smallest and largest first, for they are what is left when time runs out."""
    assert batch_sizes(parsed("max_batch_size: 48")) == (1, 48, 32, 16, 8, 4, 2)


def test_the_preferred_sizes_are_warmed_up() -> None:
    """Beside the powers of two; one over the maximum is never run."""
    config = parsed("max_batch_size: 8 dynamic_batching { preferred_batch_size: [3, 6, 9] }")
    assert batch_sizes(config) == (1, 8, 6, 4, 3, 2)


@given(st.integers(-1, 5000), st.lists(st.integers(-10, 6000), max_size=4))
def test_every_size_is_one_that_is_served(limit: int, preferred: list[int]) -> None:
    """No size twice, none over the maximum, 1 and the maximum always."""
    config = ModelConfig(max_batch_size=limit)
    config.dynamic_batching.preferred_batch_size.extend(preferred)
    sizes = batch_sizes(config)
    assert len(set(sizes)) == len(sizes)
    assert min(sizes) == sizes[0] == 1
    assert max(sizes) == max(1, limit)


def test_a_model_without_batches_is_run_on_its_own_shape() -> None:
    """Variable dimensions are taken as 1."""
    (sample,) = samples(ModelConfig(), [TensorSpec("x", "INT64", (-1, 3))])
    assert sample.inputs["x"].shape == (1, 3)
    assert sample.inputs["x"].dtype == np.int64


def test_zeros_of_every_datatype_can_be_made() -> None:
    """Strings are empty ones."""
    (sample,) = samples(ModelConfig(), [TensorSpec("s", "BYTES", (2,))])
    assert sample.inputs["s"].tolist() == [b"", b""]


def test_samples_of_the_configuration_come_first_and_stand_for_their_size() -> None:
    """`model_warmup`: zero and random data; sizes that it leaves out are run on zeros."""
    config = parsed(
        """max_batch_size: 4
           model_warmup { name: "some" batch_size: 4 count: 5
             inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } } }
           model_warmup { name: "none" batch_size: 1
             inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }"""
    )
    some, none, rest = samples(config)
    assert (some.name, some.batch_size, some.runs, some.declared) == ("some", 4, 5, True)
    assert some.inputs["x"].shape == (4, 4)
    assert some.inputs["x"].any()
    assert not none.inputs["x"].any()
    assert (rest.batch_size, rest.declared) == (2, False)


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "UINT64", "FP16", "FP64", "STRING"])
def test_random_data_of_every_kind_can_be_made(datatype: str) -> None:
    """Whole numbers stay small, for they are often indices."""
    spec = TensorSpec("x", "BYTES" if datatype == "STRING" else datatype, (50,))
    config = parsed(
        f"""model_warmup {{ inputs {{ key: "x"
              value {{ data_type: TYPE_{datatype} dims: 50 random_data: true }} }} }}"""
    )
    values = samples(config, [spec])[0].inputs["x"]
    assert values.shape == (50,)
    assert len(set(values.tolist())) > 1


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", np.arange(8, dtype=np.float32).reshape(2, 4)),
        ("STRING", np.array([[b"a", b"bc", b"", b"d"]] * 2, dtype=object)),
    ],
)
def test_a_sample_may_be_a_file(tmp_path: Path, datatype: str, values: Any) -> None:
    """The raw contents of the whole batch, from the model's `warmup` folder."""
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "raw").write_bytes(tensor_to_bytes(values))
    spec = TensorSpec("x", "BYTES" if datatype == "STRING" else datatype, (-1, 4))
    config = parsed(
        f"""max_batch_size: 2 model_warmup {{ batch_size: 2 inputs {{ key: "x"
              value {{ data_type: TYPE_{datatype} dims: 4 input_data_file: "raw" }} }} }}"""
    )
    assert np.array_equal(samples(config, [spec], tmp_path)[0].inputs["x"], values)


VALUE = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 %s } }'


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ("batch_size: 9 " + VALUE % "", "batch_size is 9, the model takes at most 8"),
        ("count: 101 " + VALUE % "", "count is 101, at most 100"),
        ("", r"has the inputs \[\], not \['x'\]"),
        ('inputs { key: "z" value { } }', r"has the inputs \['z'\]"),
        ('inputs { key: "x" value { data_type: TYPE_FP64 dims: 4 } }', "'x' is FP64"),
        ('inputs { key: "x" value { data_type: TYPE_FP32 dims: 5 } }', r"FP32 \[1, 5\], but"),
        ('inputs { key: "x" value { data_type: TYPE_FP32 dims: [4, 1] } }', "but the model takes"),
        ('inputs { key: "x" value { data_type: TYPE_FP32 dims: -1 } }', "but the model takes"),
        (VALUE % 'input_data_file: "missing"', "missing"),
        (VALUE % 'input_data_file: "short"', "needs 16 bytes, got 3"),
        (VALUE % 'input_data_file: "../config.pbtxt"', "outside the folder"),
        (VALUE % 'input_data_file: "/etc/hostname"', "outside the folder"),
        (VALUE % 'input_data_file: "link"', "outside the folder"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(tmp_path: Path, sample: str, text: str) -> None:
    """The reason names the sample and what is wrong with it."""
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short").write_bytes(b"abc")
    (tmp_path / "config.pbtxt").write_bytes(bytes(16))
    (tmp_path / "warmup" / "link").symlink_to(tmp_path / "config.pbtxt")
    config = parsed(f'max_batch_size: 8 model_warmup {{ name: "w" {sample} }}')
    with pytest.raises(NotReadyError, match=text) as raised:
        samples(config, folder=tmp_path)
    assert "model_warmup 'w'" in str(raised.value)


def test_each_sample_is_timed(tmp_path: Path) -> None:
    """By its name and its size; a first run is never shorter than the best."""
    session = opened(tmp_path, tiny_models.matmul())
    times = session.warm_up(samples(parsed("max_batch_size: 4")), BUDGET_S)
    assert [taken.batch_size for taken in times] == [1, 4, 2]
    assert all(taken.first_s >= taken.best_s > 0 for taken in times)


def test_a_spent_budget_leaves_out_what_nobody_asked_for(tmp_path: Path) -> None:
    """One sample is always run, and those that the configuration lists."""
    config = parsed(
        """max_batch_size: 64 model_warmup { name: "asked" batch_size: 2
             inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 } } }
           model_warmup { name: "asked too" batch_size: 3
             inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 } } }"""
    )
    session = opened(tmp_path, tiny_models.matmul())
    asked = session.warm_up(samples(config), 0.0)
    assert [taken.sample for taken in asked] == ["asked", "asked too"]
    assert len(session.warm_up(samples(parsed("max_batch_size: 64")), 0.0)) == 1


def test_a_model_that_fails_on_a_size_is_not_ready(tmp_path: Path) -> None:
    """The reason names the sample."""
    session = opened(tmp_path, tiny_models.pick())
    config = parsed(
        """model_warmup { name: "fifth" inputs { key: "row"
             value { data_type: TYPE_INT64 dims: 1 input_data_file: "row" } } }"""
    )
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "row").write_bytes(tensor_to_bytes(np.array([5])))
    with pytest.raises(NotReadyError, match="warm-up failed with fifth: onnxruntime failed"):
        session.warm_up(samples(config, session.inputs, tmp_path), BUDGET_S)


async def test_a_fast_model_runs_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided by the slowest sample: here even that one is within the budget."""
    monkeypatch.setattr(session_module, "INLINE_BUDGET_S", 1e9)
    session = opened(tmp_path, tiny_models.matmul())
    session.warm_up(samples(parsed("max_batch_size: 4")), BUDGET_S)
    result = session.execute(InferRequest("m", {"x": np.zeros((1, 4), np.float32)}))
    assert not isinstance(result, asyncio.Future)


async def test_a_slow_model_runs_in_as_many_threads_as_it_has_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its instances run at once: each waits in its run until the last one has begun."""
    monkeypatch.setattr(session_module, "INLINE_BUDGET_S", 0.0)
    session = opened(tmp_path, tiny_models.matmul())
    session.warm_up(samples(parsed("max_batch_size: 4")), BUDGET_S, instances=3)
    barrier = asyncio.Barrier(3)
    loop = asyncio.get_running_loop()
    run = session._run

    def meet(*batch: Any) -> Any:
        asyncio.run_coroutine_threadsafe(barrier.wait(), loop).result(20)
        return run(*batch)

    monkeypatch.setattr(session, "_run", meet)
    request = InferRequest("m", {"x": np.ones((1, 4), np.float32)})
    futures = [session.execute(request) for _ in range(3)]
    results = await asyncio.wait_for(asyncio.gather(*futures), 20)
    assert all(np.array_equal(r.outputs["y"][0], tiny_models.WEIGHTS.sum(0)) for r in results)
    session.close()
