"""The connection against hand-made frames."""

import pytest

from atril_common.h2grpc import frames
from atril_common.h2grpc.connection import (
    CONNECTION_WINDOW,
    MAX_CONTINUATIONS,
    STREAM_WINDOW,
    Connection,
)
from atril_common.h2grpc.control import MAX_FRAME
from atril_common.h2grpc.events import (
    ConnectionEnded,
    DataReceived,
    RequestReceived,
    StreamEnded,
)
from atril_common.h2grpc.frames import ErrorCode, Setting, frame
from atril_common.h2grpc.headers import encode_headers
from atril_common.h2grpc.outgoing import BUDGET
from tests.unit.common.h2grpc.http2_sessions import (
    BLOCK,
    HELLO,
    REQUEST,
    connection,
    data,
    goaway_code,
    greeted,
    parse,
    request,
    sent,
    split_frames,
)

PING8 = b"12345678"
BOMB = BLOCK + b"\x40" + encode_headers([(b"x", b"v" * 2000)])[1:] + b"\xbe" * 40
"""One field in the dynamic table, referred to until the list is larger than the block."""


def test_greeting_announces_the_limits() -> None:
    """The first frame is SETTINGS with all limits, then the connection window is widened."""
    greeting = Connection(parse, max_concurrent_streams=7).take_output()
    first, second = split_frames(b"".join(greeting))
    assert first.kind == frames.SETTINGS
    assert dict(frames.settings_from_payload(first.payload)) == {
        Setting.MAX_CONCURRENT_STREAMS: 7,
        Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        Setting.MAX_FRAME_SIZE: MAX_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: 64 * 1024,
    }
    assert second.kind == frames.WINDOW_UPDATE
    assert int.from_bytes(second.payload, "big") + 65_535 == CONNECTION_WINDOW


def test_request_and_body_are_reported_in_order() -> None:
    """HEADERS, DATA and the end of the stream become events with the stream's id."""
    conn = greeted()
    events = conn.receive(request(1) + data(1, b"abc") + data(1, b"de", ended=True))
    assert isinstance(events[0], RequestReceived)
    assert events[0].head.fields == REQUEST
    assert events[1:] == [DataReceived(1, b"abc", 3, False), DataReceived(1, b"de", 2, True)]


def test_padding_and_priority_are_stripped() -> None:
    """Padding counts against the window and is not part of the data."""
    conn = greeted()
    padded = b"\x04" + b"\x00\x00\x00\x00\x10" + BLOCK + b"\x00" * 4
    flags = frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY
    events = conn.receive(
        frame(frames.HEADERS, flags, 1, padded)
        + frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x02hi\x00\x00")
    )
    assert isinstance(events[0], RequestReceived)
    assert events[0].head.fields == REQUEST
    assert events[1] == DataReceived(1, b"hi", 5, True)


def test_header_block_may_come_in_continuations() -> None:
    """HEADERS without END_HEADERS go on in CONTINUATION frames."""
    conn = greeted()
    events = conn.receive(
        frame(frames.HEADERS, frames.END_STREAM, 1, BLOCK[:5])
        + frame(frames.CONTINUATION, 0, 1, BLOCK[5:9])
        + frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK[9:])
    )
    assert len(events) == 1
    assert isinstance(events[0], RequestReceived)
    assert events[0].ended
    assert events[0].head.fields == REQUEST


def test_trailers_end_a_request() -> None:
    """A second HEADERS with END_STREAM is the end of the body."""
    conn = greeted()
    trailers = request(1, ended=True, block=encode_headers([(b"x-sum", b"1")]))
    events = conn.receive(request(1) + data(1, b"abc") + trailers)
    assert events[-1] == DataReceived(1, b"", 0, True)


