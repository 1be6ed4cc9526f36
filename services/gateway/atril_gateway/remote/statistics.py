"""The statistics of several replicas as one: counts and times summed by model and version."""

from collections.abc import Iterable
from typing import Any

from tritonclient.grpc import service_pb2 as pb

_LATEST = "last_inference"
_KEYS = {"batch_stats": ("batch_size",), "memory_usage": ("type", "id")}
"""Repeated fields, and what tells their entries apart."""


def sum_statistics(answers: Iterable[Iterable[pb.ModelStatistics]]) -> list[pb.ModelStatistics]:
    """Add up what each replica tells, in order of model and version.

    Times of the last inference are not added: the latest counts.
    """
    sums: dict[tuple[str, str], pb.ModelStatistics] = {}
    for answer in answers:
        for statistics in answer:
            key = (statistics.name, statistics.version)
            if key not in sums:
                sums[key] = pb.ModelStatistics(name=key[0], version=key[1])
            _add(sums[key], statistics)
    return [sums[key] for key in sorted(sums, key=_by_version)]


def _by_version(key: tuple[str, str]) -> tuple[str, int, str]:
    name, version = key
    return name, int(version) if version.isdigit() else 0, version


def _add(total: Any, part: Any) -> None:
    """Add a message to another of its type, field by field."""
    for field, value in part.ListFields():
        name = field.name
        if name in _KEYS:
            _add_by_key(getattr(total, name), value, _KEYS[name])
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                _add(getattr(total, name)[key], entry)
        elif field.message_type is not None:
            _add(getattr(total, name), value)
        elif name == _LATEST:
            setattr(total, name, max(getattr(total, name), value))
        elif field.cpp_type == field.CPPTYPE_UINT64 and name not in _ALL_KEYS:
            setattr(total, name, getattr(total, name) + value)


_ALL_KEYS = frozenset(name for names in _KEYS.values() for name in names)


def _add_by_key(total: Any, parts: Any, names: tuple[str, ...]) -> None:
    """Add repeated entries to those with the same key, in the order of the keys."""
    known = {tuple(getattr(entry, name) for name in names): entry for entry in total}
    for part in parts:
        key = tuple(getattr(part, name) for name in names)
        if key not in known:
            known[key] = total.add(**dict(zip(names, key, strict=True)))
        _add(known[key], part)
    total.sort(key=lambda entry: tuple(getattr(entry, name) for name in names))
