"""The client for coroutines: its own methods, in the event loop of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from websocket_handler import ASGIMiddleware, WebSocket
from websocket_handler.testing import AsyncClient, ConnectionClosed, HandshakeFailed

from ..support.programs import TIMEOUT_S
from .applications import chat

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(app: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(app, timeout=TIMEOUT_S) as client:
        yield client


async def test_login_then_connect(client: AsyncClient) -> None:
    with pytest.raises(HandshakeFailed) as refused:
        await client.connect("/greeting")
    assert refused.value.status == 403
    assert (await client.post("/login", data={"user": "alice"})).status == 200
    async with client.connect("/greeting") as ws:
        assert await ws.receive() == "hello alice"
    assert (await client.get("/echo")).text == "plain"


async def test_messages_between_two_connections(client: AsyncClient) -> None:
    async with client.connect("/room") as alice, client.connect("/room") as bob:
        await alice.send("hello")
        assert [await ws.receive() for ws in (alice, bob)] == ["hello", "hello"]
        await bob.ping(b"ping")


async def test_silent_peer_is_closed_after_the_ping_timeout(client: AsyncClient) -> None:
    ws = await client.connect("/echo")
    ws.stop_reading()
    await client.advance(41)
    ws.resume_reading()
    await ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1011, "keepalive ping timeout")


async def test_close_codes_arrive_on_both_sides(client: AsyncClient) -> None:
    async with client.connect("/echo") as ws:
        await ws.send("leave")
        with pytest.raises(ConnectionClosed):
            await ws.receive()
    assert ws.close_code == 4001
    async with client.connect("/echo") as ws:
        await ws.close(4002, "bye")
    async with client.connect("/echo") as ws:
        await ws.send_raw(b"\xff\xff")
        await ws.wait_closed()
    assert [code for code, _ in chat.closed] == [4001, 4002, 1002]


async def test_exceptions_of_the_application_are_raised_in_the_test(client: AsyncClient) -> None:
    ws = await client.connect("/echo")
    await ws.send("fail")
    with pytest.raises(LookupError, match="the listener failed"):
        await ws.receive()
    with pytest.raises(LookupError, match="the handler failed"):
        await client.connect("/fails")


async def test_wait_without_a_message_ends_in_time(client: AsyncClient) -> None:
    async with client.connect("/echo") as ws:
        with pytest.raises(TimeoutError, match=r"/echo: waited 0.05 s for a message"):
            await ws.receive(timeout=0.05)


async def test_application_runs_in_the_loop_of_the_test() -> None:
    loops = []

    async def app(scope: Any, _: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        ws = WebSocket.of(scope)
        assert ws is not None
        ws.on("message", listen)
        ws.connect()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def listen(_: str) -> None:
        loops.append(asyncio.get_running_loop())

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await ASGIMiddleware(app)(scope, receive, send)

    async with AsyncClient(without_lifespan, timeout=TIMEOUT_S) as client:
        async with client.connect("/") as ws:
            await ws.send("x")
            await ws.ping()
        assert set(loops) == {asyncio.get_running_loop()}
        assert len(loops) == 2
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in tasks if "websocket_handler" in repr(task)]
