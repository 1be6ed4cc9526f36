"""The connection against arbitrary bytes, a model of flow control and an independent client."""

import h2.config
import h2.connection
import h2.events
from hypothesis import given
from hypothesis import strategies as st

from atril_common.h2grpc import frames
from atril_common.h2grpc.connection import Connection
from atril_common.h2grpc.events import (
    ConnectionEnded,
    DataReceived,
    RequestReceived,
)
from atril_common.h2grpc.frames import Setting
from atril_common.h2grpc.headers import encode_headers
from tests.unit.common.h2grpc.http2_sessions import (
    BLOCK,
    HELLO,
    PlainHead,
    connection,
    data,
    greeted,
    parse,
    request,
    sent,
)

HEAD = encode_headers([(b":status", b"200")])
TAIL = encode_headers([(b"grpc-status", b"0")])

IDS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1])
ANY_FRAME = st.builds(
    frames.frame, st.integers(0, 11), st.integers(0, 0x2F), IDS, st.binary(max_size=40)
)
GOOD_FRAME = st.one_of(
    st.builds(lambda i, e: request(i, ended=e), IDS, st.booleans()),
    st.builds(lambda i, d, e: data(i, d, ended=e), IDS, st.binary(max_size=40), st.booleans()),
    st.builds(frames.window_update, IDS, st.integers(0, 2**31 - 1)),
    st.builds(frames.rst_stream, IDS, st.integers(0, 20)),
    st.builds(
        lambda key, value: frames.settings({key: value}),
        st.integers(0, 9),
        st.sampled_from([0, 1, 100, 16_384, 65_536, 2**31 - 1, 2**32 - 1]),
    ),
    st.just(frames.ping(b"12345678")),
)
SESSION = st.lists(st.one_of(GOOD_FRAME, GOOD_FRAME, ANY_FRAME), max_size=25).map(
    lambda parts: HELLO + b"".join(parts)
)


def _check(conn: Connection[PlainHead], received: bytes) -> None:
    """Take a session, answer every request, and look at what must always hold."""
    for event in conn.receive(received):
        if isinstance(event, RequestReceived):
            conn.respond(event.stream_id, HEAD, b"answer" * 20, TAIL)
        if isinstance(event, ConnectionEnded):
            assert conn.closed
    output = sent(conn)
    assert sum(len(frame.payload) + 9 for frame in output) <= 100 + 400 * (1 + len(received) // 9)
    if conn.closed:
        assert output[-1].kind == frames.GOAWAY
        assert conn.open_streams == 0


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_end_cleanly_or_wait_for_more(received: bytes, greet: bool) -> None:
    """No bytes raise anything; the only answers are frames, the last one a GOAWAY."""
    _check(connection(), HELLO + received if greet else received)


@given(SESSION)
def test_arbitrary_frames_end_cleanly_or_wait_for_more(session: bytes) -> None:
    """No order of frames raises anything."""
    _check(connection(), session)


@given(SESSION, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5))
def test_mutated_sessions_end_cleanly_or_wait_for_more(
    session: bytes, changes: list[tuple[int, int]]
) -> None:
    """Flipped bytes in a session raise nothing."""
    mutated = bytearray(session)
    for position, byte in changes:
        mutated[position % len(mutated)] = byte
    _check(connection(), bytes(mutated))


@given(SESSION, st.lists(st.integers(1, 60)))
def test_splitting_changes_nothing(session: bytes, sizes: list[int]) -> None:
    """The network may cut a session anywhere; events and answers are the same."""
    whole, pieces = connection(), connection()
    expected = whole.receive(session)
    events, position = [], 0
    for size in [*sizes, len(session)]:
        events += pieces.receive(session[position : position + size])
        position += size
    assert events == expected
    assert sent(pieces) == sent(whole)


@given(SESSION)
def test_single_bytes_change_nothing(session: bytes) -> None:
    """The same, one byte at a time."""
    whole, pieces = connection(), connection()
    expected = whole.receive(session)
    events = [event for byte in session for event in pieces.receive(bytes((byte,)))]
    assert events == expected
    assert sent(pieces) == sent(whole)


CLIENT_STEP = st.one_of(
    st.tuples(st.just("connection"), st.integers(1, 50_000)),
    st.tuples(st.sampled_from(["stream 1", "stream 3", "stream 5"]), st.integers(1, 50_000)),
    st.tuples(st.just("initial"), st.integers(0, 100_000)),
    st.tuples(st.just("frame"), st.integers(16_384, 100_000)),
    st.tuples(st.just("hold"), st.integers(0, 1)),
)


