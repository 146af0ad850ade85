"""Servers in an event loop: an ASGI application, and aiohttp or Tornado if run as a program."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from websocket_handler import ASGIMiddleware, WebSocket
from websocket_handler.engine import loop_engine

from .situations import AFTER, Response, page, respond


async def respond_in_loop(ws: WebSocket | None, path: str, spoken: asyncio.Event) -> Response:
    if ws is None:
        return page(loop_engine())
    if path == "/late":
        ws.connect()
        await ws.areceive()
        return Response(401, [], b"")
    ws.on("message", lambda _: spoken.set())
    if path == "/cancelled":
        respond(ws, path)
        raise asyncio.CancelledError
    return respond(ws, path)


async def work_on(path: str, spoken: asyncio.Event) -> None:
    if path == AFTER:
        await asyncio.wait_for(spoken.wait(), 20)
    if path == "/works-on-in-vain":
        raise RuntimeError("as the test wants it")


# ASGI


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await receive()
    path, spoken = scope["path"], asyncio.Event()
    status, fields, body = await respond_in_loop(scope["websocket"], path, spoken)
    raw = [(name.lower().encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    half = len(body) // 2
    await send({"type": "http.response.body", "body": body[:half], "more_body": True})
    await send({"type": "http.response.body", "body": body[half:]})
    await work_on(path, spoken)


app = ASGIMiddleware(application)


# aiohttp


def run_aiohttp(port: int) -> None:
    from aiohttp import web

    from websocket_handler.servers.aiohttp import websocket

    async def handle(request: web.Request) -> web.StreamResponse:
        path, spoken = request.path, asyncio.Event()
        ws = websocket(request)
        if path == "/raises-http-exception":
            ws.connect()  # type: ignore[union-attr]
            raise web.HTTPUnauthorized(text="not you")
        status, fields, body = await respond_in_loop(ws, path, spoken)
        response = web.StreamResponse(status=status)
        for name, value in fields:
            response.headers.add(name, value)
        await response.prepare(request)
        await response.write(body)
        await response.write_eof()
        await work_on(path, spoken)
        return response

    application = web.Application()
    application.router.add_get("/{name:.*}", handle)
    web.run_app(application, host="127.0.0.1", port=port)


# Tornado


async def run_tornado(port: int) -> None:
    from tornado.web import Application, HTTPError, RequestHandler

    from websocket_handler.servers.tornado import websocket

    class Handler(RequestHandler):
        async def get(self) -> None:
            path, spoken = self.request.path, asyncio.Event()
            ws = websocket(self)
            if path == "/raises-http-exception":
                ws.connect()  # type: ignore[union-attr]
                raise HTTPError(401)
            status, fields, body = await respond_in_loop(ws, path, spoken)
            self.set_status(status)
            for name, value in fields:
                (self.add_header if name == "Set-Cookie" else self.set_header)(name, value)
            self.finish(body)
            await work_on(path, spoken)

    Application([(r"/.*", Handler)]).listen(port, "127.0.0.1")
    print(f"Running on http://127.0.0.1:{port}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    number = int(sys.argv[2])
    if sys.argv[1] == "aiohttp":
        run_aiohttp(number)
    else:
        asyncio.run(run_tornado(number))
