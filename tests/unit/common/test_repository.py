"""The repository's naming rules and its listing."""

from pathlib import Path

import pytest

from atril_common.repository import is_model_name, is_version, list_models, list_versions


@pytest.mark.parametrize("name", ["a", "lenet5", "A.b-c_9", "9", "x" * 128])
def test_a_good_name_is_a_model_name(name: str) -> None:
    """Letters, digits, `_ . -`, up to 128."""
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".staging", "-x", "_x", "a/b", "a b", "é", "x" * 129, "a\n", "a\0"]
)
def test_a_bad_name_is_none(name: str) -> None:
    """No leading dot, no path, nothing outside the set, no end of line."""
    assert not is_model_name(name)


@pytest.mark.parametrize("text", ["1", "2", "10", "9" * 18])
def test_a_positive_integer_is_a_version(text: str) -> None:
    """Digits without leading zeros."""
    assert is_version(text)


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "1.0", "v1", " 1", "1\n", "²", "٣", "9" * 19]
)
def test_anything_else_is_no_version(text: str) -> None:
    """Zero, leading zeros, other digits of Unicode and what does not fit 64 bits."""
    assert not is_version(text)


def test_models_and_versions_are_listed_in_order(tmp_path: Path) -> None:
    """Models by name, versions as numbers; files, staging and foreign folders are left out."""
    for folder in ("b/10", "b/9", "b/latest", "b/.11", "a/1", ".staging/1", "c d/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "b" / "7").write_text("")
    assert list_models(tmp_path) == ["a", "b"]
    assert list_versions(tmp_path, "b") == [9, 10]
    assert list_versions(tmp_path, "a") == [1]


def test_what_does_not_exist_is_empty(tmp_path: Path) -> None:
    """A repository that is not there yet has no models."""
    assert list_models(tmp_path / "nowhere") == []
    assert list_versions(tmp_path, "nowhere") == []