class _WindowModel:
    """RFC 9113, section 5.2, from the client's side: what may be sent, and what was."""

    def __init__(self) -> None:
        self.connection = 65_535
        self.initial = 65_535
        self.max_frame = 16_384
        self.streams = dict.fromkeys((1, 3, 5), 65_535)
        self.received = dict.fromkeys((1, 3, 5), b"")
        self.ended: set[int] = set()

    def step(self, conn: Connection[PlainHead], what: str, value: int) -> None:
        """Tell the server, and remember what it may do from now on."""
        if what == "hold":
            conn.held = bool(value)
            conn.pump()
        elif what == "connection":
            self.connection += value
            conn.receive(frames.window_update(0, value))
        elif what == "initial":
            for stream_id in self.streams:
                self.streams[stream_id] += value - self.initial
            self.initial = value
            conn.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: value}))
        elif what == "frame":
            self.max_frame = value
            conn.receive(frames.settings({Setting.MAX_FRAME_SIZE: value}))
        else:
            stream_id = int(what.split()[1])
            self.streams[stream_id] += value
            conn.receive(frames.window_update(stream_id, value))

    def check(self, conn: Connection[PlainHead]) -> None:
        """Read what the server sends; it may not go beyond any window."""
        for frame in sent(conn):
            if frame.kind == frames.DATA:
                size = len(frame.payload)
                assert 0 < size <= self.max_frame
                self.connection -= size
                self.streams[frame.stream_id] -= size
                assert self.connection >= 0
                assert self.streams[frame.stream_id] >= 0
                self.received[frame.stream_id] += frame.payload
            if frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM:
                self.ended.add(frame.stream_id)


@given(
    st.lists(CLIENT_STEP, max_size=20),
    st.lists(st.integers(0, 150_000), min_size=3, max_size=3),
    st.integers(0, 65_535),
)
def test_answers_keep_within_the_windows_and_arrive_whole(
    steps: list[tuple[str, int]], sizes: list[int], first_window: int
) -> None:
    """Whatever the client does with its windows, nothing is sent beyond them or lost."""
    conn, model = greeted(), _WindowModel()
    model.step(conn, "initial", first_window)
    bodies = {
        stream_id: bytes((stream_id,)) * size
        for stream_id, size in zip((1, 3, 5), sizes, strict=True)
    }
    for stream_id, body in bodies.items():
        conn.receive(request(stream_id, ended=True))
        conn.respond(stream_id, HEAD, body, TAIL)
        model.check(conn)
    for what, value in steps:
        model.step(conn, what, value)
        model.check(conn)
    for what in ("connection", "stream 1", "stream 3", "stream 5"):
        model.step(conn, what, 1_000_000)
    model.step(conn, "hold", 0)
    model.check(conn)
    assert model.received == bodies
    assert model.ended == {1, 3, 5}
    assert conn.open_streams == 0


@given(st.lists(st.tuples(st.binary(max_size=40_000), st.integers(0, 200_000)), max_size=6))
def test_independent_client_understands_every_answer(exchanges: list[tuple[bytes, int]]) -> None:
    """The h2 library, as a client, gets the answer to each of its requests."""
    conn = Connection(parse, max_concurrent_streams=100)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    client.initiate_connection()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p"), (b"host", b"a")]
    for body, size in exchanges:
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, [*fields, (b"x-size", b"%d" % size)])
        _exchange(client, conn)
        for start in range(0, len(body), 10_000):
            client.send_data(stream_id, body[start : start + 10_000])
        client.end_stream(stream_id)
        events = _serve(client, conn, size)
        answer = [e for e in events if e.stream_id == stream_id]
        assert b"".join(e.data for e in answer if isinstance(e, h2.events.DataReceived)) == (
            b"a" * size or b"empty"
        )
        assert isinstance(answer[-1], h2.events.StreamEnded)
    assert not conn.closed


def _exchange(
    client: h2.connection.H2Connection, conn: Connection[PlainHead]
) -> tuple[list[RequestReceived[PlainHead] | DataReceived], list[h2.events.Event]]:
    seen = [e for e in conn.receive(client.data_to_send()) if not isinstance(e, ConnectionEnded)]
    answer = b"".join(conn.take_output())
    conn.pump()
    return seen, client.receive_data(answer)  # type: ignore[return-value]


def _serve(
    client: h2.connection.H2Connection, conn: Connection[PlainHead], size: int
) -> list[h2.events.Event]:
    """Answer the request that is under way; returns what the client saw of it."""
    result: list[h2.events.Event] = []
    quiet = 0
    while quiet < 2:
        seen, events = _exchange(client, conn)
        for event in seen:
            if isinstance(event, DataReceived) and event.ended:
                conn.respond(event.stream_id, HEAD, b"a" * size or b"empty", TAIL)
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if hasattr(event, "stream_id"):
                result.append(event)
        quiet = 0 if seen or events else quiet + 1
    return result


def test_block_of_the_session_is_a_request() -> None:
    """The sessions above do reach the layer that answers."""
    (event,) = connection().receive(HELLO + request(1, block=BLOCK))
    assert isinstance(event, RequestReceived)
