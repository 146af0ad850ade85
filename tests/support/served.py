"""Applications that are served by threads of the tests' own process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from werkzeug.serving import make_server

from websocket_handler import ASGIMiddleware
from websocket_handler.servers.uvicorn import WebSocketProtocol

from .ports import free_port, listens
from .programs import wait_for


def load(source: str, name: str, folder: Path) -> dict[str, Any]:
    """Run a module that is saved in `folder`; returns its names."""
    path = folder / name
    path.write_text(source)
    module: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(source, str(path), "exec"), module)
    return module


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve a WSGI or ASGI application; gives the address, such as "127.0.0.1:15000"."""
    serve = _served_by_uvicorn if isinstance(app, ASGIMiddleware) else _served_by_werkzeug
    with serve(app) as port:
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _served_by_werkzeug(app: Any) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextlib.contextmanager
def _served_by_uvicorn(app: Any) -> Iterator[int]:
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, ws=WebSocketProtocol, log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: listens(port, "127.0.0.1"), "uvicorn to listen")
        yield port
    finally:
        server.should_exit = True
        thread.join(10)
