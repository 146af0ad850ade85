"""Starlette: `app`, and the same behind the middleware that servers have for proxies."""

from __future__ import annotations

from typing import Any

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from hypercorn.middleware import ProxyFixMiddleware
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from websocket_handler import ASGIMiddleware

from .routes import REQUEST_ID, respond_in_loop, wait_for_client_in_loop


async def handle(request: Request) -> Response:
    path = request.url.path
    status, body = await respond_in_loop(request, path)
    if status == 401:
        raise HTTPException(401)
    if path == "/logs-in":
        request.session["user"] = "alice"
    work = BackgroundTask(wait_for_client_in_loop) if path == "/works-on" else None
    return Response(body, status, {"X-Request-Id": REQUEST_ID}, background=work)


async def after(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    if request.url.path == "/hook-raises":
        raise RuntimeError("as the test wants it")
    return response


starlette = Starlette(
    routes=[Route("/{path:path}", handle)],
    middleware=[
        Middleware(BaseHTTPMiddleware, dispatch=after),
        Middleware(SessionMiddleware, secret_key="for the tests"),
    ],
)
app = ASGIMiddleware(starlette)
behind_hypercorn: Any = ProxyFixMiddleware(app)  # type: ignore[arg-type]
behind_uvicorn: Any = ProxyHeadersMiddleware(app, trusted_hosts="127.0.0.1")  # type: ignore[arg-type]
behind_granian: Any = wrap_asgi_with_proxy_headers(app, trusted_hosts="127.0.0.1")
