"""Continuous batching against the reference search, one request at a time, on the same graphs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atril_common.batching import BatchResult
from atril_common.core import InferRequest
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    InternalError,
    NotReadyError,
    OverloadedError,
)
from atril_inference.decoding.scheduler import ContinuousDecoder, DecodingLimits, Generation
from atril_inference.decoding.search import BeamSearch, GreedySearch, Hypothesis, Search
from atril_models.translation import Search as ReferenceSearch
from atril_models.translation import decode
from atril_training.tasks.translation_exports import DECODER, ENCODER, EXPLAINER
from tests.support.exported_decoders import GraphExecutor, exported_parts
from tests.support.exported_translator import ExportedTranslator
from tests.support.slim_translators import BOS, EOS, SLIM, random_tokens

TIE = 1e-4
"""Of two tokens whose logits are closer than this, either may be taken."""


class Observed:
    """Keeps what it is told, as a list of events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def admitted(self, waited_s: float) -> None:
        """See `DecodingObserver`."""
        assert waited_s >= 0
        self.events.append(("admitted", 1))

    def first_token(self, since_submitted_s: float) -> None:
        """See `DecodingObserver`."""
        assert since_submitted_s >= 0
        self.events.append(("first", 1))

    def stepped(self, rows: int, tokens: int, duration_s: float) -> None:
        """See `DecodingObserver`."""
        assert duration_s >= 0
        self.events.append(("step", rows))
        self.events.append(("tokens", tokens))

    def rows(self) -> list[int]:
        """Rows of each step."""
        return [number for name, number in self.events if name == "step"]


class Wanted(NamedTuple):
    """One request of a scenario."""

    length: int
    seed: int
    beam: int
    max_length: int
    penalty: float
    after: int
    """How many turns of the loop later than the one before it comes."""
    leaves_after: int | None
    """After how many tokens its caller leaves, if it does."""

    def source(self) -> list[int]:
        """Its tokens."""
        tokens: list[int] = random_tokens(self.length, seed=self.seed).tolist()
        return tokens

    def search(self) -> Search:
        """A fresh search."""
        if self.beam == 1:
            return GreedySearch(EOS, self.max_length, self.penalty)
        return BeamSearch(EOS, self.max_length, self.beam, self.penalty, n_best=self.beam)


WANTED = st.builds(
    Wanted,
    length=st.integers(1, 9),
    seed=st.integers(0, 50),
    beam=st.sampled_from([1, 1, 1, 2, 3]),
    max_length=st.integers(1, 20),
    penalty=st.sampled_from([0.0, 0.6]),
    after=st.integers(0, 12),
    leaves_after=st.none() | st.none() | st.integers(0, 5),
)


def greedy(length: int = 3, max_length: int = 10, seed: int = 0) -> Wanted:
    """A greedy request."""
    return Wanted(length, seed, 1, max_length, 0.0, 0, None)


def expected(form: str, wanted: Wanted, *, explain: bool = False) -> list[Hypothesis]:
    """What the reference finds for it alone."""
    contract, graphs = exported_parts(form)
    step = graphs[EXPLAINER if explain else DECODER]
    model = ExportedTranslator(contract, graphs[ENCODER], step, explain=explain)
    search = ReferenceSearch(
        bos_id=BOS, eos_id=EOS, max_length=wanted.max_length, beam=wanted.beam,
        length_penalty=wanted.penalty, n_best=wanted.beam, explain=explain,
    )  # fmt: skip
    source = torch.tensor([wanted.source()])
    (found,) = decode(model, source, torch.tensor([wanted.length]), search)
    return [
        Hypothesis(f.tokens, f.log_probability, f.score, f.finished, f.attention) for f in found
    ]


def assert_same(found: list[Hypothesis], reference: list[Hypothesis]) -> None:
    """Token for token, but where two hypotheses are as likely as rounding can tell."""
    assert len(found) == len(reference)
    for mine, other in zip(found, reference, strict=True):
        assert mine.score == pytest.approx(other.score, abs=TIE)
        if mine.tokens != other.tokens:
            assert mine.log_probability == pytest.approx(other.log_probability, abs=TIE)
        assert mine.finished == other.finished


