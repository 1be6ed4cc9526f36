"""System shared memory: tensors that a client on the same machine leaves in a region (2.10, H15).

A region is part of a POSIX shared memory object that a client has named. The server keeps the
object open from `register` to `unregister` and copies out of it and into it, rather than mapping
it: a client that shortens an object under a mapping would end the process.
"""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from atril_common.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
    sample,
)

MAX_REGIONS = 256
"""Regions of one server; each is an open file."""

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?(?!\.|sem\.)[A-Za-z0-9_.\-]{1,200}")
"""A name that `shm_open` takes; those that begin with `sem.` are semaphores."""

_MAX_NAME = 256
_SIZE_LIMIT = 1 << 63


class Region(NamedTuple):
    """What a client has registered: `byte_size` bytes from `offset` of the object `key`."""

    name: str
    key: str
    offset: int
    byte_size: int


class RegionSlice(NamedTuple):
    """Where in a region a tensor is, or should go."""

    region: str
    offset: int
    byte_size: int


class SharedMemory:
    """The regions of a server, used on the event loop only.

    Args:
        enabled: whether clients may use shared memory at all (case E33).
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._regions: dict[str, tuple[Region, int]] = {}

    def register(self, region: Region) -> None:
        """Open a region.

        Raises:
            UnsupportedError: shared memory is disabled.
            AlreadyExistsError: there is a region of this name.
            InvalidInputError: no such object, not that large, or a name or number that cannot be.
        """
        self._require_enabled()
        if region.name in self._regions:
            raise AlreadyExistsError(f"shared memory region '{region.name}' already in manager")
        if not 0 < len(region.name) <= _MAX_NAME:
            raise InvalidInputError(
                f"the name of a shared memory region must have 1 to {_MAX_NAME} characters, got "
                f"{len(region.name)}"
            )
        if len(self._regions) >= MAX_REGIONS:
            raise InvalidInputError(
                f"there are {MAX_REGIONS} shared memory regions already; unregister one first"
            )
        self._regions[region.name] = (region, _open(region))

    def unregister(self, name: str = "") -> None:
        """Close a region, or all of them without a name; one that is not there is no error.

        Raises:
            UnsupportedError: shared memory is disabled.
        """
        self._require_enabled()
        for gone in [name] if name else list(self._regions):
            if gone in self._regions:
                os.close(self._regions.pop(gone)[1])

    def status(self, name: str = "") -> list[Region]:
        """One region, or all of them without a name.

        Raises:
            UnsupportedError: shared memory is disabled.
            NotFoundError: no such region.
        """
        self._require_enabled()
        if name:
            return [self._find(name)[0]]
        return [region for region, _ in self._regions.values()]

    def check(self, wanted: RegionSlice) -> None:
        """Refuse a part of a region that is not there.

        Raises:
            UnsupportedError: shared memory is disabled.
            NotFoundError: no such region.
            InvalidInputError: the part is not within the region.
        """
        self._locate(wanted)

    def read(self, wanted: RegionSlice) -> bytes:
        """Copy out of a region.

        Raises:
            AtrilError: as for `check`, or the object has become shorter.
        """
        file, start = self._locate(wanted)
        data = os.pread(file, wanted.byte_size, start)
        if len(data) < wanted.byte_size:
            raise InvalidInputError(
                f"shared memory region '{wanted.region}' has become shorter than it was registered"
            )
        return data

    def write(self, wanted: RegionSlice, data: bytes, *, output: str) -> None:
        """Copy into the beginning of a part of a region.

        Raises:
            AtrilError: as for `check`, or the data are longer than the part; the text names the
                output.
        """
        file, start = self._locate(wanted)
        if len(data) > wanted.byte_size:
            raise InvalidInputError(
                f"shared memory size specified with the request for output '{output}' "
                f"({wanted.byte_size} bytes) should be at least {len(data)} bytes to hold the "
                f"results"
            )
        os.pwrite(file, data, start)

    def close(self) -> None:
        """Close every region."""
        if self.enabled:
            self.unregister()

    def _find(self, name: str) -> tuple[Region, int]:
        try:
            return self._regions[name]
        except KeyError:
            raise NotFoundError(
                f"Unable to find system shared memory region: {sample(name)}"
            ) from None

    def _locate(self, wanted: RegionSlice) -> tuple[int, int]:
        """The open object, and where in it a part of a region begins."""
        self._require_enabled()
        region, file = self._find(wanted.region)
        if wanted.offset + wanted.byte_size > region.byte_size:
            raise InvalidInputError(
                f"Invalid offset + byte size for shared memory region: '{region.name}' has "
                f"{region.byte_size} bytes, wanted are {wanted.byte_size} from {wanted.offset}"
            )
        return file, region.offset + wanted.offset

    def _require_enabled(self) -> None:
        if not self.enabled:
            raise UnsupportedError("Client shared memory is disabled (setting SHARED_MEMORY)")


NO_SHARED_MEMORY = SharedMemory(enabled=False)
"""For what speaks the protocol without being a server."""


def slice_from_parameters(
    region: object, offset: object, byte_size: object, *, what: str
) -> RegionSlice:
    """A tensor's parameters `shared_memory_region`, `…_offset` (None: 0) and `…_byte_size`.

    Raises:
        InvalidInputError: one of them is missing or of the wrong kind; `what` says whose.
    """
    if not isinstance(region, str) or not region:
        raise InvalidInputError(
            f"Unable to parse 'shared_memory_region' of {what}: expected a name, got "
            f"{sample(region)}"
        )
    return RegionSlice(
        region,
        _number(0 if offset is None else offset, "shared_memory_offset", what, least=0),
        _number(byte_size, "shared_memory_byte_size", what, least=0),
    )


def require_placeable(
    output: str,
    where: RegionSlice,
    classification: tuple[tuple[str, int], ...],
    memory: SharedMemory,
) -> None:
    """Refuse an output that cannot go to a place in shared memory, before it is computed.

    Raises:
        InvalidInputError: it is to be written as classes.
        AtrilError: as for `SharedMemory.check`.
    """
    if any(name == output for name, _ in classification):
        raise InvalidInputError(
            f"output '{output}': 'classification' cannot be combined with shared memory"
        )
    memory.check(where)


def region_from_fields(name: str, key: object, offset: object, byte_size: object) -> Region:
    """What a client wants to register.

    Raises:
        InvalidInputError: a field is missing or of the wrong kind.
    """
    what = f"shared memory region {sample(name)}"
    if not isinstance(key, str):
        raise InvalidInputError(
            f"Unable to parse 'key' of {what}: expected a string, got {sample(key)}"
        )
    return Region(
        name,
        key,
        _number(0 if offset is None else offset, "offset", what, least=0),
        _number(byte_size, "byte_size", what, least=1),
    )


def _number(value: object, field: str, what: str, *, least: int) -> int:
    if type(value) is not int or not least <= value < _SIZE_LIMIT:
        raise InvalidInputError(
            f"Unable to parse '{field}' of {what}: expected a whole number of at least {least}, "
            f"got {sample(value)}"
        )
    return value


def _open(region: Region) -> int:
    """A shared memory object, open for reading and writing."""
    where = f"shared memory region '{region.name}'"
    if _KEY.fullmatch(region.key) is None:
        raise InvalidInputError(
            f"Unable to open {where}: key {sample(region.key)} is not the name of a POSIX shared "
            f"memory object"
        )
    path = _FOLDER / region.key.removeprefix("/")
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise InvalidInputError(
            f"Unable to open {where}: key '{region.key}': {err.strerror}"
        ) from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or region.offset + region.byte_size > found.st_size:
        os.close(file)
        raise InvalidInputError(
            f"Unable to open {where}: the object '{region.key}' has {found.st_size} bytes, wanted "
            f"are {region.byte_size} from {region.offset}"
        )
    return file
