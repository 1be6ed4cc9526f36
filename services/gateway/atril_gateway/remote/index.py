"""The repository indexes of several replicas as one."""

from collections.abc import Mapping

from atril_common.core import ModelIndexEntry

READY = "READY"

Key = tuple[str, str]


def merge_indexes(indexes: Mapping[str, list[ModelIndexEntry]]) -> list[ModelIndexEntry]:
    """Every model and version that some replica knows, in order of name and version.

    A version is READY if any replica serves it. Where the replicas differ, the reason says which
    one tells what.

    Args:
        indexes: what each replica answered, by its address.
    """
    by_replica = {
        address: {(entry.name, entry.version): entry for entry in entries}
        for address, entries in indexes.items()
    }
    keys = {key for entries in by_replica.values() for key in entries}
    versioned = {name for name, version in keys if version}
    # A replica that has never loaded a model tells its name only; that is not one more version.
    kept = [(name, version) for name, version in keys if version or name not in versioned]
    return [_merge(key, by_replica) for key in sorted(kept, key=_by_version)]


def _by_version(key: Key) -> tuple[str, int, str]:
    name, version = key
    return name, int(version) if version.isdigit() else 0, version


def _merge(key: Key, by_replica: Mapping[str, Mapping[Key, ModelIndexEntry]]) -> ModelIndexEntry:
    told = {address: entries.get(key) for address, entries in by_replica.items()}
    present = [entry for entry in told.values() if entry is not None]
    ready = [entry for entry in present if entry.state == READY]
    first = (ready or present)[0]
    if len(present) == len(told) and len({entry.state for entry in present}) == 1:
        return first
    others = "; ".join(
        f"{address}: {_say(entry)}"
        for address, entry in told.items()
        if entry is None or entry.state != READY
    )
    return first._replace(reason=f"{READY} on {len(ready)} of {len(told)} replicas; {others}")


def _say(entry: ModelIndexEntry | None) -> str:
    if entry is None:
        return "not loaded"
    state = entry.state or "not loaded"
    return f"{state}, {entry.reason}" if entry.reason else state
