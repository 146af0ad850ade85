"""The application in aiohttp: with_aiohttp.py PORT LOOP [CERTIFICATE]."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import ssl
import sys
from typing import Any

from aiohttp import web

from websocket_handler import ConnectionClosed
from websocket_handler.servers.aiohttp import websocket

from .. import misuse

JOURNAL: list[list[object]] = []


async def echo(request: web.Request) -> web.StreamResponse:
    ws = websocket(request)
    if ws is None:
        return web.Response(status=426, text="We only speak WebSockets here\n")
    if request.path == "/forbidden":
        return web.Response(status=403, text="not you\n")
    ws.on("message", ws.send)
    ws.on("close", lambda code, reason: JOURNAL.append(["close", code, reason]))
    response: web.Response = ws.connect(max_message_size=1 << 24)
    ws.send("hello")
    if request.path == "/raise":
        raise RuntimeError("as the test wants it")
    if request.path == "/body":
        return web.Response(text="nobody sees this")
    return response


async def misused(request: web.Request) -> Any:
    kind = request.match_info["kind"]
    result = misuse.connect(websocket(request), kind)
    return {"forgets": None, "body": web.Response(text="nobody sees this")}.get(kind, result)


async def conversation(request: web.Request) -> web.StreamResponse:
    ws = websocket(request, max_message_size=1 << 24)
    assert ws is not None
    response: web.Response = ws.connect()
    ws.send("hello")
    try:
        async for message in ws:
            ws.send(message)
    except ConnectionClosed as closed:
        JOURNAL.append(["closed", closed.code])
    JOURNAL.append(["the end"])
    return response


async def plain(_: web.Request) -> web.StreamResponse:
    return web.Response(text='"plain\\n"')


async def journal(_: web.Request) -> web.StreamResponse:
    return web.Response(text=json.dumps(JOURNAL))


async def tasks(_: web.Request) -> web.StreamResponse:
    return web.Response(text=json.dumps(len(asyncio.all_tasks())))


def application() -> web.Application:
    app = web.Application()
    for path in ("/echo", "/forbidden", "/raise", "/body"):
        app.router.add_get(path, echo)
    app.router.add_get("/misuse/{kind}", misused)
    pages = {"/plain": plain, "/journal": journal, "/tasks": tasks, "/conversation": conversation}
    for path, page in pages.items():
        app.router.add_get(path, page)
    return app


def main() -> None:
    port, loop, *certificate = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    new_loop = importlib.import_module(loop).new_event_loop
    web.run_app(
        application(), host="127.0.0.1", port=int(port), ssl_context=context, loop=new_loop()
    )


if __name__ == "__main__":
    main()
