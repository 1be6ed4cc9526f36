"""Who decides which models are loaded: nobody after the start, the repository, or requests.

none      every model of the repository is loaded at the start, and nothing changes after that
poll      as none; then what changes in the repository changes what is served
explicit  the models that the settings name are loaded at the start, others on request
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from atril_common.core import NO_LOAD_OPTIONS, LoadOptions
from atril_common.errors import AtrilError, NotFoundError, NotReadyError
from atril_inference.manager import ModelManager
from atril_inference.repository import Fingerprint, Repository

logger = logging.getLogger(__name__)

ALL_MODELS = "*"


class ControlMode(StrEnum):
    """Triton's model control modes."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


class ModelControl(NamedTuple):
    """The mode, and what it needs to know."""

    mode: ControlMode = ControlMode.NONE
    poll_interval_s: float = 5.0
    load_models: tuple[str, ...] = ()
    """What explicit control loads at the start; `*` is everything."""


class Controller:
    """Loads at the start what is to be loaded, and lets the repository or requests change it."""

    def __init__(
        self, control: ModelControl, repository: Repository, manager: ModelManager
    ) -> None:
        self._control = control
        self._repository = repository
        self._manager = manager
        self._required: tuple[str, ...] | None = None
        self._loaded = False
        self._polling: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether all that the start was to load is served, unless it was unloaded since."""
        return (
            self._loaded
            and self._required is not None
            and not any(self._manager.is_missed(name) for name in self._required)
        )

    async def start(self) -> None:
        """Load what is to be loaded; the reasons of what cannot be are in the index."""
        seen = await self._snapshot() if self._control.mode is ControlMode.POLL else None
        try:
            self._required = await self._wanted()
        except OSError:
            logger.exception("repository_unreadable")
        await self._load_all(self._required or ())
        self._loaded = True
        if self._control.mode is ControlMode.POLL:
            self._polling = asyncio.create_task(self._poll(dict(seen or {})))

    async def close(self) -> None:
        """Change nothing more."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """Load on request.

        Raises:
            AtrilError: as `InferenceCore.load`.
        """
        self._require_explicit()
        await self._manager.load(model_name, options)

    async def unload(self, model_name: str) -> None:
        """Unload on request.

        Raises:
            AtrilError: as `InferenceCore.unload`.
        """
        self._require_explicit()
        if self._manager.knows(model_name):
            await self._manager.unload(model_name)
        elif model_name not in await asyncio.to_thread(self._repository.names):
            raise NotFoundError(f"failed to unload '{model_name}': there is no such model")

    def _require_explicit(self) -> None:
        if self._control.mode is not ControlMode.EXPLICIT:
            raise NotReadyError(
                f"explicit model load / unload is not allowed: the model control mode is "
                f"'{self._control.mode}', not 'explicit'"
            )

    async def _wanted(self) -> tuple[str, ...]:
        """What the start is to load."""
        named = self._control.load_models
        if self._control.mode is ControlMode.EXPLICIT and ALL_MODELS not in named:
            return named
        return tuple(await asyncio.to_thread(self._repository.names))

    async def _load_all(self, names: Iterable[str]) -> None:
        await asyncio.gather(*map(self._try_to_load, names))

    async def _try_to_load(self, name: str) -> None:
        try:
            await self._manager.load(name)
        except NotFoundError as err:
            self._manager.missing(name, str(err))
        except AtrilError:
            return  # the index says why

    async def _snapshot(self) -> Mapping[str, Fingerprint] | None:
        """What the repository looks like now; None when it cannot be seen."""
        try:
            return await asyncio.to_thread(self._repository.snapshot)
        except Exception:
            logger.exception("repository_unreadable")
            return None

    async def _poll(self, served: dict[str, Fingerprint]) -> None:
        """Follow the repository.

        A change counts once it looks the same in two polls, so that nothing is loaded while it is
        being written.

        Args:
            served: what every model looked like when it was loaded last.
        """
        before: Mapping[str, Fingerprint] = served
        while True:
            await asyncio.sleep(self._control.poll_interval_s)
            now = await self._snapshot()
            if now is None:
                continue
            settled = {name for name in now if before.get(name) == now[name]}
            changed = sorted(name for name in settled if served.get(name) != now[name])
            gone = sorted(name for name in served if name not in now and name not in before)
            served.update({name: now[name] for name in changed})
            await self._load_all(changed)
            if self._required is None and len(settled) == len(now):
                self._required = tuple(now)  # the start could not see what it was to load
            for name in gone:
                del served[name]
                if self._manager.knows(name):
                    await self._manager.unload(name)
            before = now
