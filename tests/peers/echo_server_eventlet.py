"""eventlet as an echo server; prints the port it serves."""

from __future__ import annotations

import sys
from typing import Any

import eventlet
from eventlet import websocket, wsgi


@websocket.WebSocketWSGI  # type: ignore[untyped-decorator]
def echo(peer: Any) -> None:
    while (message := peer.wait()) is not None:
        peer.send(message)


if __name__ == "__main__":
    listener = eventlet.listen(("127.0.0.1", 0))
    print(f"serving on {listener.getsockname()[1]}", flush=True)  # noqa: T201
    wsgi.server(listener, echo, log=sys.stderr)
