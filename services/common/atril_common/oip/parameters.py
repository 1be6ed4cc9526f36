"""What the parameters of a request ask for, whichever protocol brought them, and the way back.

Some names are the protocol's own (protocol reference 2.10); what begins with `triton_` is kept for
servers; every other parameter is handed on to the model's back end.
"""

from collections.abc import Mapping

from atril_common.core import NO_OPTIONS, ParameterValue, RequestOptions, SequenceControl
from atril_common.errors import InvalidInputError, sample

MAX_PARAMETERS = 64
"""Most parameters of one request, beside those of the protocol."""

MAX_PARAMETERS_BYTES = 16 * 1024
"""Names and texts of all parameters of one request together."""

RESERVED_PREFIX = "triton_"
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
FINAL_RESPONSE = "triton_final_response"

_RESERVED = ("headers", "binary_data_output")
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_OWN = frozenset((*_SEQUENCE, "priority", "timeout"))
_NUMBER_LIMIT = 1 << 64


def options_from_parameters(
    parameters: Mapping[str, object], classification: tuple[tuple[str, int], ...] = ()
) -> RequestOptions:
    """Read the parameters of a request.

    Args:
        parameters: by name, without those that only concern the form of the answer.
        classification: by output, how many classes to answer.

    Raises:
        InvalidInputError: a reserved name, a value of the wrong kind or out of range, or too many
            or too long parameters; the text names the parameter.
    """
    if not parameters and not classification:
        return NO_OPTIONS
    return RequestOptions(
        priority=_whole_number(parameters, "priority"),
        timeout_us=_whole_number(parameters, "timeout"),
        sequence=_sequence(parameters),
        classification=classification,
        parameters=_others(parameters),
    )


def parameters_from_options(options: RequestOptions) -> dict[str, ParameterValue]:
    """The parameters that `options_from_parameters` reads back as the same options."""
    parameters: dict[str, ParameterValue] = dict(options.parameters)
    if options.priority:
        parameters["priority"] = options.priority
    if options.timeout_us:
        parameters["timeout"] = options.timeout_us
    if options.sequence is not None:
        parameters |= sequence_parameters(options.sequence)
    return parameters


def sequence_parameters(sequence: SequenceControl) -> dict[str, ParameterValue]:
    """A sequence as parameters, of a request or of its answer."""
    return dict(zip(_SEQUENCE, sequence, strict=True))


def class_count(value: object, output: str) -> int:
    """The value of an output's parameter `classification`.

    Raises:
        InvalidInputError: it is not a whole number of at least 1.
    """
    if type(value) is not int or not 1 <= value < _NUMBER_LIMIT:
        raise InvalidInputError(
            f"Unable to parse parameter 'classification' of output '{output}': expected a whole "
            f"number of at least 1, got {sample(value)}"
        )
    return value


def _sequence(parameters: Mapping[str, object]) -> SequenceControl | None:
    sequence_id = parameters.get("sequence_id", 0)
    number = type(sequence_id) is int and 0 <= sequence_id < _NUMBER_LIMIT
    if not number and not isinstance(sequence_id, str):
        raise _unreadable("sequence_id", "a non-negative whole number or a string", sequence_id)
    start, end = _flag(parameters, "sequence_start"), _flag(parameters, "sequence_end")
    if not sequence_id:
        return None
    assert isinstance(sequence_id, int | str)
    return SequenceControl(sequence_id, start, end)


def _others(parameters: Mapping[str, object]) -> tuple[tuple[str, ParameterValue], ...]:
    others: list[tuple[str, ParameterValue]] = []
    size = 0
    for name, value in parameters.items():
        size += len(name) + (len(value) if isinstance(value, str) else 0)
        if name in _OWN:
            continue
        if name.startswith(RESERVED_PREFIX):
            raise InvalidInputError(
                f"parameter '{name}' of the request: parameter keys starting with "
                f"'{RESERVED_PREFIX}' are reserved and should not be specified"
            )
        if name in _RESERVED:
            raise InvalidInputError(f"parameter '{name}' of the request is reserved")
        if not isinstance(value, bool | int | float | str):
            raise _unreadable(name, "a string, a number or a boolean", value)
        others.append((name, value))
    if len(others) > MAX_PARAMETERS or size > MAX_PARAMETERS_BYTES:
        raise InvalidInputError(
            f"a request may have {MAX_PARAMETERS} parameters, names and texts together of "
            f"{MAX_PARAMETERS_BYTES} characters, got {len(others)} of {size} characters"
        )
    return tuple(sorted(others, key=lambda item: item[0]))


def _whole_number(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < _NUMBER_LIMIT:
        raise _unreadable(name, "a non-negative whole number", value)
    return value


def _flag(parameters: Mapping[str, object], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise _unreadable(name, "true or false", value)
    return value


def _unreadable(name: str, expected: str, value: object) -> InvalidInputError:
    return InvalidInputError(
        f"Unable to parse parameter '{name}' of the request: expected {expected}, got "
        f"{sample(value)}"
    )
