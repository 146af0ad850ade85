"""aiohttp on a port that the next process shares: `aiohttp_server.py PORT`."""

from __future__ import annotations

import os
import sys
from typing import Any

from aiohttp import web

from websocket_handler import WebSocket, amove_connections

from . import mode
from .mode import report


@web.middleware
async def address_filter(request: web.Request, handler: Any) -> web.StreamResponse:
    WebSocket.of(request)  # from now on, the request has the client's address
    request["about"] = f"{request.remote} {request.scheme}"
    response: web.StreamResponse = await handler(request)
    return response


async def handler(request: web.Request) -> web.StreamResponse:
    ws = WebSocket.of(request)
    if ws is None:
        return web.Response(text=str(os.getpid()))
    if request.path == "/receive":
        ws.connect()
        async for message in ws:
            ws.send(mode.answer(ws, message))
        return web.Response()
    about = f"{request['about']} {ws.request.remote_address}"
    is_asked = request.path == "/facts"
    ws.on("message", lambda message: ws.send(about if is_asked else mode.answer(ws, message)))
    answer: web.Response = ws.connect()
    return answer


async def move(_: web.Application) -> None:
    report(await amove_connections(window=0.5, timeout=mode.timeout()))


def main() -> None:
    app = web.Application(middlewares=[address_filter])
    app.router.add_get("/{path:.*}", handler)
    app.on_shutdown.append(move)
    port = int(sys.argv[1])

    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        reuse_port=True,
        print=lambda *_: report(f"ready on port {port}"),  # when it listens
        shutdown_timeout=5,
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
