"""Whatever is published, broken, removed, loaded and unloaded: what serves goes on serving."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atril_common.core import InferRequest
from atril_common.errors import AtrilError, LoadFailedError
from atril_inference.control import ControlMode, ModelControl
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.session_options import SessionOptions
from tests.support import tiny_models
from tests.support.repositories import config_of, write_model

CPU = SessionOptions(device="cpu", intra_op_threads=1)
VERSIONS = st.integers(1, 3)
X = np.zeros((1, 1), np.float32)


class Repository(RuleBasedStateMachine):
    """One model of up to three versions under `version_policy { all {} }`.

    `files` is what the repository holds by version: what the version adds, or None for a broken
    file. `served` is what must answer, by version.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        config = config_of("m", tiny_models.add_constant(0), max_batch_size=8, queue_delay_us=0)
        config.version_policy.all.SetInParent()
        self.folder = write_model(self.root, config, {})
        self.files: dict[int, float | None] = {}
        self.served: dict[int, float] = {}
        self.loaded_once = False
        self.next_constant = 1.0
        self.loop = asyncio.new_event_loop()
        self.engine = self.run(self._start())

    async def _start(self) -> Engine:
        control = ModelControl(ControlMode.EXPLICIT)
        engine = Engine(LocalRepository(self.root), CPU, 64, control)
        await engine.start()
        return engine

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the engine's loop."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @rule(version=VERSIONS)
    def publish(self, version: int) -> None:
        """A good version, new or in the place of another."""
        model = tiny_models.add_constant(self.next_constant)
        self._put(version, model.SerializeToString())
        self.files[version] = self.next_constant
        self.next_constant += 1

    @rule(version=VERSIONS)
    def break_version(self, version: int) -> None:
        """A version that cannot be loaded."""
        self._put(version, b"not onnx" + bytes(int(self.next_constant)))
        self.files[version] = None
        self.next_constant += 1

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A version that is there no more."""
        version = data.draw(st.sampled_from(sorted(self.files)))
        shutil.rmtree(self.folder / str(version))
        del self.files[version]

    @rule()
    def load(self) -> None:
        """The good versions serve; if any is broken, what served before goes on beside them."""
        good = {v: c for v, c in self.files.items() if c is not None}
        if len(good) == len(self.files) and good:
            self.run(self.engine.load("m"))
            self.served = good
        else:
            assert isinstance(self._error(lambda: self.engine.load("m")), LoadFailedError)
            if self.files:
                self.served = {**self.served, **good}
        self.loaded_once = True

    @rule(times=st.integers(2, 4))
    def load_at_once(self, times: int) -> None:
        """Several loads of one model at the same time come to the same as one."""

        async def together() -> None:
            await asyncio.gather(
                *(self.engine.load("m") for _ in range(times)), return_exceptions=True
            )

        self.run(together())
        self.load()

    @rule()
    def unload(self) -> None:
        """Nothing serves."""
        self.run(self.engine.unload("m"))
        self.served = {}

    @invariant()
    def what_must_answer_answers(self) -> None:
        """Each version as it was loaded last, the highest where none is named, no other."""
        for version in (1, 2, 3):
            if version in self.served:
                assert self.run(self._answer(str(version))) == self.served[version]
            else:
                assert isinstance(self._error(lambda v=version: self._answer(str(v))), AtrilError)
        if self.served:
            assert self.run(self._answer("")) == self.served[max(self.served)]
        else:
            assert isinstance(self._error(lambda: self._answer("")), AtrilError)

    @invariant()
    def the_index_agrees(self) -> None:
        """READY is what answers; whatever is not has a reason; the engine itself stays ready."""
        entries = self.run(self.engine.index())
        assert {int(e.version) for e in entries if e.state == "READY"} == set(self.served)
        for entry in entries:
            assert entry.state in ("READY", "UNLOADING", "") or entry.reason
            assert entry.state != "LOADING"
        assert self.run(self.engine.ready())
        assert len(list(self.engine.served())) == len(self.served)

    def teardown(self) -> None:
        """Close the engine and the loop."""
        self.run(self.engine.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    async def _answer(self, version: str) -> float:
        response = await self.engine.infer(InferRequest("m", {"x": X}, version))
        return float(response.outputs["y"][0, 0])

    def _error(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Exception | None:
        try:
            self.run(work())
        except AtrilError as err:
            return err
        return None

    def _put(self, version: int, content: bytes) -> None:
        place = self.folder / str(version)
        place.mkdir(exist_ok=True)
        staged = self.root / ".staged"
        staged.write_bytes(content)
        staged.replace(place / "model.onnx")


Repository.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestRepository = Repository.TestCase
