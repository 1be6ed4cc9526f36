"""One call to every replica: what all of them must do, and what is gathered from those that can."""

import asyncio
from collections.abc import Sequence
from typing import Any

from atril_common.errors import AtrilError, InternalError, LoadFailedError, UpstreamUnavailableError
from atril_gateway.remote.replica import Replica


async def on_all(replicas: Sequence[Replica], method: str, request: Any, deadline_s: float) -> None:
    """Have every replica do something, whether it looks ready or not.

    Raises:
        AtrilError: not all did. The text names the replicas that did not, and says why; the kind is
            that of the first that answered, of the first otherwise.
        UpstreamUnavailableError: there is no replica.
    """
    if not replicas:
        raise UpstreamUnavailableError("no inference replica")
    answers = await _ask(replicas, method, request, deadline_s)
    failed = {
        replica.address: answer
        for replica, answer in zip(replicas, answers, strict=True)
        if isinstance(answer, AtrilError)
    }
    if not failed:
        return
    by_text: dict[str, list[str]] = {}
    for address, error in failed.items():
        by_text.setdefault(str(error), []).append(address)
    reasons = "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())
    raise _kind_of(list(failed.values()))(
        f"{len(failed)} of {len(replicas)} replicas failed: {reasons}"
    )


async def gather(
    replicas: Sequence[Replica], method: str, request: Any, deadline_s: float
) -> dict[str, Any]:
    """The answers of the replicas that have one, by address.

    Raises:
        AtrilError: none has; what the first said.
        UpstreamUnavailableError: there is no replica.
    """
    if not replicas:
        raise UpstreamUnavailableError("no inference replica is ready")
    answers = await _ask(replicas, method, request, deadline_s)
    good = {
        replica.address: answer
        for replica, answer in zip(replicas, answers, strict=True)
        if not isinstance(answer, AtrilError)
    }
    if not good:
        first: AtrilError = answers[0]
        raise first
    return good


async def _ask(
    replicas: Sequence[Replica], method: str, request: Any, deadline_s: float
) -> list[Any]:
    """What each replica answers: its message, or how it failed."""

    async def ask(replica: Replica) -> Any:
        try:
            return await replica.call(method, request, deadline_s)
        except AtrilError as err:
            return err

    return await asyncio.gather(*(ask(replica) for replica in replicas))


def _kind_of(errors: Sequence[AtrilError]) -> type[AtrilError]:
    answered = [e for e in errors if not isinstance(e, UpstreamUnavailableError)]
    kind = type((answered or errors)[0])
    return LoadFailedError if kind is InternalError else kind
