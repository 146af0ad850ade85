"""ASGI applications: websocket routes without this library, lifespan, and ordinary requests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from websocket_handler import ASGIMiddleware, ConnectionClosed
from websocket_handler.testing import Client, ClientFactory, HandshakeFailed

from ..support.programs import TIMEOUT_S
from .applications import with_django

journal: list[str] = []
of_the_test: ContextVar[str] = ContextVar("of_the_test", default="")


async def echo(websocket: WebSocket) -> None:
    if "token" not in websocket.query_params:
        await websocket.close()
        return
    await websocket.accept("v2" if "v2" in websocket.scope["subprotocols"] else None)
    await websocket.send_json([websocket.state.resource, of_the_test.get()])
    async for message in websocket.iter_text():
        if message == "fail":
            raise LookupError("the route failed")
        if message == "leave":
            await websocket.close(4001, "bye")
            return
        await websocket.send_text(message)
    journal.append("disconnected")


async def deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"error": "not you"}, status_code=401))


async def reply(request: Request) -> JSONResponse:
    body = await request.json()
    task = BackgroundTask(journal.append, "after the response")
    return JSONResponse({"got": body, "query": dict(request.query_params)}, 201, background=task)


async def stream(_: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{number} "

    return StreamingResponse(parts())


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    journal.append("startup")
    yield {"resource": "open"}
    journal.append("shutdown")


app = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/deny", deny),
        Route("/reply", reply, methods=["POST"]),
        Route("/stream", stream),
    ],
    lifespan=lifespan,
)


@pytest.fixture(autouse=True)
def _new_journal() -> None:
    journal.clear()


@pytest.fixture
def client(websocket_client: ClientFactory) -> Client:
    return websocket_client(app, timeout=TIMEOUT_S)


def test_websocket_route_without_this_library_is_served(client: Client) -> None:
    of_the_test.set("set in the test")
    with client.connect("/echo?token=1", subprotocols=["v1", "v2"]) as ws:
        assert ws.subprotocol == "v2"
        assert ws.receive() == '["open","set in the test"]'
        ws.send("x" * 70_000)
        assert ws.receive() == "x" * 70_000
    assert journal == ["startup", "disconnected"]


def test_websocket_route_closes_with_its_code(client: Client) -> None:
    with client.connect("/echo?token=1") as ws:
        ws.receive()
        ws.send("leave")
        with pytest.raises(ConnectionClosed):
            ws.receive()
        assert (ws.close_code, ws.close_reason) == (4001, "bye")


def test_websocket_route_that_raises_is_visible(client: Client) -> None:
    ws = client.connect("/echo?token=1")
    ws.receive()
    ws.send("fail")
    with pytest.raises(LookupError, match="the route failed"):
        ws.receive()
    ws.close()
    assert ws.close_code == 1011


def test_refusals_of_a_websocket_route(client: Client) -> None:
    with pytest.raises(HandshakeFailed) as refused:
        client.connect("/echo")
    assert refused.value.status == 403
    with pytest.raises(HandshakeFailed) as denied:
        client.connect("/deny")
    assert (denied.value.status, denied.value.body) == (401, b'{"error":"not you"}')
    assert ("content-type", "application/json") in denied.value.headers


def test_requests(client: Client) -> None:
    response = client.post("/reply?a=1", json={"x": [1, 2]})
    assert response.status == 201
    assert response.json() == {"got": {"x": [1, 2]}, "query": {"a": "1"}}
    assert journal == ["startup", "after the response"]
    assert client.get("/stream").text == "0 1 2 "
    assert client.get("/nothing").status == 404
    assert client.request("HEAD", "/stream").body == b""


def test_lifespan_is_run_by_the_with() -> None:
    with Client(app):
        assert journal == ["startup"]
    assert journal == ["startup", "shutdown"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_lifespan_that_fails_raises_in_the_test(phase: str) -> None:
    @contextlib.asynccontextmanager
    async def fails(_: Starlette) -> AsyncIterator[None]:
        if phase == "startup":
            raise LookupError(phase)
        yield
        raise LookupError(phase)

    client = Client(Starlette(lifespan=fails), timeout=TIMEOUT_S)
    with contextlib.ExitStack() as stack:
        if phase == "shutdown":
            stack.enter_context(client)
        with pytest.raises(LookupError, match=phase):
            stack.close() if phase == "shutdown" else client.__enter__()


def test_settings_of_the_server_apply() -> None:
    with Client(app, timeout=TIMEOUT_S, max_message_size=10) as client:
        with client.connect("/echo?token=1") as ws:
            ws.receive()
            ws.send("x" * 11)
            ws.wait_closed()
        assert ws.close_code == 1009


def test_startup_that_hangs_is_an_error_and_is_cancelled() -> None:
    was_cancelled = threading.Event()

    @contextlib.asynccontextmanager
    async def hangs(_: Starlette) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()
        yield

    with pytest.raises(TimeoutError, match="has not started"):
        Client(Starlette(lifespan=hangs), timeout=0.2).__enter__()
    assert was_cancelled.wait(TIMEOUT_S)


def test_django_application_raises_in_the_test() -> None:
    with_django.make_app()  # sets Django up
    with Client(ASGIMiddleware(get_asgi_application()), timeout=TIMEOUT_S) as client:
        with client.connect("/echo") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"
        with pytest.raises(LookupError, match="the handler failed"):
            client.connect("/fails")


def test_handler_that_runs_for_ever_is_cancelled_at_the_end() -> None:
    async def run_on(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await asyncio.Event().wait()

    client = Client(run_on, timeout=0.3)
    client.__enter__()
    client.connect("/")
    with pytest.raises(TimeoutError, match="/: the handler runs on"):
        client.__exit__(None, None, None)


def test_advance_beside_a_blocked_event_loop_is_given_up() -> None:
    released = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        released.wait(TIMEOUT_S)
        await send({"type": "websocket.send", "text": "released"})
        await receive()

    with Client(app, timeout=TIMEOUT_S) as client, client.connect("/") as ws:
        ws.send("block")
        client._session.timeout = 0.05
        with pytest.raises(TimeoutError, match="a listener blocks the engine"):
            client.advance(60)
        client._session.timeout = TIMEOUT_S
        ws.stop_reading()  # a ping would not be answered
        released.set()
        for _ in range(10):
            client.advance(0)
        ws.resume_reading()
        assert ws.receive() == "released"
        ws.ping()
