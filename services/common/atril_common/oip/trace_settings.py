"""The settings of the trace extension (H17, 2.11), global and by model."""

from collections.abc import Mapping
from typing import Any

from atril_common.errors import InvalidInputError, UnsupportedError, sample

OFF, TIMESTAMPS, TENSORS = "OFF", "TIMESTAMPS", "TENSORS"

Value = tuple[str, ...] | int

_DEFAULTS: dict[str, Value] = {
    "trace_level": (OFF,),
    "trace_rate": 1000,
    "trace_count": -1,
    "log_frequency": 0,
}
_LOWEST = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
_LARGEST = 2**32 - 1
_READ_ONLY = {"trace_file": "trace file location", "trace_mode": "trace mode"}


class Sampler:
    """The settings in force for one model, or for all that have none of their own.

    `values["trace_count"]` is what remains of it.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = dict(values)
        self._seen = 0

    @property
    def levels(self) -> tuple[str, ...]:
        """What is recorded of a request that is traced."""
        levels = self.values["trace_level"]
        assert isinstance(levels, tuple)
        return levels

    def number(self, name: str) -> int:
        """A setting that is a number."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    @property
    def on(self) -> bool:
        """Whether any request will still be traced."""
        return self.levels != (OFF,) and self.number("trace_count") != 0

    def takes(self) -> bool:
        """Count a request; whether it is the one in `trace_rate` that is traced."""
        if not self.on:
            return False
        self._seen += 1
        if self._seen % self.number("trace_rate"):
            return False
        remaining = self.number("trace_count")
        if remaining > 0:
            self.values["trace_count"] = remaining - 1
        return True


class TraceSettings:
    """Global settings, and by model what is set for it alone.

    Args:
        has_file: whether the process has a file to write traces to; without one none can be asked
            for.
    """

    def __init__(self, *, has_file: bool) -> None:
        self._has_file = has_file
        self._everyone = Sampler(_DEFAULTS)
        self._own: dict[str, tuple[Sampler, set[str]]] = {}
        self.on = False
        """Whether any request of any model will be traced."""

    def of(self, model_name: str) -> Sampler:
        """The settings in force for a model; an empty name has the global ones."""
        own = self._own.get(model_name)
        return self._everyone if own is None else own[0]

    def update(self, model_name: str, changes: Mapping[str, Any]) -> None:
        """Change the settings of a model, or the global ones if its name is empty; all or none.

        Args:
            model_name: whose settings.
            changes: by setting, a string or (for `trace_level`) a list of strings; None clears what
                is set for the model, or goes back to the global default.

        Raises:
            InvalidInputError: an unknown setting, a value of another kind or out of range, or a
                level without a file to write to.
            UnsupportedError: `trace_file`, which is read-only (case E34).
        """
        values = {name: _parse(name, value) for name, value in changes.items()}
        if values.get("trace_level") not in (None, (OFF,)) and not self._has_file:
            raise InvalidInputError(
                "trace setting 'trace_level': trace file name is not given; start the server with "
                "the setting TRACE_FILE"
            )
        if model_name:
            self._update_model(model_name, values)
        else:
            self._update_everyone(values)
        self.settled()

    def settled(self) -> None:
        """Find out anew whether anything is traced."""
        self.on = self._everyone.on or any(sampler.on for sampler, _ in self._own.values())

    def _update_everyone(self, changes: Mapping[str, Value | None]) -> None:
        for name, value in changes.items():
            self._everyone.values[name] = _DEFAULTS[name] if value is None else value
            for sampler, set_here in self._own.values():
                if name not in set_here:
                    sampler.values[name] = self._everyone.values[name]

    def _update_model(self, model_name: str, changes: Mapping[str, Value | None]) -> None:
        sampler, set_here = self._own.get(model_name, (Sampler(self._everyone.values), set()))
        for name, value in changes.items():
            if value is None:
                set_here.discard(name)
                sampler.values[name] = self._everyone.values[name]
            else:
                set_here.add(name)
                sampler.values[name] = value
        if set_here:
            self._own[model_name] = (sampler, set_here)
        else:
            self._own.pop(model_name, None)


def _parse(name: str, value: object) -> Value | None:
    if name in _READ_ONLY:
        raise UnsupportedError(f"{_READ_ONLY[name]} can not be updated through network protocol")
    if name not in _DEFAULTS:
        raise InvalidInputError(
            f"unknown trace setting {sample(name)}: expected {', '.join(_DEFAULTS)}"
        )
    if value is None:
        return None
    return _levels(value) if name == "trace_level" else _number(name, value)


def _levels(value: object) -> tuple[str, ...]:
    levels = tuple(value) if isinstance(value, list) else ()
    known = levels and all(level in (OFF, TIMESTAMPS, TENSORS) for level in levels)
    if not known or (OFF in levels and len(levels) > 1):
        raise InvalidInputError(
            f'trace setting \'trace_level\': expected ["{OFF}"] or a list of "{TIMESTAMPS}" and '
            f'"{TENSORS}", got {sample(value)}'
        )
    return tuple(dict.fromkeys(levels))


def _number(name: str, value: object) -> int:
    digits = value.removeprefix("-") if isinstance(value, str) else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise InvalidInputError(
            f"Unable to parse '{name}', expected a string with a whole number, got {sample(value)}"
        )
    number = int(str(value))
    if not _LOWEST[name] <= number <= _LARGEST:
        raise InvalidInputError(
            f"Unable to parse '{name}'. Expecting value >= {_LOWEST[name]}, up to {_LARGEST}, got "
            f"{number}"
        )
    return number
