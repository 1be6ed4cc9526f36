"""Parameters of a request: what they ask for, and what is refused (2.10, E18)."""

import pytest
from hypothesis import given

from atril_common.core import NO_OPTIONS, RequestOptions, SequenceControl
from atril_common.errors import InvalidInputError
from atril_common.oip.parameters import (
    MAX_PARAMETERS,
    MAX_PARAMETERS_BYTES,
    class_count,
    options_from_parameters,
    parameters_from_options,
)
from tests.unit.common.wire_strategies import json_values, names, options, read_or_refused


@given(options())
def test_options_are_read_as_they_were_written(wanted: RequestOptions) -> None:
    """2.10: parameters made of options ask for the same options."""
    assert options_from_parameters(parameters_from_options(wanted)) == wanted


def test_a_request_without_parameters_has_the_shared_empty_options() -> None:
    """2.10: nothing is made for a request that asks for nothing."""
    assert options_from_parameters({}) is NO_OPTIONS


@pytest.mark.parametrize("nobody", [0, ""])
def test_zero_or_empty_is_no_sequence(nobody: object) -> None:
    """2.10 sequence: 0 and the empty string mean no sequence, whatever the flags say."""
    parameters = {"sequence_id": nobody, "sequence_start": True, "sequence_end": True}
    assert options_from_parameters(parameters).sequence is None


def test_a_sequence_has_an_id_and_two_flags() -> None:
    """2.10 sequence: the flags default to false."""
    parameters = {"sequence_id": "a", "sequence_end": True}
    assert options_from_parameters(parameters).sequence == SequenceControl("a", False, True)


def test_the_order_of_parameters_does_not_matter() -> None:
    """2.10 parameters: equal options are equal however they were written."""
    assert options_from_parameters({"a": 1, "b": 2}) == options_from_parameters({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": -1},
        {"sequence_id": 1 << 64},
        {"sequence_id": 1.0},
        {"sequence_id": True},
        {"sequence_id": 1, "sequence_start": 1},
        {"sequence_end": "true"},
        {"priority": -1},
        {"priority": "1"},
        {"priority": True},
        {"timeout": -5},
        {"timeout": 1.5},
        {"mine": None},
        {"mine": [1]},
        {"mine": {}},
        {"headers": "x"},
        {"triton_anything": 1},
        {"x" * (MAX_PARAMETERS_BYTES + 1): 1},
        {"x": "x" * MAX_PARAMETERS_BYTES},
        {f"p{i}": i for i in range(MAX_PARAMETERS + 1)},
    ],
    ids=lambda parameters: str(parameters)[:30],
)
def test_a_parameter_that_cannot_be_used_is_refused(parameters: dict[str, object]) -> None:
    """2.10, E18: a wrong kind, a reserved name, too many or too much; the text says which."""
    with pytest.raises(InvalidInputError, match="parameter"):
        options_from_parameters(parameters)


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.0, None, 1 << 64])
def test_a_class_count_is_a_whole_number_of_at_least_one(count: object) -> None:
    """2.10 classification: anything else is refused, naming the output."""
    with pytest.raises(InvalidInputError, match=r"'classification' of output 'y'"):
        class_count(count, "y")


@given(json_values.map(lambda value: {"x": value}) | names.map(lambda name: {name: 1}))
def test_any_parameters_raise_nothing_but_an_atril_error(parameters: dict[str, object]) -> None:
    """2.10: whatever the parameters are, they are read or refused."""
    read_or_refused(lambda: options_from_parameters(parameters))
