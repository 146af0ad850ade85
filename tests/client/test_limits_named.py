"""`ConnectionClosed` names the limit that was exceeded, and whose it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from websocket_handler import ConnectionClosed, aconnect, connect

from ..support.programs import wait_for
from .peers import EchoServer

TOO_BIG = "the WebSocket is closed: 1009 message is too big (our max_message_size=4 KiB)"


def closed_in_thread(url: str, message: str, **options: Any) -> list[ConnectionClosed]:
    """Return the errors of receiving, twice, and of sending, after a message that is too long."""
    errors: list[ConnectionClosed] = []
    websocket = connect(url, **options)
    websocket.send(message)
    for _ in range(2):
        with pytest.raises(ConnectionClosed) as caught:
            websocket.receive(timeout=20)
        errors.append(caught.value)
    with pytest.raises(ConnectionClosed) as caught:
        websocket.send("x")
    return [*errors, caught.value]


def closed_in_loop(url: str, message: str, **options: Any) -> list[ConnectionClosed]:
    async def main() -> list[ConnectionClosed]:
        errors: list[ConnectionClosed] = []
        websocket = await aconnect(url, **options)
        websocket.send(message)
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(websocket.areceive(), 20)
            errors.append(caught.value)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.send("x")
        return [*errors, caught.value]

    return asyncio.run(main())


@pytest.mark.parametrize("close", [closed_in_thread, closed_in_loop])
def test_our_limit_is_named_with_its_value(close: Any, server: EchoServer) -> None:
    for error in close(server.url(), "x" * 5000, max_message_size=4096):
        assert str(error) == TOO_BIG
        assert (error.code, error.limit) == (1009, "our max_message_size=4 KiB")
    for error in close(server.url(), "xxxxxx", max_message_size=5):
        assert error.limit == "our max_message_size=5 bytes"


@pytest.mark.parametrize("close", [closed_in_thread, closed_in_loop])
def test_limit_of_the_peer_is_told_apart(close: Any, server: EchoServer) -> None:
    """`websockets` accepts 1 MiB by default."""
    for error in close(server.url(), "x" * (1 << 21)):
        assert (error.code, error.limit) == (1009, "a limit of the peer")
        assert str(error).endswith("(a limit of the peer)")


def test_unread_messages_beyond_the_buffer_name_the_limit(server: EchoServer) -> None:
    async def main() -> ConnectionClosed:
        websocket = await aconnect(server.url(), max_buffered=1 << 20, max_message_size=1 << 26)
        websocket.pause()
        try:
            for _ in range(100):
                websocket.send(bytes(1 << 20))
        except ConnectionClosed as closed:
            return closed
        raise AssertionError("the messages fit into the buffer")

    error = asyncio.run(main())
    assert str(error) == "the WebSocket is closed: 1008 slow consumer (our max_buffered=1 MiB)"


def test_other_closes_name_no_limit(server: EchoServer) -> None:
    websocket = connect(server.url())
    websocket.close(4000, "message is too big")
    wait_for(lambda: websocket.close_code, "the close")
    with pytest.raises(ConnectionClosed) as caught:
        websocket.send("x")
    assert str(caught.value) == "the WebSocket is closed: 4000 message is too big"
    assert caught.value.limit == ""
