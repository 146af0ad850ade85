"""The awaitables that `receive` and `send` of an ASGI application return."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections import UserDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from websocket_handler.testing import Client, ClientConnection

Event = dict[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Event]]
Send = Callable[[Any], Coroutine[Any, Any, None]]
Conversation = Callable[[Receive, Send], Awaitable[None]]


def text(message: str) -> Event:
    return {"type": "websocket.send", "text": message}


@contextlib.contextmanager
def converse(conversation: Conversation) -> Iterator[ClientConnection]:
    """Open a WebSocket for which the application runs `conversation`."""

    async def application(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        await conversation(receive, send)
        await send(text("end"))
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with Client(application) as client, client.connect("/") as websocket:
        yield websocket


def test_send_begins_when_it_is_awaited() -> None:
    async def conversation(_: Receive, send: Send) -> None:
        later = send(text("second"))
        await send(text("first"))
        await later

    with converse(conversation) as websocket:
        assert [websocket.receive() for _ in range(3)] == ["first", "second", "end"]


def test_receive_takes_a_message_when_it_is_awaited() -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        receive().close()
        later = receive()
        first = await receive()
        await send(text(first["text"] + (await later)["text"]))

    with converse(conversation) as websocket:
        websocket.send("a")
        websocket.send("b")
        assert websocket.receive() == "ab"


def test_call_that_has_ended_cannot_be_awaited_again() -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        for call in (receive(), send(text("once"))):
            await call
            with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
                await call

    with converse(conversation) as websocket:
        websocket.send("a")
        assert [websocket.receive() for _ in range(2)] == ["once", "end"]


def test_call_is_the_coroutine_of_a_task() -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        await asyncio.create_task(send(text("go")))
        message = await asyncio.create_task(receive())
        await send(text(message["text"]))

    with converse(conversation) as websocket:
        assert websocket.receive() == "go"
        websocket.send("a")
        assert websocket.receive() == "a"


def test_several_tasks_get_one_message_each() -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        calls = asyncio.gather(receive(), receive(), receive())
        await send(text("go"))
        await send(text("".join(message["text"] for message in await calls)))

    with converse(conversation) as websocket:
        assert websocket.receive() == "go"
        for message in "abc":
            websocket.send(message)
        assert sorted(str(websocket.receive())) == ["a", "b", "c"]


@pytest.mark.parametrize("others", [0, 2])
def test_cancelled_receive_loses_no_message(others: int) -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        cancelled = asyncio.create_task(receive())
        waiting = [asyncio.create_task(receive()) for _ in range(others)]
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await send(text("go"))
        found = [await task for task in waiting] or [await receive()]
        await send(text("".join(message["text"] for message in found)))

    with converse(conversation) as websocket:
        assert websocket.receive() == "go"
        for message in "ab"[: others or 1]:
            websocket.send(message)
        assert sorted(str(websocket.receive())) == sorted("ab"[: others or 1])


def test_receive_times_out() -> None:
    async def conversation(receive: Receive, send: Send) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(receive(), 0.01)
        await send(text("go"))
        await send(text((await receive())["text"]))

    with converse(conversation) as websocket:
        assert websocket.receive() == "go"
        websocket.send("a")
        assert websocket.receive() == "a"


def test_message_may_be_any_mapping() -> None:
    async def conversation(_: Receive, send: Send) -> None:
        await send(UserDict({"type": "websocket.send", "bytes": b"a"}))

    with converse(conversation) as websocket:
        assert websocket.receive() == b"a"


def test_calls_are_coroutine_functions() -> None:
    """asgiref warns of others."""
    is_coroutine_function = (
        inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
    )

    async def conversation(receive: Receive, send: Send) -> None:
        found = is_coroutine_function(receive), is_coroutine_function(send)
        await send(text(str(found)))

    with converse(conversation) as websocket:
        assert websocket.receive() == "(True, True)"
