"""What is loaded: versions that serve, their states and reasons, and the changes to them.

A change loads and warms up new versions in threads, then puts them in the place of the old ones in
one step on the event loop. The old ones answer what they have accepted and go. A version that
cannot be loaded takes nothing away: what served before goes on serving, and the index says why.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from atril_common.core import NO_LOAD_OPTIONS, LoadOptions, ModelIndexEntry
from atril_common.errors import (
    AtrilError,
    LoadFailedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
)
from atril_inference.served import Loaded, Served, Serving
from atril_inference.sources import ModelSource, VersionSource

logger = logging.getLogger(__name__)

READY, LOADING, UNLOADING, UNAVAILABLE = "READY", "LOADING", "UNLOADING", "UNAVAILABLE"
"""States of the index; a model that was never loaded has none."""

UNLOADED = "unloaded"
"""The reason of a version that was taken away on purpose."""

LOADS_AT_ONCE = 2
"""How many models load side by side; each may need the memory of two versions meanwhile."""

CHANGES_WAITING = 16
"""Most loads and unloads of one model that are under way or wait for each other."""


def index_order(entry: ModelIndexEntry) -> tuple[str, int]:
    """By name, then by the number of the version."""
    return entry.name, int(entry.version or 0)


class Loading(NamedTuple):
    """How a load is done; both block and are called in threads."""

    open: Callable[[str, LoadOptions], ModelSource]
    """Find out what a load is to bring."""
    load: Callable[[ModelSource, VersionSource], Loaded]
    """Load, check and warm up one version of it."""


class ModelManager:
    """Serves versions by model, and changes what is served; all of it on the event loop."""

    def __init__(self, loading: Loading, serving: Serving) -> None:
        self._loading = loading
        self._serving = serving
        # What is served is replaced, never changed: the metrics thread reads it, too.
        self._served: dict[str, dict[str, Served]] = {}
        self._latest: dict[str, Served] = {}
        self._identities: dict[Served, tuple[object, ...]] = {}
        self._entries: dict[str, dict[str, ModelIndexEntry]] = {}
        self._missed: set[str] = set()
        self._changing: dict[str, tuple[asyncio.Lock, int]] = {}
        self._slots = asyncio.Semaphore(LOADS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def served(self) -> Iterator[Served]:
        """Every ready version, by model and version."""
        served = list(self._served.items())
        for _, versions in sorted(served, key=lambda item: item[0]):
            yield from versions.values()

    def versions(self, model_name: str) -> tuple[str, ...]:
        """The versions of a model that serve, ascending."""
        return tuple(self._served.get(model_name, ()))

    def entries(self) -> list[ModelIndexEntry]:
        """Every version that was ever to be loaded, with its state."""
        entries = [entry for known in list(self._entries.values()) for entry in known.values()]
        return sorted(entries, key=index_order)

    def find(self, model_name: str, model_version: str) -> Served:
        """The version that answers; the highest where none is named.

        Raises:
            NotFoundError: unknown model or version (cases E01 to E03).
            NotReadyError: known, but it cannot answer now (case E04).
        """
        if not model_version:
            model = self._latest.get(model_name)
        else:
            model = self._served.get(model_name, {}).get(model_version)
        if model is None:
            raise self._absence(model_name, model_version)
        return model

    def was_unloaded(self, model_name: str, model_version: str) -> bool:
        """Whether a model, or one version of it, was taken away on purpose."""
        known = self._entries.get(model_name, {}).values()
        return any(e.reason == UNLOADED and model_version in ("", e.version) for e in known)

    def knows(self, model_name: str) -> bool:
        """Whether the model was ever to be loaded."""
        return model_name in self._entries

    def is_missed(self, model_name: str) -> bool:
        """Whether a version could not be loaded, and nothing served before goes on in its place."""
        return model_name in self._missed

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """Load a model, or what is new of it.

        Raises:
            AtrilError: as `InferenceCore.load`.
        """
        await self._change(model_name, lambda: self._load(model_name, options))

    async def unload(self, model_name: str) -> None:
        """Serve a model no more; what it has accepted is answered afterwards.

        Raises:
            NotFoundError: nothing of it was ever to be loaded.
        """
        await self._change(model_name, lambda: self._unload(model_name))

    def missing(self, model_name: str, reason: str) -> None:
        """Note that a model was to be there and is not."""
        self._missed.add(model_name)
        self._note(model_name, "", UNAVAILABLE, reason)

    async def close(self) -> None:
        """Change nothing more, answer what was accepted, let the sessions go."""
        self._closing = True
        changes = [task for task in self._tasks if not task.done()]
        for task in changes:
            task.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        await asyncio.gather(*(model.close() for model in self.served()))

    async def _change(self, model_name: str, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change after those of the same model that wait; a caller who leaves stops none."""
        if self._closing:
            raise NotReadyError("Server is stopping")
        lock, waiting = self._changing.get(model_name, (asyncio.Lock(), 0))
        if waiting >= CHANGES_WAITING:
            raise OverloadedError(
                f"{waiting} loads and unloads of model '{model_name}' wait for each other already"
            )
        self._changing[model_name] = lock, waiting + 1

        async def in_turn() -> None:
            try:
                async with lock:
                    await change()
            finally:
                waiting = self._changing[model_name][1]
                if waiting == 1:
                    del self._changing[model_name]
                else:
                    self._changing[model_name] = lock, waiting - 1

        await asyncio.shield(self._spawn(in_turn()))

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller was told, or has left; the index says it

    async def _load(self, model_name: str, options: LoadOptions) -> None:
        async with self._slots:
            try:
                source = await asyncio.to_thread(self._loading.open, model_name, options)
            except Exception as err:
                raise self._cannot_open(model_name, options, err) from err
            try:
                failures = await self._load_versions(model_name, source)
            finally:
                await asyncio.to_thread(source.discard)
        if failures:
            reasons = "; ".join(f"version {v}: {reason}" for v, reason in failures.items())
            raise LoadFailedError(f"failed to load '{model_name}', {reasons}")

    async def _load_versions(self, model_name: str, source: ModelSource) -> dict[str, str]:
        """Load what is not served yet, then serve it; the reasons of what could not be loaded."""
        served: dict[str, Served] = {}
        failures: dict[str, str] = {}
        before = self._served.get(model_name, {})
        for version in source.versions:
            label = str(version.number)
            old = before.get(label)
            if old is not None and self._identities[old] == version.identity:
                served[label] = old
                continue
            if old is None:
                self._note(model_name, label, LOADING)
            try:
                loaded = await asyncio.to_thread(self._loading.load, source, version)
                served[label] = loaded.serve(self._serving)
                self._identities[served[label]] = version.identity
            except (AtrilError, OSError) as err:
                failures[label] = str(err)
            except Exception as err:
                logger.exception("load_failed", extra={"model_name": model_name})
                failures[label] = f"cannot be loaded: {err!r}"
        self._swap(model_name, served, failures)
        return failures

    def _swap(self, model_name: str, served: dict[str, Served], failures: dict[str, str]) -> None:
        """Serve these versions from now on, and the old ones as well where one failed."""
        before = self._served.get(model_name, {})
        kept = {**before, **served} if failures else served
        self._serve(model_name, kept)
        self._entries[model_name] = {}
        if not failures:
            self._missed.discard(model_name)
        elif not before:
            self._missed.add(model_name)
        for label in kept:
            reason = (
                f"serves what was loaded before: {failures[label]}" if label in failures else ""
            )
            self._note(model_name, label, READY, reason)
        for label, reason in failures.items():
            if label not in kept:
                self._note(model_name, label, UNAVAILABLE, reason)
        for label, model in before.items():
            if kept.get(label) is not model:
                if label not in kept:
                    self._note(model_name, label, UNLOADING)
                self._spawn(self._retire(model))

    async def _unload(self, model_name: str) -> None:
        if model_name not in self._entries:
            raise NotFoundError(f"model '{model_name}' was never loaded")
        before = self._served.get(model_name, {})
        self._serve(model_name, {})
        self._missed.discard(model_name)
        for label in list(self._entries[model_name]):
            if label not in before:
                self._note(model_name, label, UNAVAILABLE, UNLOADED)
        for label, model in before.items():
            self._note(model_name, label, UNLOADING)
            self._spawn(self._retire(model))

    def _serve(self, model_name: str, versions: dict[str, Served]) -> None:
        ordered = dict(sorted(versions.items(), key=lambda item: int(item[0])))
        if ordered:
            self._served[model_name] = ordered
            self._latest[model_name] = ordered[next(reversed(ordered))]
        else:
            self._served.pop(model_name, None)
            self._latest.pop(model_name, None)

    async def _retire(self, model: Served) -> None:
        """Let a version that is served no more answer what it has accepted, and go."""
        del self._identities[model]
        await model.close()
        name, version = model.config.name, model.version
        entry = self._entries.get(name, {}).get(version)
        if entry is not None and entry.state == UNLOADING:
            self._note(name, version, UNAVAILABLE, UNLOADED)

    def _cannot_open(self, model_name: str, options: LoadOptions, error: Exception) -> AtrilError:
        """What the caller is told where a load brings nothing.

        The index says it, too, if the fault is the repository's and not the request's.
        """
        if not isinstance(error, (AtrilError, OSError)):
            logger.error("load_failed", exc_info=error, extra={"model_name": model_name})
        if isinstance(error, AtrilError) and options != NO_LOAD_OPTIONS:
            return error
        if isinstance(error, NotFoundError) and model_name not in self._entries:
            return error
        if model_name not in self._served:
            self._missed.add(model_name)
        self._note(model_name, "", UNAVAILABLE, str(error))
        return LoadFailedError(f"failed to load '{model_name}', {error}")

    def _absence(self, model_name: str, model_version: str) -> AtrilError:
        """Why a model or version cannot be had, as an error."""
        entries = [e for e in self.entries() if e.name == model_name]
        if not entries:
            known = ", ".join(sorted({e.name for e in self.entries()})) or "none"
            return NotFoundError(
                f"Request for unknown model: '{model_name}' is not found; models here: {known}"
            )
        wanted = [e for e in entries if model_version in ("", e.version) and e.version]
        if wanted and wanted[-1].reason != UNLOADED:
            entry = wanted[-1]
            return NotReadyError(
                f"Request for unready model: '{model_name}' version {entry.version} is not at "
                f"ready state: {entry.reason or entry.state}"
            )
        if model_version:
            return NotFoundError(
                f"Request for unknown model: '{model_name}' version {model_version} is not found"
            )
        return NotFoundError(
            f"Request for unknown model: '{model_name}' has no available versions: "
            f"{entries[-1].reason}"
        )

    def _note(self, name: str, version: str, state: str, reason: str = "") -> None:
        entry = ModelIndexEntry(name, version, state, reason)
        self._entries[name] = {**self._entries.get(name, {}), version: entry}
        failed = state == UNAVAILABLE and reason != UNLOADED
        logger.log(
            logging.ERROR if failed else logging.INFO,
            "model_state",
            extra={"model_name": name, "model_version": version, "state": state, "reason": reason},
        )
