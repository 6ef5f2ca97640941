"""`python -m app.healthcheck`: exit status 0 if the server of this container is alive.

It needs no more than the standard library, so that asking every few seconds costs little.
"""

import os
import sys
from http.client import HTTPConnection

_TIMEOUT_S = 4


def is_healthy(port: int) -> bool:
    """Whether `GET /health` of this machine's server says 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    # The image's server is set up by variables; it listens on all addresses of its container.
    sys.exit(0 if is_healthy(int(os.environ.get("TANDEM_PORT", "8000"))) else 1)