@asynccontextmanager
async def decoder(
    form: str = "transformer", *, slots: int = 8, queue: int = 100, explain: bool = False
) -> AsyncIterator[tuple[ContinuousDecoder, Observed, GraphExecutor]]:
    """A decoder over the graphs of a slim form, closed in the end."""
    _, graphs = exported_parts(form)
    encoder = GraphExecutor(graphs[ENCODER])
    step = GraphExecutor(graphs[EXPLAINER if explain else DECODER])
    observed = Observed()
    limits = DecodingLimits(slots=slots, max_queue_size=queue)
    subject = ContinuousDecoder("slim", encoder, step, step.layout(), limits, observed)
    yield subject, observed, step
    await asyncio.wait_for(subject.close(), 30)


def submit(
    subject: ContinuousDecoder,
    wanted: Wanted,
    written: Callable[[int], None] = lambda _: None,
    deadline_s: float | None = None,
) -> Generation:
    """Hand a request in."""
    return subject.submit(wanted.source(), BOS, wanted.search(), written, deadline_s)


async def spin(turns: int) -> None:
    """Let the loop run what is due so many times."""
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.mark.parametrize("form", SLIM)
def test_any_mix_of_requests_is_decoded_as_each_alone(form: str) -> None:
    """Greedy and beams, early and late, long and short, left and stayed: tokens as torch finds."""

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(WANTED, min_size=1, max_size=7), st.integers(3, 8))
    def check(scenario: list[Wanted], slots: int) -> None:
        asyncio.run(_play(form, scenario, slots))

    check()


async def _play(form: str, scenario: list[Wanted], slots: int) -> None:
    async with decoder(form, slots=slots) as (subject, observed, step):
        generations: list[tuple[Wanted, Generation, list[int]]] = []
        for wanted in scenario:
            await spin(wanted.after)
            tokens: list[int] = []
            generations.append((wanted, _leaving(subject, wanted, tokens), tokens))
        await asyncio.wait([generation.result for _, generation, _ in generations], timeout=60)
        for wanted, generation, tokens in generations:
            if wanted.leaves_after is not None and generation.result.cancelled():
                continue
            found = generation.result.result()
            assert_same(found, expected(form, wanted))
            if wanted.beam == 1:
                assert tuple(tokens) == found[0].tokens
        if all(wanted.leaves_after is None for wanted in scenario):
            told = sum(number for name, number in observed.events if name == "tokens")
            assert told == sum(len(g.result.result()[0].tokens) for _, g, _ in generations)
        assert max(step.sizes, default=0) <= slots
    assert (subject.active_slots, subject.waiting) == (0, 0)
    assert observed.rows() == step.sizes


def _leaving(subject: ContinuousDecoder, wanted: Wanted, tokens: list[int]) -> Generation:
    """Submit a request whose caller may leave after some of its tokens."""

    def written(token: int) -> None:
        tokens.append(token)
        if len(tokens) == wanted.leaves_after:
            generation.result.cancel()

    generation = submit(subject, wanted, written)
    if wanted.leaves_after == 0:
        generation.result.cancel()
    return generation


async def test_a_late_request_writes_before_an_early_one_ends() -> None:
    """Who comes while others are decoded joins their next step."""
    async with decoder() as (subject, observed, _):
        early = submit(subject, greedy(max_length=40))
        while len(observed.rows()) < 3:
            await asyncio.sleep(0)
        late_tokens: list[int] = []
        late = submit(subject, greedy(max_length=3, seed=1), late_tokens.append)
        await late.result

        assert late_tokens
        assert not early.result.done()
        assert observed.rows()[:4] == [1, 1, 1, 2]
        await early.result


async def test_a_freed_slot_is_used_in_the_next_step() -> None:
    """With both slots taken, the third request waits for the first to end, and no longer."""
    async with decoder(slots=2) as (subject, observed, _):
        wanted = [greedy(max_length=3), greedy(max_length=9, seed=1), greedy(max_length=4, seed=2)]
        lengths = [len(expected("transformer", one)[0].tokens) for one in wanted]
        assert lengths == [3, 9, 4]  # none of them ends by itself

        await asyncio.gather(*(submit(subject, one).result for one in wanted))

        assert observed.rows() == [2] * 7 + [1] * 2


