"""`python -m atril_gateway`: the gateway over inference replicas as a process."""

import sys

from atril_common.process import run_service
from atril_gateway.service import serve
from atril_gateway.settings import GatewaySettings


def main() -> int:
    """Run until a signal; returns the exit status."""
    return run_service(GatewaySettings, serve)


if __name__ == "__main__":
    sys.exit(main())
