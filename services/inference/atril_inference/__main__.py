"""`python -m atril_inference`: the inference service as a process."""

import sys

from atril_common.process import run_service
from atril_inference.service import serve
from atril_inference.settings import InferenceSettings


def main() -> int:
    """Run until a signal; returns the exit status."""
    return run_service(InferenceSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
