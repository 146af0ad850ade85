"""`with connect(…)` and `async with aconnect(…)`: the close code at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from websocket_handler import Engine, WebSocket
from websocket_handler.protocol.assembly import Close

from ..support.connections import Peer, connect, make_websocket
from .traffic import frame


def answer_close(peer: Peer) -> Close:
    """Read the close frame and answer it."""
    event = peer.read()
    assert isinstance(event, Close)
    peer.sock.sendall(frame(8, event.code.to_bytes(2, "big")))
    return event


def leave(websocket: WebSocket, error: Exception | None) -> None:
    with websocket:
        if error is not None:
            raise error


def leave_in_loop(websocket: WebSocket, error: Exception | None) -> None:
    async def leave() -> None:
        async with websocket:
            if error is not None:
                raise error

    asyncio.run(leave())


@pytest.mark.parametrize("run", [leave, leave_in_loop])
@pytest.mark.parametrize(("error", "code"), [(None, 1000), (KeyError("user"), 1011)])
def test_context_manager_closes_with_code_of_its_end(
    engine: Engine,
    run: Callable[[WebSocket, Exception | None], None],
    error: Exception | None,
    code: int,
) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    received: list[Close] = []
    answering = threading.Thread(target=lambda: received.append(answer_close(peer)))
    answering.start()
    if error is None:
        run(websocket, None)
    else:
        with pytest.raises(KeyError):
            run(websocket, error)
    answering.join(10)
    assert [close.code for close in received] == [code]
    assert (websocket.close_code, websocket.close_reason) == (code, "")


def test_close_code_is_none_until_the_connection_is_closed(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    before = websocket.close_code, websocket.close_reason
    peer.sock.sendall(frame(8, b"\x0f\xa1because"))
    is_closed = websocket.wait_closed(10)
    assert is_closed
    assert before == (None, None)
    assert (websocket.close_code, websocket.close_reason) == (4001, "because")
