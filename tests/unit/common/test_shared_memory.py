"""Regions of system shared memory (2.10, E31-E33)."""

import os
import uuid
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory as Block
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import (
    AlreadyExistsError,
    AtrilError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from atril_common.oip import shared_memory
from atril_common.oip.shared_memory import Region, RegionSlice, SharedMemory

SIZE = 4096


def open_files() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def block() -> Iterator[Block]:
    """An object of POSIX shared memory, as another process would make it."""
    made = Block(f"atril-test-{uuid.uuid4().hex}", create=True, size=SIZE)
    made.buf[:SIZE] = bytes(range(256)) * (SIZE // 256)
    yield made
    made.close()
    made.unlink()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """The regions of a server."""
    made = SharedMemory(enabled=True)
    yield made
    made.close()


def test_a_region_is_read_and_written_where_the_client_says(
    memory: SharedMemory, block: Block
) -> None:
    """2.10: the offsets of region and tensor add up; other bytes stay as they are."""
    memory.register(Region("r", block.name, 100, 1000))
    assert memory.read(RegionSlice("r", 10, 20)) == bytes(range(110, 130))
    memory.write(RegionSlice("r", 0, 4), b"abc", output="y")
    assert bytes(block.buf[99:105]) == b"c" + b"abc" + b"gh"
    assert memory.status("r") == [Region("r", block.name, 100, 1000)]


@given(offset=st.integers(0, 1100), byte_size=st.integers(0, 1100))
def test_only_what_lies_in_the_region_can_be_reached(offset: int, byte_size: int) -> None:
    """2.10: no read and no write beyond the bytes that were registered."""
    block = Block(create=True, size=SIZE)
    memory = SharedMemory(enabled=True)
    try:
        memory.register(Region("r", block.name, 500, 1000))
        wanted = RegionSlice("r", offset, byte_size)
        if offset + byte_size <= 1000:
            assert len(memory.read(wanted)) == byte_size
        else:
            for use in (memory.read, memory.check):
                with pytest.raises(InvalidInputError, match="Invalid offset"):
                    use(wanted)
    finally:
        memory.close()
        block.close()
        block.unlink()


def test_an_answer_larger_than_its_place_is_not_written(memory: SharedMemory, block: Block) -> None:
    """2.10: the text names the output and both sizes; nothing is written."""
    memory.register(Region("r", block.name, 0, SIZE))
    before = bytes(block.buf)
    with pytest.raises(InvalidInputError, match=r"'y' \(3 bytes\).* at least 4"):
        memory.write(RegionSlice("r", 0, 3), b"abcd", output="y")
    assert bytes(block.buf) == before


def test_an_object_that_has_been_shortened_harms_nobody(memory: SharedMemory, block: Block) -> None:
    """2.10: a client that takes the memory away gets an error, the process lives on."""
    memory.register(Region("r", block.name, 0, SIZE))
    os.truncate(f"/dev/shm/{block.name}", 10)
    with pytest.raises(InvalidInputError, match="shorter"):
        memory.read(RegionSlice("r", 0, 20))
    os.truncate(f"/dev/shm/{block.name}", SIZE)


def test_a_name_is_registered_once(memory: SharedMemory, block: Block) -> None:
    """E31: again only after it was unregistered."""
    region = Region("r", "/" + block.name, 0, SIZE)
    memory.register(region)
    with pytest.raises(AlreadyExistsError, match="'r'"):
        memory.register(region)
    memory.unregister("r")
    memory.register(region)
    memory.unregister()
    assert memory.status() == []


def test_unregistering_closes_the_object(memory: SharedMemory, block: Block) -> None:
    """2.10: the server holds no file of a region that is gone."""
    before = open_files()
    for name in ("a", "b"):
        memory.register(Region(name, block.name, 0, SIZE))
    assert open_files() == before + 2
    memory.unregister("a")
    memory.unregister("nothing")
    memory.close()
    assert open_files() == before


def test_an_unknown_region_is_not_found(memory: SharedMemory) -> None:
    """E32: for a look at it and for a tensor in it."""
    with pytest.raises(NotFoundError, match="'r'"):
        memory.status("r")
    with pytest.raises(NotFoundError, match="'r'"):
        memory.read(RegionSlice("r", 0, 1))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        ".",
        "..",
        "../tmp/x",
        "a/b",
        "//x",
        "/../etc/passwd",
        "x\0y",
        "sem.x",
        "/sem.x",
        "é",
        "x" * 300,
        "atril-test-nobody-made-this",
    ],
    ids=repr,
)
def test_a_key_is_the_name_of_an_object_and_no_path(memory: SharedMemory, key: str) -> None:
    """2.10: nothing outside the shared memory of the machine is ever opened."""
    with pytest.raises(InvalidInputError, match="region 'r'"):
        memory.register(Region("r", key, 0, 1))
    assert memory.status() == []


def test_a_link_is_not_followed(memory: SharedMemory, tmp_path: Path) -> None:
    """2.10: a link in the folder of shared memory leads nowhere."""
    link = Path("/dev/shm", f"atril-test-{uuid.uuid4().hex}")
    (tmp_path / "secret").write_bytes(b"secret")
    link.symlink_to(tmp_path / "secret")
    try:
        with pytest.raises(InvalidInputError):
            memory.register(Region("r", link.name, 0, 6))
    finally:
        link.unlink()


@pytest.mark.parametrize(("offset", "byte_size"), [(0, SIZE + 1), (1, SIZE), (SIZE, 1)])
def test_a_region_beyond_its_object_is_refused(
    memory: SharedMemory, block: Block, offset: int, byte_size: int
) -> None:
    """2.10: the text says how large the object is, and no file stays open."""
    before = open_files()
    with pytest.raises(InvalidInputError, match=str(SIZE)):
        memory.register(Region("r", block.name, offset, byte_size))
    assert open_files() == before


def test_regions_are_limited_in_number(
    memory: SharedMemory, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.10: each region is an open file."""
    monkeypatch.setattr(shared_memory, "MAX_REGIONS", 1)
    memory.register(Region("a", block.name, 0, 1))
    with pytest.raises(InvalidInputError, match="unregister"):
        memory.register(Region("b", block.name, 0, 1))


def test_what_is_disabled_answers_nothing_else(block: Block) -> None:
    """E33: `Client shared memory is disabled`, whatever is asked."""
    memory = SharedMemory(enabled=False)
    wanted = RegionSlice("r", 0, 1)
    for ask in (
        lambda: memory.register(Region("r", block.name, 0, 1)),
        memory.unregister,
        memory.status,
        lambda: memory.read(wanted),
        lambda: memory.check(wanted),
        lambda: memory.write(wanted, b"", output="y"),
    ):
        with pytest.raises(UnsupportedError, match="Client shared memory is disabled"):
            ask()
    memory.close()


@given(st.text(max_size=20), st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_any_key_and_numbers_raise_nothing_but_an_atril_error(
    key: str, offset: int, byte_size: int
) -> None:
    """2.10: whatever a client wants to register."""
    memory = SharedMemory(enabled=True)
    try:
        memory.register(Region("r", key, offset, byte_size))
    except AtrilError:
        return
    finally:
        memory.close()