def test_answer_is_one_piece_of_three_frames() -> None:
    """An answer that fits the windows goes out as HEADERS, DATA, HEADERS at once."""
    conn = greeted()
    conn.receive(request(1, ended=True))
    conn.respond(1, b"head", b"body", b"tail")
    (piece,) = conn.take_output()
    assert [(f.kind, f.flags, f.payload) for f in split_frames(bytes(piece))] == [
        (frames.HEADERS, frames.END_HEADERS, b"head"),
        (frames.DATA, 0, b"body"),
        (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, b"tail"),
    ]
    assert conn.open_streams == 0


def test_answer_before_the_end_of_the_request_stops_the_client() -> None:
    """After an early answer the rest of the request is refused without an error."""
    conn = greeted()
    conn.receive(request(1))
    conn.end(1, b"tail")
    last = sent(conn)[-1]
    assert (last.kind, last.payload) == (frames.RST_STREAM, b"\x00" * 4)
    assert conn.receive(data(1, b"under way", ended=True)) == []
    assert not conn.closed


def test_answer_of_a_stream_that_is_gone_is_dropped() -> None:
    """Nothing is sent to a stream that the client reset."""
    conn = greeted()
    events = conn.receive(request(1, ended=True) + frames.rst_stream(1, ErrorCode.CANCEL))
    assert events[-1] == StreamEnded(1, ErrorCode.CANCEL)
    conn.respond(1, b"head", b"body", b"tail")
    conn.send_headers(1, b"head")
    conn.send_data(1, b"body")
    conn.end(1, b"tail")
    assert sent(conn) == []


def test_large_header_block_of_an_answer_is_continued() -> None:
    """A block larger than the peer's frames is split into CONTINUATION."""
    conn = greeted()
    conn.receive(request(1, ended=True))
    conn.respond(1, b"h" * 40_000, b"body", b"tail")
    kinds = [(f.kind, f.flags, len(f.payload)) for f in sent(conn)]
    assert kinds[:3] == [
        (frames.HEADERS, 0, 16_384),
        (frames.CONTINUATION, 0, 16_384),
        (frames.CONTINUATION, frames.END_HEADERS, 40_000 - 2 * 16_384),
    ]


def test_smaller_table_of_the_client_is_acknowledged_in_the_next_block() -> None:
    """A client that wants no dynamic table gets a table size update of 0, once."""
    conn = greeted(header_table_size=0)
    conn.receive(request(1, ended=True) + request(3, ended=True))
    conn.respond(1, b"head", b"body", b"tail")
    conn.respond(3, b"head", b"body", b"tail")
    heads = [f.payload for f in sent(conn) if f.kind == frames.HEADERS]
    assert heads == [b"\x20head", b"tail", b"head", b"tail"]


def test_data_that_a_larger_window_allows_goes_out_behind_the_acknowledgement() -> None:
    """Until the peer sees our ACK it counts by the old window, and calls more of it a breach."""
    conn = greeted()
    conn.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}) + request(1, ended=True))
    conn.take_output()
    conn.send_headers(1, BLOCK)
    conn.send_data(1, b"x" * 30)
    conn.take_output()

    conn.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 30}))

    ack, more = split_frames(b"".join(conn.take_output()))
    assert (ack.kind, ack.flags) == (frames.SETTINGS, frames.ACK)
    assert (more.kind, len(more.payload)) == (frames.DATA, 20)


def test_ping_and_settings_are_acknowledged() -> None:
    """PING comes back with its payload, SETTINGS with an ACK."""
    conn = greeted()
    conn.receive(frames.ping(PING8) + frames.settings({99: 1}))
    assert [(f.kind, f.flags, f.payload) for f in sent(conn)] == [
        (frames.PING, frames.ACK, PING8),
        (frames.SETTINGS, frames.ACK, b""),
    ]


def test_unknown_frames_priority_and_goaway_are_ignored() -> None:
    """Frames that mean nothing to a server change nothing."""
    conn = greeted()
    conn.receive(
        frame(0xBE, 0xFF, 5, b"what")
        + frame(frames.PRIORITY, 0, 9, b"\x00" * 5)
        + frames.goaway(0, 0, "bye")
        + frame(frames.SETTINGS, frames.ACK, 0)
    )
    assert sent(conn) == []
    assert not conn.closed


