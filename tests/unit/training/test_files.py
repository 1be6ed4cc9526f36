"""Data files from a folder and from a server on this machine."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from atril_training.datasets.files import (
    DataFile,
    DownloadSource,
    FolderSource,
    check_content,
    default_cache,
)
from atril_training.errors import CorruptDataError, DataUnavailableError

CONTENT = b"some data" * 50_000


def _file(*urls: str) -> DataFile:
    return DataFile("set", "part.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), urls)


class _Mirror(ThreadingHTTPServer):
    """Answers by the last part of the path, and notes what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.closing = Event()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{kind}"


class _Handler(BaseHTTPRequestHandler):
    server: _Mirror

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        self.server.asked.append(kind)
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if kind == "short":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        match kind:
            case "good":
                self.wfile.write(CONTENT)
            case "short":
                self.wfile.write(CONTENT[:-1])
            case "changed":
                self.wfile.write(b"X" + CONTENT[1:])
            case "endless":
                self._write_until_refused()
            case "silent":
                self.server.closing.wait()

    def _write_until_refused(self) -> None:
        try:
            while not self.server.closing.is_set():
                self.wfile.write(CONTENT)
        except OSError:
            return  # the client hung up, as it should

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output stays clean."""


@pytest.fixture
def mirror() -> Iterator[_Mirror]:
    """A server with one good file and several bad ones."""
    server = _Mirror()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_is_read_from_the_folder(tmp_path: Path) -> None:
    """A data folder has a folder for each set."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.gz").write_bytes(CONTENT)
    assert FolderSource(tmp_path).read(_file()) == CONTENT


def test_file_missing_from_the_folder_is_named(tmp_path: Path) -> None:
    """The error has the whole path that was tried."""
    with pytest.raises(DataUnavailableError, match=r"set/part\.gz: No such file"):
        FolderSource(tmp_path).read(_file())


def test_changed_file_in_the_folder_is_refused(tmp_path: Path) -> None:
    """A wrong checksum names the file, the sum that was got and the one expected."""
    (tmp_path / "set").mkdir()
    changed = b"X" + CONTENT[1:]
    (tmp_path / "set" / "part.gz").write_bytes(changed)
    got, expected = (hashlib.sha256(c).hexdigest() for c in (changed, CONTENT))
    with pytest.raises(
        CorruptDataError, match=rf"set/part\.gz: got SHA-256 {got}, expected {expected}"
    ):
        FolderSource(tmp_path).read(_file())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], f"here: got {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"),
        (CONTENT + b"!", f"here: got more than {len(CONTENT)} bytes, expected {len(CONTENT)}"),
    ],
    ids=["short", "long"],
)
def test_wrong_size_is_told_in_bytes(content: bytes, message: str) -> None:
    """A size says more than a checksum, so it is compared first."""
    with pytest.raises(CorruptDataError, match=message):
        check_content(_file(), content, where="here")


def test_download_is_cached(mirror: _Mirror, tmp_path: Path) -> None:
    """The second read does not go to the network, and nothing else is left in the cache."""
    source = DownloadSource(tmp_path)
    file = _file(mirror.url("good"))
    assert source.read(file) == CONTENT
    assert source.read(file) == CONTENT
    assert mirror.asked == ["good"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["part.gz"]


def test_next_mirror_is_asked_when_one_fails(mirror: _Mirror, tmp_path: Path) -> None:
    """A missing, a short and a changed file lead on to the next URL."""
    kinds = ["missing", "short", "changed", "good"]
    file = _file(*map(mirror.url, kinds))
    assert DownloadSource(tmp_path).read(file) == CONTENT
    assert mirror.asked == kinds


def test_spoilt_cache_is_replaced(mirror: _Mirror, tmp_path: Path) -> None:
    """A cached file that has changed since is fetched again."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part.gz").write_bytes(b"spoilt")
    assert DownloadSource(tmp_path).read(_file(mirror.url("good"))) == CONTENT
    assert (tmp_path / "set" / "part.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "HTTP Error 404"),
        ("short", f"got {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"),
        ("changed", "got SHA-256"),
        ("endless", f"got more than {len(CONTENT)} bytes"),
        ("silent", "timed out"),
    ],
)
def test_failed_download_says_why_and_caches_nothing(
    mirror: _Mirror, tmp_path: Path, kind: str, reason: str
) -> None:
    """The error has the URL and the reason; a server that sends too much or nothing is left."""
    url = mirror.url(kind)
    with pytest.raises(DataUnavailableError, match=rf"part\.gz: {url}: .*{reason}"):
        DownloadSource(tmp_path, timeout_s=0.3).read(_file(url))
    assert list(tmp_path.iterdir()) == []


def test_download_that_takes_too_long_in_all_is_given_up(mirror: _Mirror, tmp_path: Path) -> None:
    """Data that trickles in cannot hold a training up for ever."""
    source = DownloadSource(tmp_path, deadline_s=0)
    with pytest.raises(DataUnavailableError, match="no complete answer within 0 s"):
        source.read(_file(mirror.url("good")))


def test_no_server_is_an_error_of_ours(tmp_path: Path) -> None:
    """A refused connection ends in the same typed error."""
    with pytest.raises(DataUnavailableError, match="refused"):
        DownloadSource(tmp_path).read(_file("http://127.0.0.1:1/part.gz"))


def test_cache_follows_the_xdg_variable() -> None:
    """`XDG_CACHE_HOME` where it is set, `~/.cache` where it is not or is empty."""
    assert default_cache({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/atril")
    assert default_cache({}) == Path.home() / ".cache" / "atril"
    assert default_cache({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "atril"
