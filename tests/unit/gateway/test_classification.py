"""The use case: what the core is asked, what is made of its answer, and how it ends early."""

import asyncio
from dataclasses import asdict

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atril_common.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
)
from atril_common.imaging import normalise, pixels_from_image
from atril_common.tasks import ClassificationTask, FeaturesInput, write_task
from atril_gateway.classification import (
    MAX_TOP_K,
    Classification,
    Classifier,
    top_labels,
)
from atril_gateway.offload import Offload

from .fakes import COLOUR, GREY, LABELS, FakeCore, classifier_config, probabilities_of


def classifier(core: FakeCore, timeout_s: float = 30.0) -> Classifier:
    """The use case over the fake core."""
    return Classifier(core, timeout_s, Offload(1, 2))


def greys(*values: int, size: int = 4) -> list[Image.Image]:
    """One even picture for each value."""
    return [Image.new("L", (size, size), value) for value in values]


def expected_top(value: int) -> int:
    """The index of the label that the fake finds most probable for an even grey picture."""
    batch = normalise(pixels_from_image(greys(value)[0], GREY)[None], GREY)
    return int(probabilities_of(batch)[0].argmax())


def winners(answer: Classification) -> list[int]:
    """The most probable index of each picture."""
    return [result.top[0].index for result in answer.results]


async def test_the_answer_has_labels_probabilities_version_and_timing(core: FakeCore) -> None:
    """The labels come from the model's configuration and the version from the core's answer."""
    answer = await classifier(core).classify("grey", "", greys(90), top_k=2)
    batch = normalise(pixels_from_image(greys(90)[0], GREY)[None], GREY)
    probabilities = probabilities_of(batch)[0]
    best, second = np.argsort(-probabilities)[:2]
    assert (answer.model_name, answer.model_version) == ("grey", "3")
    assert [score.index for score in answer.results[0].top] == [best, second]
    assert answer.results[0].top[0].label == LABELS[best]
    assert answer.results[0].top[0].probability == probabilities[best]
    timing = answer.timing
    assert 0 <= timing.preprocess_ms + timing.inference_ms <= timing.total_ms + 0.01


async def test_the_core_gets_the_models_input(core: FakeCore) -> None:
    """The tensor has the name, shape and normalisation that the configuration declares."""
    picture = Image.new("RGB", (9, 5), (10, 20, 30))
    await classifier(core).classify("colour.v1-small", "2", [picture.copy()])
    (request,) = core.requests
    assert (request.model_name, request.model_version) == ("colour.v1-small", "2")
    assert request.outputs == ("probabilities",)
    assert request.deadline_s is not None
    expected = normalise(pixels_from_image(picture, COLOUR)[None], COLOUR)
    np.testing.assert_array_equal(request.inputs["image"], expected)


@pytest.mark.parametrize(("pictures", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
async def test_many_pictures_are_split_into_batches(
    core: FakeCore, pictures: int, sizes: list[int]
) -> None:
    """No request to the core is over the model's max_batch_size, and the order is kept."""
    values = [20 * i for i in range(pictures)]
    answer = await classifier(core).classify("grey", "", greys(*values))
    assert [len(request.inputs["image"]) for request in core.requests] == sizes
    assert winners(answer) == [expected_top(value) for value in values]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=12))
def test_each_picture_is_answered_as_if_it_were_alone(values: list[int]) -> None:
    """Batching is invisible: result i of many equals the result of picture i."""

    async def ask() -> tuple[Classification, list[Classification]]:
        use_case = classifier(FakeCore(classifier_config("grey")))
        alone = [await use_case.classify("grey", "", greys(value)) for value in values]
        return await use_case.classify("grey", "", greys(*values)), alone

    together, alone = asyncio.run(ask())
    assert together.results == tuple(answer.results[0] for answer in alone)


@pytest.mark.parametrize(("rank", "shape"), [(3, (1, 4, 4)), (4, (1, 1, 4, 4))])
async def test_a_model_without_batches_gets_one_picture_at_a_time(
    core: FakeCore, rank: int, shape: tuple[int, ...]
) -> None:
    """With max_batch_size 0 the tensor has just the dimensions that the model declares."""
    if rank == 4:
        core.configs["single"].input[0].dims.insert(0, 1)
    answer = await classifier(core).classify("single", "", greys(10, 200))
    assert [request.inputs["image"].shape for request in core.requests] == [shape, shape]
    assert winners(answer) == [expected_top(10), expected_top(200)]


async def test_one_answer_comes_from_one_version(core: FakeCore) -> None:
    """If a reload falls between two batches, both are run again on the newer version."""
    core.versions_answered = ["9", "10"]
    answer = await classifier(core).classify("grey", "", greys(*range(5)))
    assert answer.model_version == "10"
    assert [request.model_version for request in core.requests] == ["", "", "10", "10"]


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    st.integers(1, MAX_TOP_K),
)
def test_top_labels_are_the_most_probable_in_order(probabilities: list[float], top_k: int) -> None:
    """Sorted by probability, then by index; as many as asked for, or all."""
    labels = [f"label {i}" for i in range(len(probabilities))]
    top = top_labels(np.array(probabilities, np.float32), labels, top_k)
    everything = sorted(range(len(labels)), key=lambda i: (-probabilities[i], i))
    assert [score.index for score in top] == everything[:top_k]
    assert all(score.label == labels[score.index] for score in top)
    assert all(score.probability == np.float32(probabilities[score.index]) for score in top)


