"""A real S3-compatible server, as a process of its own, over a folder."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.waiting import wait_until

BUCKET = "models"


def environment(port: int) -> dict[str, str]:
    """What a client of the server finds in its environment."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def object_store(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Serve a folder of buckets; the one bucket's folder, and the environment of clients.

    An object is a file of the folder: what is written there is in the store.
    """
    bucket = folder / BUCKET
    bucket.mkdir(parents=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "localbucket", str(folder), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
    )
    try:
        wait_until(lambda: _listens(port), "the object store")
        yield bucket, environment(port)
    finally:
        server.terminate()
        server.wait(20)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
