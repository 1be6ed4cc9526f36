"""Kinds of errors and the one table that tells them to each protocol (2.3)."""

import grpc
import pytest

from atril_common import errors
from atril_common.errors import AtrilError, ErrorKind
from atril_common.status import STATUS

CLASSES = AtrilError.__subclasses__()


def test_every_kind_has_its_status() -> None:
    """2.3: the table is total over `ErrorKind`."""
    assert set(STATUS) == set(ErrorKind)


def test_every_kind_has_exactly_one_class() -> None:
    """Each error class has a kind of its own, and each kind a class."""
    assert sorted(c.kind.value for c in CLASSES) == sorted(k.value for k in ErrorKind)


def test_the_hierarchy_is_drawn_whole_in_its_docstring() -> None:
    """The tree at the top of the module names every class there is."""
    assert errors.__doc__
    for error_class in CLASSES:
        assert f"── {error_class.__name__}" in errors.__doc__


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_an_error_keeps_the_text_it_was_raised_with(error_class: type[AtrilError]) -> None:
    """The text is for the caller, unchanged."""
    assert str(error_class("what came, what was expected")) == "what came, what was expected"


@pytest.mark.parametrize(
    ("kind", "http", "code"),
    [
        (ErrorKind.INTERNAL, 500, "INTERNAL"),
        (ErrorKind.NOT_FOUND, 404, "NOT_FOUND"),
        (ErrorKind.INVALID_INPUT, 400, "INVALID_ARGUMENT"),
        (ErrorKind.NOT_READY, 503, "UNAVAILABLE"),
        (ErrorKind.OVERLOADED, 503, "UNAVAILABLE"),
        (ErrorKind.QUEUE_TIMEOUT, 503, "UNAVAILABLE"),
        (ErrorKind.UNSUPPORTED, 501, "UNIMPLEMENTED"),
        (ErrorKind.CANCELLED, 400, "CANCELLED"),
        (ErrorKind.TOO_LARGE, 400, "RESOURCE_EXHAUSTED"),
        (ErrorKind.UNSUPPORTED_MEDIA_TYPE, 501, "UNIMPLEMENTED"),
    ],
    ids=lambda value: str(value),
)
def test_the_protocols_statuses_are_those_of_its_table(
    kind: ErrorKind, http: int, code: str
) -> None:
    """2.3, E20, E22: internal code to HTTP status and gRPC code."""
    assert STATUS[kind].oip == http
    assert STATUS[kind].grpc is grpc.StatusCode[code]


def test_only_what_may_succeed_later_invites_a_retry() -> None:
    """Retry-After belongs to 503 and nothing else."""
    assert all(status.retry == (status.oip == 503) for status in STATUS.values())


def test_every_status_is_an_error_in_each_protocol() -> None:
    """No kind of error is told as a success."""
    for status in STATUS.values():
        assert 400 <= status.oip < 600
        assert 400 <= status.task < 600
        assert status.grpc is not grpc.StatusCode.OK
