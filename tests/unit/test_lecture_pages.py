"""What the pages under docs/lectures name is there: files, tests and links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "lectures").glob("*.md"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def known_tests() -> frozenset[str]:
    """Every test function and every file of tests in the repository."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = (
        name
        for file in files
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    )
    return frozenset((*functions, *(file.stem for file in files)))


def _quoted(page: Path) -> list[str]:
    """Everything between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())


@every_page
def test_files_named_on_a_page_exist(page: Path) -> None:
    """A quoted path with a folder and the ending .py or .md is a file from the repository's top."""
    paths = [
        text.split("::")[0]
        for text in _quoted(page)
        if re.fullmatch(r"(?:models|services|tests|docs)/[\w/.-]+\.(?:py|md)(?:::\w+)?", text)
    ]
    missing = [path for path in paths if not (ROOT / path).is_file()]
    assert missing == []


@every_page
def test_tests_named_on_a_page_exist(page: Path, known_tests: frozenset[str]) -> None:
    """A quoted sentence that begins with test_ is a test; shorter names are figures or splits."""
    tests = r"\btest_[a-z]+(?:_[a-z0-9]+){2,}\b"
    named = [name for text in _quoted(page) for name in re.findall(tests, text)]
    assert [name for name in named if name not in known_tests] == []


@every_page
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A relative link is a file beside the page."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).is_file()]
    assert missing == []
