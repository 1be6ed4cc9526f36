"""What a conformance run found: which line of the protocol, which test, what came instead.

Every conformance test names the lines that it checks before the first colon of its docstring, as
in `E05: 400 and not 404`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_LINE = re.compile(r"(?:[EH]\d\d|2\.\d+)\b[^:]*(?=:)")
_MAX_CAME = 160


class Deviation(NamedTuple):
    """One failed test."""

    line: str
    test: str
    came: str


def protocol_line(docstring: str | None) -> str:
    """The lines that a test checks; empty if its docstring does not begin with any."""
    match = _LINE.match(docstring or "")
    return " ".join(match[0].split()) if match else ""


def what_came(message: str) -> str:
    """The gist of a failure: its first two lines that say something, short enough for a table."""
    lines = [line.strip() for line in message.splitlines()]
    gist = " ".join([line for line in lines if line and line[0] not in "+-?"][:2])
    gist = gist.removeprefix("AssertionError: ")
    gist = gist.replace("|", "\\|").replace("`", "'")
    return gist if len(gist) <= _MAX_CAME else gist[: _MAX_CAME - 1] + "…"


def table(deviations: Iterable[Deviation]) -> Iterator[str]:
    """A Markdown table, the cases of one test in one row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for line, test, came in deviations:
        rows.setdefault((line, test.partition("[")[0]), []).append(came)
    yield "| line | test | cases | what came, first of them |"
    yield "| --- | --- | --- | --- |"
    for (line, test), all_that_came in sorted(rows.items()):
        yield f"| {line} | `{test}` | {len(all_that_came)} | {all_that_came[0]} |"
