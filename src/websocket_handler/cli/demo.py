"""`websocket-handler demo`: the echo demo, for a visitor with a browser. Needs no extra."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .. import IS_NATIVE, default_engine
from ..demo.application import DemoServer, make_server

MAX_SIGNAL_DELAY_S = 0.5
"""A signal that arrives just before a wait begins does not end it."""

DESCRIPTION = "Serve a web application on http.server with a WebSocket echo test page."


def seconds(text: str) -> float:
    """Return a number of seconds. Raises `ValueError` if it is negative or not finite."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def port(text: str) -> int:
    """Return the number of a port; 0 lets the system choose one. Raises `ValueError` if it is not
    valid."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


class Option(NamedTuple):
    """An option of the command, for argparse and for click."""

    name: str
    type: Callable[[str], object]
    default: object
    help: str


OPTIONS = (
    Option("--host", str, "127.0.0.1", "address to listen on"),
    Option("--port", port, 4080, "port to listen on"),
    Option(
        "--window",
        seconds,
        0.0,
        "on Ctrl-C and SIGTERM, close the WebSockets over this many seconds with 1012; "
        "0 closes all at once with 1001",
    ),
)


def run(arguments: list[str]) -> int:
    """Parse the options and serve until Ctrl-C or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="websocket-handler demo", description=DESCRIPTION)
    for name, kind, default, text in OPTIONS:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (%(default)s)")
    return serve(**vars(parser.parse_args(arguments)))


def serve(host: str, port: int, window: float) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("websocket_handler").setLevel(logging.DEBUG)  # how each connection ended
    try:
        server = make_server(host, port)
    except OSError as error:
        sys.stderr.write(explain(error, host, port) + "\n")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    with server:
        serve_until_interrupted(server, f"http://{place}:{server.server_port}/echotest.html")
        close(server, window)
    return 0


def serve_until_interrupted(server: DemoServer, page: str) -> None:
    """Start to serve in a thread, and wait for Ctrl-C or SIGTERM."""
    engine = "native" if IS_NATIVE else "pure-Python"
    with contextlib.suppress(KeyboardInterrupt):
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        logging.info("%s is ready (%s engine); press Ctrl-C to stop", page, engine)
        while True:
            time.sleep(MAX_SIGNAL_DELAY_S)


def close(server: DemoServer, window: float) -> None:
    """Close all WebSockets. The server answers new handshakes with 503 during the window, which
    another Ctrl-C or SIGTERM ends."""
    with contextlib.suppress(KeyboardInterrupt):
        if window:
            logging.info("closing all WebSockets with 1012 within %g s", window)
            default_engine().close_all(window=window)
        else:
            logging.info("closing all WebSockets with 1001")
    server.shutdown()


def explain(error: OSError, host: str, port: int) -> str:
    """Return an error message for a user if the server cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; choose another one with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} requires privileges; choose one above 1023 with --port."
    return f"Cannot listen on {host}:{port}: {error.strerror or error}"