@pytest.mark.parametrize("top_k", [0, -1, 1001])
async def test_top_k_has_bounds(core: FakeCore, top_k: int) -> None:
    """Nobody needs no label, and nobody more than a thousand."""
    with pytest.raises(InvalidInputError, match=f"top_k is {top_k}: expected 1 … 1000"):
        await classifier(core).classify("grey", "", greys(1), top_k)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("translator", "'translator' is not a classifier: it is for 'translation'"),
        ("bare", "'bare' is not a classifier: its configuration declares no task"),
    ],
)
async def test_a_model_of_another_kind_is_refused(core: FakeCore, model: str, match: str) -> None:
    """The error names the model and says what it is for."""
    with pytest.raises(InvalidInputError, match=match):
        await classifier(core).classify(model, "", greys(1))


_NO_LABELS = orjson.dumps({"input": asdict(GREY), "output": "p", "labels": []}).decode()


@pytest.mark.parametrize(
    ("facts", "match"),
    [("{}", "malformed parameter"), (_NO_LABELS, "without labels")],
)
async def test_a_broken_declaration_is_not_the_callers_fault(
    core: FakeCore, facts: str, match: str
) -> None:
    """A classifier whose task facts cannot be read is not ready."""
    core.configs["grey"].parameters["atril.classification"].string_value = facts
    with pytest.raises(NotReadyError, match=match):
        await classifier(core).classify("grey", "", greys(1))


async def test_a_classifier_of_something_else_is_refused(core: FakeCore) -> None:
    """A model of rows of numbers cannot see a picture; the error says what it takes."""
    features = FeaturesInput("features", ("petal length", "petal width"))
    write_task(core.configs["grey"], ClassificationTask(features, "probabilities", LABELS))
    with pytest.raises(InvalidInputError, match=r"takes features \(petal length, petal width\)"):
        await classifier(core).classify("grey", "", greys(1))


async def test_an_unknown_model_is_the_cores_to_tell(core: FakeCore) -> None:
    """The core's error passes unchanged, and the name is not taken for a model's."""
    use_case = classifier(core)
    with pytest.raises(NotFoundError, match="unknown model 'nothing'"):
        await use_case.classify("nothing", "", greys(1))
    await use_case.classify("grey", "", greys(1))
    assert use_case.has_found("grey")
    assert not use_case.has_found("nothing")


BAD_OUTPUTS = {
    "missing": ({}, "shape \\[None\\]: expected 1 × 5"),
    "wrong width": ({"probabilities": np.zeros((1, 4))}, "shape \\[\\[1, 4\\]\\]"),
    "too many rows": ({"probabilities": np.zeros((2, 5))}, "shape \\[\\[2, 5\\]\\]"),
    "empty": ({"probabilities": np.zeros((0, 5))}, "shape \\[\\[0, 5\\]\\]"),
    "nan": ({"probabilities": np.full((1, 5), np.nan)}, "not finite"),
    "infinite": ({"probabilities": np.full((1, 5), np.inf)}, "not finite"),
}


@pytest.mark.parametrize(("outputs", "match"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
async def test_an_answer_that_is_no_probabilities_is_an_error(
    core: FakeCore, outputs: dict[str, np.ndarray], match: str
) -> None:
    """What a broken model answers never reaches the caller; the error names the model."""
    core.answer = outputs
    with pytest.raises(InternalError, match=f"model 'grey' version 3 answered .*{match}"):
        await classifier(core).classify("grey", "", greys(1))


async def test_cancelling_drops_the_requests(core: FakeCore) -> None:
    """A caller who goes away takes all batches along."""
    core.hold = True
    task = asyncio.create_task(classifier(core).classify("grey", "", greys(*range(9))))
    await core.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(core.futures) == 3
    assert all(future.cancelled() for future in core.futures)


async def test_a_refused_batch_drops_the_others(core: FakeCore) -> None:
    """When the queue is full for one batch, those accepted before it are not run for nothing."""
    core.hold = True
    core.error, core.error_at = OverloadedError("queue is full"), 2
    with pytest.raises(OverloadedError):
        await classifier(core).classify("grey", "", greys(*range(9)))
    assert [future.cancelled() for future in core.futures] == [True, True]


@pytest.mark.parametrize(("limit_s", "timeout_s"), [(0.001, None), (30.0, 0.001), (30.0, 0.0)])
async def test_a_late_answer_is_an_error(
    core: FakeCore, limit_s: float, timeout_s: float | None
) -> None:
    """The shorter of the caller's time and the service's own counts; the requests are dropped."""
    core.hold = True
    with pytest.raises(DeadlineExceededError, match="'grey' did not answer within 0"):
        await classifier(core, limit_s).classify("grey", "", greys(1), timeout_s=timeout_s)
    assert all(future.cancelled() for future in core.futures)


async def test_a_big_picture_is_answered_like_a_small_one(core: FakeCore) -> None:
    """Decoding in a thread gives what decoding on the loop gives."""
    use_case = classifier(core)
    big = await use_case.classify("grey", "", greys(77, size=400))
    assert big.results == (await use_case.classify("grey", "", greys(77))).results
