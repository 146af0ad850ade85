"""A WSGI application whose connections move to the next process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from websocket_handler import ALL_VERSIONS, WebSocket, WSGIMiddleware

from . import mode


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    ws = WebSocket.of(environ)
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
    status = mode.refusal(ws.resumed)
    if status:
        start_response(f"{status} Refused", [("Content-Type", "text/plain")])
        return [b"no"]
    if environ["PATH_INFO"] == "/facts":
        about = f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']} {ws.request.remote_address}"
        about += f" {sorted(name for name in environ if 'MOVE' in name)}"
        ws.on("message", lambda _: ws.send(about))
    elif environ["PATH_INFO"] != "/receive":
        ws.on("message", lambda message: ws.send(mode.answer(ws, message)))
    ws.connect(**mode.options())
    if environ["PATH_INFO"] == "/receive":
        for message in ws:
            ws.send(mode.answer(ws, message))
    start_response("200 OK", [])
    return [b""]


app = WSGIMiddleware(application, versions=ALL_VERSIONS, compression=True)