def test_requests_over_the_limit_are_refused_and_the_table_stays_in_step() -> None:
    """One stream too many gets REFUSED_STREAM; its header block still counts for HPACK."""
    conn = greeted(max_streams=1)
    adding = BLOCK + b"\x40\x03x-a\x01b"
    conn.receive(request(1) + request(3, block=adding) + data(3, b"body", ended=True))
    (refusal,) = sent(conn)
    assert (refusal.kind, refusal.stream_id) == (frames.RST_STREAM, 3)
    assert int.from_bytes(refusal.payload, "big") == ErrorCode.REFUSED_STREAM
    conn.reset(1, ErrorCode.CANCEL)
    (event,) = conn.receive(request(5, block=BLOCK + b"\xbe"))
    assert isinstance(event, RequestReceived)
    assert event.head.fields[-1] == (b"x-a", b"b")


def test_window_is_given_back_in_large_steps() -> None:
    """Neither the connection nor a stream costs a WINDOW_UPDATE for small requests."""
    conn = greeted()
    conn.receive(request(1))
    updates = []
    chunk = data(1, b"x" * MAX_FRAME)
    for _ in range(CONNECTION_WINDOW // MAX_FRAME):
        for event in conn.receive(chunk):
            assert isinstance(event, DataReceived)
            conn.consumed(1, event.cost)
        updates += [f for f in sent(conn) if f.kind == frames.WINDOW_UPDATE]
    sizes = [(f.stream_id, int.from_bytes(f.payload, "big")) for f in updates]
    assert sizes.count((0, CONNECTION_WINDOW // 2)) == 2
    assert sizes.count((1, STREAM_WINDOW // 2)) == 8
    assert len(sizes) == 10
    assert not conn.closed


def test_stream_that_overruns_its_window_is_reset() -> None:
    """A stream whose data nobody consumed may not send more than its window."""
    conn = greeted()
    conn.receive(request(1))
    for _ in range(STREAM_WINDOW // MAX_FRAME):
        assert len(conn.receive(data(1, b"x" * MAX_FRAME))) == 1
    assert conn.receive(data(1, b"x")) == [StreamEnded(1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_drain_takes_requests_until_the_client_has_seen_it() -> None:
    """Requests under way at the first GOAWAY are served; after the second they are refused."""
    conn = greeted()
    conn.drain()
    first, ping = sent(conn)
    assert first.payload[:4] == b"\x7f\xff\xff\xff"
    assert len(conn.receive(request(1, ended=True))) == 1
    conn.receive(frames.ping(ping.payload, ack=True))
    (second,) = sent(conn)
    assert (second.kind, second.payload[:4]) == (frames.GOAWAY, b"\x00\x00\x00\x01")
    assert conn.receive(request(3, ended=True)) == []
    (refusal,) = sent(conn)
    assert int.from_bytes(refusal.payload, "big") == ErrorCode.REFUSED_STREAM
    conn.respond(1, b"head", b"body", b"tail")
    assert len(sent(conn)) == 3


@pytest.mark.parametrize(
    ("session", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frames.ping(PING8), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE + frame(frames.SETTINGS, frames.ACK, 0), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.SETTINGS, frames.ACK, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frames.settings({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frames.settings({Setting.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frames.settings({Setting.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
        (
            HELLO + frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
        (HELLO + frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (HELLO + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (HELLO + request(2), ErrorCode.PROTOCOL_ERROR),
        (HELLO + request(0), ErrorCode.PROTOCOL_ERROR),
        (HELLO + request(5) + request(3), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.HEADERS, 0x4, 1, b"\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (HELLO + request(1, block=BOMB + b"\xbe" * 100), ErrorCode.COMPRESSION_ERROR),
        (HELLO + frame(frames.HEADERS, 0xC, 1, b"\x05ab"), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.HEADERS, 0x24, 1, b"ab"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.HEADERS, 0, 1, BLOCK) + data(1, b""), ErrorCode.PROTOCOL_ERROR),
        (
            HELLO + frame(frames.HEADERS, 0, 1, BLOCK) + frame(frames.CONTINUATION, 4, 3),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (HELLO + frame(frames.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.PUSH_PROMISE, 4, 1, b"\x00" * 4), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.PRIORITY, 0, 0, b"\x00" * 5), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.PRIORITY, 0, 1, b"\x00" * 4), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.PING, 0, 1, PING8), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.GOAWAY, 0, 1, PING8), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frame(frames.GOAWAY, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frames.rst_stream(0, 0), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frames.rst_stream(1, 0), ErrorCode.PROTOCOL_ERROR),
        (HELLO + request(1) + frame(frames.RST_STREAM, 0, 1, b"12"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frames.window_update(1, 5), ErrorCode.PROTOCOL_ERROR),
        (HELLO + frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (HELLO + frame(frames.WINDOW_UPDATE, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frames.frame_head(MAX_FRAME + 1, 0, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (HELLO + frame(frames.DATA, frames.PADDED, 1), ErrorCode.PROTOCOL_ERROR),
        (
            HELLO
            + request(1)
            + frames.window_update(1, 2**30)
            + frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
        (HELLO + request(1) + frames.rst_stream(1, 8) + request(1), ErrorCode.STREAM_CLOSED),
        (HELLO + request(1) + frames.rst_stream(1, 8) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    ],
)
def test_broken_rules_end_the_connection(session: bytes, code: ErrorCode) -> None:
    """A connection error is answered with GOAWAY and its code, and nothing is read any more."""
    conn = connection()
    events = conn.receive(session)
    ending = events[-1]
    assert isinstance(ending, ConnectionEnded)
    assert ending.code == code
    assert conn.closed
    assert goaway_code(conn) == code
    assert conn.receive(frames.ping(PING8)) == []
    assert sent(conn) == []


def _with(*fields: tuple[bytes, bytes]) -> bytes:
    return encode_headers((*REQUEST, *fields))


@pytest.mark.parametrize(
    ("session", "code"),
    [
        (request(1, block=_with((b"Upper", b"1"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b"connection", b"close"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b"te", b"gzip"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b"x", b"a\r\nb"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b"x", b" a"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b"", b"a"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=_with((b":path", b"/late"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, block=encode_headers(REQUEST[1:])), ErrorCode.PROTOCOL_ERROR),
        (
            request(1, block=encode_headers([(b":status", b"200"), *REQUEST])),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (request(1, block=BOMB), ErrorCode.ENHANCE_YOUR_CALM),
        (request(1, ended=True) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
        (request(1, ended=True) + request(1, ended=True), ErrorCode.STREAM_CLOSED),
        (request(1) + request(1), ErrorCode.PROTOCOL_ERROR),
        (request(1) + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (request(1) + frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (
            request(1, ended=True, block=_with((b"content-length", b"1"))),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (
            request(1, block=_with((b"content-length", b"1"))) + data(1, b"xy"),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (
            request(1, block=_with((b"content-length", b"3"))) + data(1, b"xy", ended=True),
            ErrorCode.PROTOCOL_ERROR,
        ),
    ],
)
def test_broken_streams_are_reset_alone(session: bytes, code: ErrorCode) -> None:
    """A stream error ends its stream; the next request on the connection is taken."""
    conn = greeted()
    conn.receive(session)
    resets = [f for f in sent(conn) if f.kind == frames.RST_STREAM]
    assert [(f.stream_id, int.from_bytes(f.payload, "big")) for f in resets] == [(1, code)]
    (event,) = conn.receive(request(3))
    assert isinstance(event, RequestReceived)


@pytest.mark.parametrize(
    "unit",
    [
        frames.ping(PING8),
        frames.settings({}),
        frame(frames.SETTINGS, frames.ACK, 0),
        frame(frames.PRIORITY, 0, 9, b"\x00" * 5),
        frame(0x99, 0, 0, b""),
        frames.window_update(0, 1),
        data(1, b""),
    ],
    ids=["ping", "settings", "settings ack", "priority", "unknown", "window update", "empty data"],
)
def test_flood_of_idle_frames_ends_the_connection(unit: bytes) -> None:
    """A peer that only keeps us busy is told to calm down within its budget."""
    conn = greeted()
    conn.receive(request(1))
    conn.receive(unit * (BUDGET + 1))
    assert goaway_code(conn) == ErrorCode.ENHANCE_YOUR_CALM


def test_rapid_reset_ends_the_connection() -> None:
    """Requests that are cancelled at once cannot go on for ever (CVE-2023-44487)."""
    conn = greeted()
    started = 0
    for stream_id in range(1, 2 * BUDGET, 2):
        session = request(stream_id, ended=True) + frames.rst_stream(stream_id, ErrorCode.CANCEL)
        started += sum(isinstance(e, RequestReceived) for e in conn.receive(session))
    assert goaway_code(conn) == ErrorCode.ENHANCE_YOUR_CALM
    assert started <= BUDGET // 10 + 1


@pytest.mark.parametrize("piece", [b"", b"\x00" * 16_384], ids=["empty", "large"])
def test_continuation_flood_ends_the_connection(piece: bytes) -> None:
    """A header block without an end is bounded in frames and in bytes (CVE-2024-27316)."""
    conn = greeted()
    conn.receive(frame(frames.HEADERS, 0, 1, b""))
    conn.receive(frame(frames.CONTINUATION, 0, 1, piece) * (MAX_CONTINUATIONS + 1))
    assert goaway_code(conn) == ErrorCode.ENHANCE_YOUR_CALM


def test_busy_connection_never_spends_its_budget() -> None:
    """A PING and three WINDOW_UPDATEs for every request are fine for any number of requests."""
    conn = greeted()
    for stream_id in range(1, 8 * BUDGET, 2):
        conn.receive(
            frames.ping(PING8)
            + frames.window_update(0, 8)
            + frames.window_update(0, 1)
            + request(stream_id)
            + data(stream_id, b"abc", ended=True)
            + frames.window_update(stream_id, 4)
        )
        conn.respond(stream_id, b"head", b"body", b"tail")
        conn.take_output()
    assert not conn.closed


def test_time_lets_an_idle_connection_ping() -> None:
    """What time adds to the budget pays for keepalive."""
    conn = greeted()
    for _ in range(3 * BUDGET):
        conn.receive(frames.ping(PING8))
        conn.refill(1)
        conn.take_output()
    assert not conn.closed


def test_held_connection_sends_no_data_but_answers_pings() -> None:
    """While the transport is full, data waits in its streams."""
    conn = greeted()
    conn.receive(request(1, ended=True))
    conn.held = True
    conn.respond(1, b"head", b"body" * 20_000, b"tail")
    conn.receive(frames.ping(PING8))
    assert [f.kind for f in sent(conn)] == [frames.HEADERS, frames.PING]
    assert conn.pending_bytes(1) == 80_000
    conn.held = False
    conn.pump()
    kinds = [f.kind for f in sent(conn)]
    assert kinds == [frames.DATA] * 4  # 65 535 bytes of the window
    assert conn.drained == [1]
    conn.receive(frames.window_update(0, 80_000) + frames.window_update(1, 80_000))
    assert [f.kind for f in sent(conn)] == [frames.DATA, frames.HEADERS]


def test_streams_share_the_window_frame_by_frame() -> None:
    """A large answer does not hold up a small one."""
    conn = greeted()
    conn.receive(request(1, ended=True) + request(3, ended=True))
    conn.held = True
    conn.respond(1, b"head", b"1" * 60_000, b"tail")
    conn.respond(3, b"head", b"3" * 100, b"tail")
    conn.take_output()
    conn.held = False
    conn.pump()
    assert [f.stream_id for f in sent(conn)] == [1, 3, 3, 1, 1, 1, 1]
