"""aiohttp, on the port that is its argument."""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web

from .routes import REQUEST_ID, respond_in_loop, wait_for_client_in_loop


async def handle(request: web.Request) -> web.StreamResponse:
    status, body = await respond_in_loop(request, request.path)
    if status == 401:
        raise web.HTTPUnauthorized
    response = web.Response(text=body, status=status, headers={"X-Request-Id": REQUEST_ID})
    if request.path == "/logs-in":
        response.set_cookie("session", "alice")
    if request.path == "/works-on":
        await response.prepare(request)
        await response.write_eof()
        await wait_for_client_in_loop()
    return response


@web.middleware
async def believe_proxy(request: web.Request, handler: Any) -> web.StreamResponse:
    fields = request.headers
    if "X-Forwarded-For" in fields:
        scheme = fields["X-Forwarded-Proto"]
        request = request.clone(remote=fields["X-Forwarded-For"], scheme=scheme)
    response: web.StreamResponse = await handler(request)
    return response


@web.middleware
async def after(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    if request.path == "/hook-raises":
        raise RuntimeError("as the test wants it")
    return response


if __name__ == "__main__":
    app = web.Application(middlewares=[after, believe_proxy])
    app.router.add_get("/{path:.*}", handle)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
