"""What there is to call: the models of the repository and the task that each is for."""

from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferenceCore, ModelIndexEntry
from atril_common.errors import InvalidInputError, NotFoundError, NotReadyError
from atril_common.tasks import ClassificationTask, declared_task, read_task

READY = "READY"


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model, the versions of it that answer, and what it is for.

    `state` is `READY` if any version answers, else the state of the last one; `reason` says why
    none does. `task` is empty for a model that declares none; `labels` counts its labels.
    """

    name: str
    versions: tuple[str, ...]
    state: str
    reason: str
    task: str
    labels: int


@dataclass(frozen=True, slots=True)
class ModelList:
    """Every model of the repository, by name."""

    models: tuple[ModelSummary, ...]


async def list_models(core: InferenceCore) -> ModelList:
    """Every model that the repository holds.

    Raises:
        AtrilError: whatever the core raises.
    """
    by_name: dict[str, list[ModelIndexEntry]] = {}
    for entry in await core.index():
        by_name.setdefault(entry.name, []).append(entry)
    return ModelList(tuple([await _summary(core, by_name[name]) for name in sorted(by_name)]))


async def _summary(core: InferenceCore, entries: Sequence[ModelIndexEntry]) -> ModelSummary:
    name = entries[0].name
    ready = tuple(entry.version for entry in entries if entry.state == READY)
    last = entries[-1]
    state, reason = (READY, "") if ready else (last.state, last.reason)
    task, labels = "", 0
    if ready:
        try:
            task, labels = _purpose(await core.config(name))
        except (InvalidInputError, NotFoundError, NotReadyError) as err:
            reason = str(err)
    return ModelSummary(name, ready, state, reason, task, labels)


def _purpose(config: ModelConfig) -> tuple[str, int]:
    task = read_task(config)
    labels = len(task.labels) if isinstance(task, ClassificationTask) else 0
    return declared_task(config), labels
