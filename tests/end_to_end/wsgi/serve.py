"""Serves a WSGI application with a server from PyPI or the standard library, on a free port:
serve.py SERVER MODULE:NAME. (gunicorn has a command of its own.)"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import sys
from typing import Any


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def with_werkzeug(app: Any) -> None:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    announce(server.port)
    server.serve_forever()


def with_cheroot(app: Any) -> None:
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", 0), app, numthreads=4)
    server.prepare()
    announce(server.bind_addr[1])
    try:
        server.serve()
    finally:
        server.stop()


def with_waitress(app: Any) -> None:
    from waitress.server import create_server

    server = create_server(app, host="127.0.0.1", port=0, threads=4)
    announce(server.effective_port)
    server.run()


def with_wsgiref(app: Any) -> None:
    from wsgiref.simple_server import make_server

    server = make_server("127.0.0.1", 0, app)
    announce(server.server_port)
    server.serve_forever()


def with_bottle(app: Any) -> None:
    from bottle import run

    port = free_port()
    announce(port)
    run(app, host="127.0.0.1", port=port, quiet=True)


def announce(port: int) -> None:
    print(f"ready on port {port}", flush=True)  # noqa: T201


def main() -> None:
    server, _, name = sys.argv[1], sys.argv[2], sys.argv[2]
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module, _, attribute = name.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    try:
        globals()[f"with_{server}"](app)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
