"""Loading a model once in a child process, before the server loads it itself.

ONNX Runtime is C++ and runs what a file says: one that crashes it would take every other model
down with it, and one that never ends would hold a thread that nobody can stop. The child takes that
upon itself. Whether a model that the child survives can be served is not for the child to say.
"""

import base64
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import orjson
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import NotReadyError
from atril_inference.kinds import load_any
from atril_inference.session_options import SessionOptions

logger = logging.getLogger(__name__)

_IDLE_S = 10.0
"""How long a child waits for the next model; starting one costs more than most loads."""

_CPU = SessionOptions(device="cpu", intra_op_threads=1, warm_up_budget_s=0)


class Trial:
    """Tries models in a child, one at a time; called in threads.

    Args:
        limit_s: seconds after which a trial has failed; 0 tries nothing.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._closed = False
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def survive(self, folder: Path, version: int, config: ModelConfig) -> None:
        """Load and run a version in the child.

        Raises:
            NotReadyError: the child died of it, or did not come to an end.
        """
        if not self._limit_s:
            return
        serialized = base64.b64encode(config.SerializeToString()).decode()
        request = orjson.dumps([str(folder.absolute()), version, serialized, self._limit_s])
        with self._lock:
            status = self._ask(request + b"\n")
            if status == 0:  # it had just gone to rest
                status = self._ask(request + b"\n")
        if status is not None:
            raise NotReadyError(f"version {version} was not loaded: in a trial {_told(status)}")

    def close(self) -> None:
        """End the child, and with it a trial that is under way; nothing is tried after that."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> int | None:
        """None when the child answers, else the status with which it ended."""
        if self._closed:
            raise NotReadyError("Server is stopping")
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "atril_inference.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._closed:  # by a `close` that saw no child yet
                self._end()
                raise NotReadyError("Server is stopping")
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except BrokenPipeError:
            return child.wait()
        ready, _, _ = select.select([child.stdout], [], [], self._limit_s)
        if ready and child.stdout.readline():
            return None
        if not ready:
            child.send_signal(signal.SIGALRM)
        return child.wait()

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None


def _told(status: int) -> str:
    if status == -signal.SIGALRM:
        return "it did not come to an end in time"
    if status < 0:
        return f"onnxruntime died of {signal.Signals(-status).name}"
    return f"the process that loaded it ended with status {status}"


def main() -> None:
    """Be the child: a line in is a model to load, a line out says that it is over."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # others may print
    logging.disable()
    try:
        # Where memory runs out the kernel is to take this process, not the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        logger.debug("oom_score_adj cannot be set here")
    while select.select([sys.stdin], [], [], _IDLE_S)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        folder, version, serialized, limit_s = orjson.loads(line)
        signal.alarm(int(limit_s) + 1)  # should the parent be gone by then
        config = ModelConfig.FromString(base64.b64decode(serialized))
        try:
            load_any(Path(folder), version, config, _CPU).close()
        except Exception:  # noqa: BLE001  # the server finds the same, and says it
            logger.debug("trial_failed")
        signal.alarm(0)
        answers.write(b"done\n")
        answers.flush()


if __name__ == "__main__":
    main()
