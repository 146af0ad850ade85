"""FastAPI, whose handlers run in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from starlette.middleware.sessions import SessionMiddleware

from websocket_handler import ASGIMiddleware

from .routes import REQUEST_ID, respond, respond_in_loop, wait_for_client

fastapi = FastAPI()
fastapi.add_middleware(SessionMiddleware, secret_key="for the tests")


def works_on(request: Request) -> Iterator[None]:
    """A dependency whose exit follows the response."""
    yield
    if request.url.path == "/works-on":
        wait_for_client()


@fastapi.get("/receives")
async def receive(request: Request) -> Response:
    return Response((await respond_in_loop(request, request.url.path)).body)


@fastapi.get("/{path:path}", dependencies=[Depends(works_on)])
def handle(request: Request) -> Response:
    path = request.url.path
    status, body = respond(request, path)
    if status == 401:
        raise HTTPException(401)
    if path == "/logs-in":
        request.session["user"] = "alice"
    return Response(body, status, {"X-Request-Id": REQUEST_ID})


@fastapi.middleware("http")
async def after(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    if request.url.path == "/hook-raises":
        raise RuntimeError("as the test wants it")
    return response


app = ASGIMiddleware(fastapi)
