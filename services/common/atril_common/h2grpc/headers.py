"""Header blocks: HPACK decoding with a cache, the rules of a request, encoding without a table.

A gRPC client sends the same few header blocks again and again. A block that does not change the
dynamic table means the same as long as nothing else changes the table either, so what was made of
it is kept under its bytes, and nearly every request costs one dictionary look-up.
"""

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]
"""Name and value of a header field."""

MAX_HEADER_LIST_BYTES = 64 * 1024
"""Names and values of one request with 32 bytes for each field, as HPACK counts them."""

MAX_HEADER_BLOCK_BYTES = 64 * 1024
"""One header block as it came, over all its frames."""

_HOPELESS_LIST_BYTES = 4 * MAX_HEADER_LIST_BYTES
"""Beyond this a block is not even read on to keep the table in step: it is a bomb."""

HeadT = TypeVar("HeadT")

_CACHED_BLOCKS = 32
_CACHED_BLOCK_BYTES = 2048
_MAX_INTEGER_BYTES = 5

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class CompressionError(Exception):
    """A header block that cannot be decoded to its end; the connection's table is lost."""


class MalformedRequestError(ValueError):
    """A field or a header list that HTTP/2 does not allow (RFC 9113, section 8.1.1)."""


class HeaderListTooLargeError(Exception):
    """A header list over the advertised limit."""


class _Table(HeaderTable):
    """HPACK's table, which remembers that it was changed."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        """Add an entry."""
        self.changed = True
        super().add(name, value)


class HeaderDecoder(Generic[HeadT]):
    """Decodes the header blocks of one connection.

    Args:
        parse: makes of a request's fields what the connection reports; its result is reused for
            equal blocks, so it must be immutable.
    """

    def __init__(self, parse: Callable[[list[Field]], HeadT]) -> None:
        self._parse = parse
        self._table = _Table()
        self._cache: dict[bytes, HeadT] = {}

    def request(self, block: bytes) -> HeadT:
        """What `parse` makes of a request's header block.

        Raises:
            CompressionError: the block is not HPACK, or a bomb.
            MalformedRequestError: the fields are no request.
            HeaderListTooLargeError: there are too many.
        """
        cached = self._cache.get(block)
        if cached is not None:
            return cached
        head = self._parse(self.fields(block))
        if not self._table.changed and len(block) <= _CACHED_BLOCK_BYTES:
            if len(self._cache) >= _CACHED_BLOCKS:
                self._cache.clear()
            self._cache[block] = head
        return head

    def fields(self, block: bytes) -> list[Field]:
        """The fields of a block.

        Raises:
            CompressionError: the block is not HPACK, or a bomb.
            HeaderListTooLargeError: there are too many; the table is in step nevertheless.
        """
        self._table.changed = False
        try:
            fields, size = self._decode(block)
        except (HPACKError, IndexError) as err:
            raise CompressionError(str(err)) from err
        finally:
            if self._table.changed:
                self._cache.clear()
        if size > MAX_HEADER_LIST_BYTES:
            raise HeaderListTooLargeError(
                f"{size} bytes of headers, {MAX_HEADER_LIST_BYTES} allowed"
            )
        return fields

    def _decode(self, block: bytes) -> tuple[list[Field], int]:
        table = self._table
        fields: list[Field] = []
        size = position = 0
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 0x7F)
                field = table.get_by_index(index)
            elif first & 0xE0 == 0x20:
                if size:
                    raise CompressionError("a table size update after a field")
                position = self._resize(block, position)
                continue
            else:
                field, position = self._literal(block, position, 0x3F if first & 0x40 else 0x0F)
                if first & 0x40:
                    table.add(*field)
            size += len(field[0]) + len(field[1]) + 32
            if size <= MAX_HEADER_LIST_BYTES:
                fields.append(field)
            elif size > _HOPELESS_LIST_BYTES:
                raise CompressionError(f"a header list of more than {_HOPELESS_LIST_BYTES} bytes")
        return fields, size

    def _resize(self, block: bytes, position: int) -> int:
        size, position = _integer(block, position, 0x1F)
        if size > HeaderTable.DEFAULT_SIZE:
            raise CompressionError(f"a table of {size} bytes, {HeaderTable.DEFAULT_SIZE} allowed")
        self._table.changed = True
        self._table.maxsize = size
        return position

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index, position = _integer(block, position, mask)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer whose prefix is `mask`, and where it ends (RFC 7541, section 5.1)."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for count in range(_MAX_INTEGER_BYTES):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position
    raise CompressionError("an integer of more than 32 bits")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    huffman = block[position] & 0x80
    length, start = _integer(block, position, 0x7F)
    end = start + length
    if end > len(block):
        raise CompressionError("a string that goes beyond its block")
    text = block[start:end]
    return (decode_huffman(text) if huffman else text), end


def check_request(fields: Iterable[Field]) -> dict[bytes, bytes]:
    """The pseudo-header fields of a request, after all rules for its fields were checked.

    Raises:
        MalformedRequestError: the text names the rule (RFC 9113, sections 8.2 and 8.3).
    """
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if not name.startswith(b":"):
            regular = True
            check_field(name, value)
        elif regular or name in pseudo or name not in _REQUEST_PSEUDO:
            raise MalformedRequestError(f"{name!r} is unknown, repeated or behind a regular field")
        else:
            _check_value(name, value)
            pseudo[name] = value
    missing = {b":method", b":scheme", b":path"} - pseudo.keys()
    if missing or not pseudo[b":path"]:
        raise MalformedRequestError("a request needs :method, :scheme and :path")
    return pseudo


def check_field(name: bytes, value: bytes) -> None:
    """Check one regular field.

    Raises:
        MalformedRequestError: the text names the rule.
    """
    _check_value(name, value)
    if _NAME.fullmatch(name) is None:
        raise MalformedRequestError(f"{name!r} is no field name in lower case")
    if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
        raise MalformedRequestError(f"{name!r} does not belong in HTTP/2")


def _check_value(name: bytes, value: bytes) -> None:
    if _BAD_VALUE.search(value):
        raise MalformedRequestError(f"a value that no field may have in {name!r}")


def encode_headers(fields: Iterable[Field]) -> bytes:
    """A header block of literals that leave the peer's dynamic table alone."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\x00", _encode_string(name), _encode_string(value))
    return b"".join(parts)


def _encode_string(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    length -= 0x7F
    prefix = bytearray((0x7F,))
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + text
