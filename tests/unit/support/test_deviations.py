"""The table at the end of a conformance run."""

import ast
from pathlib import Path

import pytest

from tests.support.deviations import Deviation, protocol_line, table, what_came


@pytest.mark.parametrize(
    ("docstring", "line"),
    [
        ("E05: 400 and not 404.", "E05"),
        ("H14, 2.6: the body is optional: so is all in it.", "H14, 2.6"),
        ("2.8 ModelStatistics: the same tree.", "2.8 ModelStatistics"),
        ("A loaded model answers: E05.", ""),
        ("E05 without a colon.", ""),
        (None, ""),
    ],
)
def test_the_line_stands_before_the_first_colon(docstring: str | None, line: str) -> None:
    """Numbers of the protocol reference, and what they are about."""
    assert protocol_line(docstring) == line


def test_the_cases_of_one_test_are_one_row() -> None:
    """Sorted by line, counted, with the first that came."""
    found = [
        Deviation("H02", "test_b", "503"),
        Deviation("E05", "test_a[grpc]", "404"),
        Deviation("E05", "test_a[http]", "405"),
    ]
    assert list(table(found))[2:] == [
        "| E05 | `test_a` | 2 | 404 |",
        "| H02 | `test_b` | 1 | 503 |",
    ]


def test_what_came_fits_in_a_cell() -> None:
    """One line, without what would end the cell."""
    came = what_came("\nAssertionError: b'{}'\n  assert 1 | `x`\n +  where 1 = y\n" + "y" * 500)
    assert came == "b'{}' assert 1 \\| 'x'"
    assert len(what_came("z" * 500)) == 160


def test_every_conformance_test_names_its_line(root: Path) -> None:
    """A deviation that names no line of the protocol would be no use."""
    nameless = [
        f"{path.name}::{node.name}"
        for path in sorted((root / "tests" / "conformance").glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and not protocol_line(ast.get_docstring(node))
    ]
    assert nameless == []