async def test_a_beam_waits_for_as_many_slots_as_it_may_take() -> None:
    """It is admitted whole, and who comes after it does not overtake it."""
    async with decoder(slots=3) as (subject, observed, _):
        first = submit(subject, greedy(max_length=5))
        beam = submit(subject, greedy(max_length=5, seed=1)._replace(beam=3))
        last = submit(subject, greedy(max_length=5, seed=2))
        order: list[str] = []
        for name, generation in (("first", first), ("beam", beam), ("last", last)):
            generation.result.add_done_callback(lambda _, name=name: order.append(name))
        await asyncio.gather(first.result, beam.result, last.result)

    assert order == ["first", "beam", "last"]
    assert max(observed.rows()) <= 3


async def test_a_cancelled_request_frees_its_slot_between_steps() -> None:
    """The next step runs without it, and the others' answers are untouched."""
    async with decoder() as (subject, observed, _):
        leaving = submit(subject, greedy(max_length=40))
        staying = submit(subject, greedy(max_length=12, seed=1))
        while len(observed.rows()) < 2:
            await asyncio.sleep(0)
        leaving.result.cancel()

        assert_same(await staying.result, expected("transformer", greedy(max_length=12, seed=1)))
        assert observed.rows() == [2, 2] + [1] * (len(observed.rows()) - 2)


async def test_a_deadline_ends_a_request_between_steps() -> None:
    """What nobody waits for is not decoded to its end."""
    async with decoder() as (subject, observed, _):
        past = asyncio.get_running_loop().time() - 1
        generation = submit(subject, greedy(max_length=40), deadline_s=past)

        with pytest.raises(DeadlineExceededError, match="deadline passed"):
            await generation.result
        assert observed.rows() == []


async def test_the_queue_is_bounded() -> None:
    """Who finds it full is told so; a caller who left gives his place up."""
    async with decoder(slots=1, queue=1) as (subject, _, _):
        waiting = submit(subject, greedy())
        with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 1"):
            submit(subject, greedy())
        waiting.result.cancel()
        assert await submit(subject, greedy()).result


async def test_a_beam_wider_than_the_table_is_refused() -> None:
    """It would wait for ever."""
    async with decoder(slots=2) as (subject, _, _):
        with pytest.raises(AtrilError, match="beam of 3"):
            submit(subject, greedy()._replace(beam=3))


async def test_a_closed_decoder_ends_what_it_accepted() -> None:
    """A model that is unloaded answers whom it has accepted, and nobody else."""
    async with decoder() as (subject, _, _):
        generation = submit(subject, greedy(max_length=5))
        await subject.close()

        assert generation.result.done()
        with pytest.raises(NotReadyError, match="unloading"):
            submit(subject, greedy())


class _Failing(GraphExecutor):
    """Fails at one of its runs."""

    fails_at = 0

    def execute(self, batch: InferRequest) -> BatchResult:
        """See `Executor.execute`."""
        if len(self.sizes) == self.fails_at:
            self.sizes.append(0)
            raise ValueError("broken")
        return super().execute(batch)


@pytest.mark.parametrize("part", [ENCODER, DECODER])
async def test_a_failure_ends_whom_it_concerns_and_nobody_else(part: str) -> None:
    """The next request is decoded as if nothing had happened."""
    _, graphs = exported_parts("transformer")
    encoder, step = (
        (_Failing if suffix == part else GraphExecutor)(graphs[suffix])
        for suffix in (ENCODER, DECODER)
    )
    limits = DecodingLimits(slots=4, max_queue_size=4)
    subject = ContinuousDecoder("slim", encoder, step, step.layout(), limits, Observed())

    with pytest.raises(InternalError, match="the reason is in the server's log"):
        await submit(subject, greedy()).result

    assert_same(await submit(subject, greedy()).result, expected("transformer", greedy()))
    assert subject.active_slots == 0


@pytest.mark.parametrize("beam", [1, 2])
async def test_attention_is_told_of_each_token(beam: int) -> None:
    """The explaining step's weights follow the hypothesis that they belong to."""
    wanted = greedy(length=5)._replace(beam=beam)
    async with decoder("bahdanau", explain=True) as (subject, _, _):
        other = submit(subject, greedy(length=9, seed=3))
        found = await submit(subject, wanted).result
        await other.result

    for mine, reference in zip(found, expected("bahdanau", wanted, explain=True), strict=True):
        assert mine.tokens == reference.tokens
        assert len(mine.attention) == len(reference.attention) == len(mine.tokens) + mine.finished
        for weights, known in zip(mine.attention, reference.attention, strict=True):
            assert weights[: wanted.length] == pytest.approx(known, abs=1e-5)
