"""WebSocket routes of Starlette, FastAPI and Channels, one per behaviour.

`/journal?NAME` returns the notes of the route NAME. Routes below /channels are consumers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

import django
from django.conf import settings

settings.configure(SECRET_KEY="not one")
django.setup()

from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path as url  # noqa: E402
from fastapi import (  # noqa: E402
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from starlette.endpoints import WebSocketEndpoint  # noqa: E402
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse  # noqa: E402

JOURNALS: dict[str, list[Any]] = {}
Route = Callable[[WebSocket], Awaitable[None]]

app = FastAPI()


def note(name: str, *entry: object) -> None:
    JOURNALS.setdefault(name, []).append(list(entry))


def route(function: Route) -> Route:
    """A route that records how it ends."""
    name = function.__name__

    async def noted(websocket: WebSocket) -> None:
        try:
            await function(websocket)
        except BaseException as error:
            note(name, type(error).__name__, *_facts(error))
            raise
        else:
            note(name, "returned")
        finally:
            note(name, "end")

    app.router.add_websocket_route(f"/{name}", noted)
    return function


def _facts(error: BaseException) -> list[object]:
    return [error.code, error.reason] if isinstance(error, WebSocketDisconnect) else []


# Starlette


@route
async def about(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(
        {
            "path": websocket.url.path,
            "scheme": websocket.url.scheme,
            "query": dict(websocket.query_params),
            "cookies": websocket.cookies,
            "subprotocols": websocket.scope["subprotocols"],
            "header": websocket.headers.get("x-test"),
            "has client": websocket.client is not None,
            "spec": websocket.scope["asgi"],
            "http": websocket.scope["http_version"],
            "root": websocket.scope["root_path"],
            "raw": websocket.scope["raw_path"].decode(),
            "extensions": list(websocket.scope["extensions"]),
        }
    )
    await websocket.close()


@route
async def texts(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(message)


@route
async def binaries(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_bytes():
        await websocket.send_bytes(message)


@route
async def objects(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_json():
        await websocket.send_json(message)
        await websocket.send_json(message, mode="binary")


@route
async def wrong_kind(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_bytes()


@route
async def two_tasks(websocket: WebSocket) -> None:
    await websocket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        async for message in websocket.iter_text():
            await queue.put(message)
        await queue.put("")

    async def write() -> None:
        while message := await queue.get():
            await websocket.send_text(message)

    await asyncio.gather(read(), write())


@route
async def waits_for_the_end(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.receive_text()


@route
async def sends_for_ever(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text("more")
        await asyncio.sleep(0.01)


@route
async def closes(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4321, "that is all")


@route
async def closes_twice(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()
    await websocket.close()


@route
async def sends_after_close(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()
    await websocket.send_text("more")


@route
async def receives_after_the_end(websocket: WebSocket) -> None:
    await websocket.accept()
    while (await websocket.receive())["type"] == "websocket.receive":
        pass
    await websocket.receive()


@route
async def receives_before_accept(websocket: WebSocket) -> None:
    await websocket.receive_text()


@route
async def sends_before_accept(websocket: WebSocket) -> None:
    await websocket.send_text("too early")


@route
async def rejects(websocket: WebSocket) -> None:
    await websocket.close(4001)


@route
async def rejects_after_receiving(websocket: WebSocket) -> None:
    assert (await websocket.receive())["type"] == "websocket.connect"
    await websocket.close(4001, "no")


@route
async def responds(websocket: WebSocket) -> None:
    await websocket.send_denial_response(
        JSONResponse({"why": "not you"}, 401, headers={"x-a": "1"})
    )


@route
async def responds_with_a_stream(websocket: WebSocket) -> None:
    pieces = (piece async for piece in _pieces())
    await websocket.send_denial_response(StreamingResponse(pieces, 404, media_type="text/x-pieces"))


async def _pieces() -> Any:
    for piece in (b"one ", b"two ", b"three"):
        yield piece


@route
async def responds_with_cookies(websocket: WebSocket) -> None:
    response = PlainTextResponse("who?", 403)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    await websocket.send_denial_response(response)


@route
async def raises(_: WebSocket) -> None:
    raise ValueError("as the test wants it")


@route
async def raises_after_accept(websocket: WebSocket) -> None:
    await websocket.accept()
    raise WebSocketException(4003, "not you")


@route
async def raises_before_accept(_: WebSocket) -> None:
    raise WebSocketException(4003, "not you")


@route
async def http_exception(_: WebSocket) -> None:
    raise HTTPException(418, "a teapot", headers={"x-a": "1"})


@route
async def subprotocol(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="b")
    await websocket.close()


@route
async def accept_headers(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
    await websocket.close()


@route
async def neither(_: WebSocket) -> None:
    """Neither accepts nor rejects."""


class BusWorker(WebSocketEndpoint):
    encoding = "json"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_json(data)

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        note(websocket.url.path.strip("/"), "disconnect", close_code)
        note(websocket.url.path.strip("/"), "end")


app.router.add_websocket_route("/endpoint", cast(Any, BusWorker))


# FastAPI


async def needs_token(token: str | None = None, session: Annotated[str | None, Cookie()] = None):  # type: ignore[no-untyped-def]
    if token is None and session is None:
        raise WebSocketException(1008, "no token")
    return session or token


async def reject_with_418() -> None:
    raise HTTPException(418, "a teapot")


@app.websocket("/depends")
async def depends(websocket: WebSocket, token: Annotated[str, Depends(needs_token)]) -> None:
    await websocket.accept()
    await websocket.send_text(token)
    await websocket.close()


@app.websocket("/depends_http", dependencies=[Depends(reject_with_418)])
async def depends_http(websocket: WebSocket) -> None:
    await websocket.accept()


@app.websocket("/items/{number}")
async def item(
    websocket: WebSocket,
    number: int,
    size: Annotated[int, Query(gt=0)] = 1,
    x_test: Annotated[str | None, Header()] = None,
) -> None:
    await websocket.accept()
    await websocket.send_json([number, size, x_test])
    await websocket.close()


@app.get("/journal")
async def journal(websocket_route: str) -> Any:
    return JOURNALS.get(websocket_route, [])


# Channels


def consumer(base: Any, **methods: Any) -> Any:
    made: Any = type("Consumer", (base,), methods)
    return made.as_asgi()


def name_of(self: Any) -> str:
    return str(self.scope["path"]).strip("/")


def on_disconnect(self: Any, code: int) -> None:
    note(name_of(self), "disconnect", code)
    note(name_of(self), "end")


async def on_disconnect_async(self: Any, code: int) -> None:
    on_disconnect(self, code)


async def echo(self: Any, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
    await self.send(text_data=text_data, bytes_data=bytes_data)


def echo_in_thread(
    self: Any, text_data: str | None = None, bytes_data: bytes | None = None
) -> None:
    self.send(text_data=text_data, bytes_data=bytes_data)


async def echo_json(self: Any, content: Any) -> None:
    await self.send_json(content)


def echo_json_in_thread(self: Any, content: Any) -> None:
    self.send_json(content)


async def accept_b(self: Any) -> None:
    await self.accept("b", headers=[(b"set-cookie", b"a=1")])


async def reject(self: Any) -> None:
    await self.close(4001, "no")


async def deny(_: Any) -> None:
    raise DenyConnection


async def accept_by_exception(_: Any) -> None:
    raise AcceptConnection


async def close_with_code(self: Any, **_: Any) -> None:
    await self.close(4002, "enough")


async def stop(_: Any, **__: Any) -> None:
    raise StopConsumer


async def fail(_: Any, **__: Any) -> None:
    raise ValueError("as the test wants it")


CONSUMERS = {
    "async": consumer(AsyncWebsocketConsumer, receive=echo, disconnect=on_disconnect_async),
    "sync": consumer(WebsocketConsumer, receive=echo_in_thread, disconnect=on_disconnect),
    "async_json": consumer(
        AsyncJsonWebsocketConsumer, receive_json=echo_json, disconnect=on_disconnect_async
    ),
    "sync_json": consumer(
        JsonWebsocketConsumer, receive_json=echo_json_in_thread, disconnect=on_disconnect
    ),
    "subprotocol": consumer(AsyncWebsocketConsumer, connect=accept_b),
    "rejects": consumer(AsyncWebsocketConsumer, connect=reject),
    "denies": consumer(AsyncWebsocketConsumer, connect=deny),
    "accepts": consumer(AsyncWebsocketConsumer, connect=accept_by_exception, receive=echo),
    "closes": consumer(
        AsyncWebsocketConsumer, receive=close_with_code, disconnect=on_disconnect_async
    ),
    "stops": consumer(AsyncWebsocketConsumer, receive=stop),
    "fails": consumer(AsyncWebsocketConsumer, receive=fail),
}
channels = URLRouter([url(f"channels/{name}", made) for name, made in CONSUMERS.items()])


async def websockets(scope: Any, receive: Any, send: Any) -> None:
    chosen: Any = channels if scope["path"].startswith("/channels/") else app
    await chosen(scope, receive, send)


application = ProtocolTypeRouter({"http": app, "websocket": websockets, "lifespan": app})
