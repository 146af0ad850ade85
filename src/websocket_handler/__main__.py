"""`python -m websocket_handler`: runs the echo demo, by default on http://localhost:4080."""

from __future__ import annotations

import argparse
import errno
import logging
import sys

from . import IS_NATIVE
from .demo.application import make_server


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("websocket_handler").setLevel(logging.DEBUG)  # how each connection ended
    try:
        server = make_server(options.host, options.port)
    except OSError as error:
        print(explain(error, options.host, options.port), file=sys.stderr)  # noqa: T201
        return 1
    engine = "native" if IS_NATIVE else "pure-Python"
    logging.info(
        "http://%s:%d/echotest.html is ready (%s engine); press Ctrl-C to stop",
        "localhost" if options.host == "127.0.0.1" else options.host,
        server.server_port,
        engine,
    )
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logging.info("closing all WebSockets with 1001")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m websocket_handler",
        description="A web application on http.server with a WebSocket echo test page.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=4080, help="port to listen on (%(default)s)")
    return parser.parse_args(arguments)


def explain(error: OSError, host: str, port: int) -> str:
    """Return an error message for a user if the server cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; choose another one with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} requires privileges; choose one above 1023 with --port."
    return f"Cannot listen on {host}:{port}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
