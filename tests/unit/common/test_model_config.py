"""What cannot be read as a configuration is refused with its place."""

from pathlib import Path

import pytest

from atril_common.errors import InvalidInputError
from atril_common.model_config import read_config


def test_text_that_is_no_configuration_names_the_line(tmp_path: Path) -> None:
    """The error of a bad file says where it is."""
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "x"\nmax_batch_size: many', encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"config\.pbtxt: not a model configuration: 2:"):
        read_config(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is not a configuration."""
    path = tmp_path / "config.pbtxt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not a model configuration"):
        read_config(path)
