"""Input that is discarded has a deadline, which the peer's bytes do not extend."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from websocket_handler import IS_NATIVE, Engine
from websocket_handler.protocol.assembly import Close
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import connect, make_websocket
from ..support.programs import wait_for

TIMEOUT_S = 0.3
LIMIT_S = 20
ENGINE = "websocket_handler.engine." + ("engine" if IS_NATIVE else "pure")


def send_until_closed(sock: socket.socket) -> None:
    """Send a byte now and then, until the other end is closed."""
    end = time.monotonic() + LIMIT_S
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < end:
            sock.sendall(b"x")
            time.sleep(TIMEOUT_S / 10)
        pytest.fail("the bytes keep the connection open")


def test_socket_whose_input_is_discarded_is_closed_at_the_deadline(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{ENGINE}.DISCARD_TIMEOUT_S", TIMEOUT_S)
    ours, theirs = socket.socketpair()
    with theirs:
        engine._discard(ours)
        send_until_closed(theirs)


def test_socket_whose_input_is_discarded_has_no_deadline_before_the_first_bytes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{ENGINE}.DISCARD_TIMEOUT_S", 0.0)
    ours, theirs = socket.socketpair()
    with theirs:
        engine._discard(ours)
        theirs.settimeout(0.2)
        with pytest.raises(TimeoutError):
            theirs.recv(1)
        theirs.sendall(b"x")
        theirs.settimeout(LIMIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert theirs.recv(1) == b""


@pytest.mark.parametrize("has_answered", [True, False])
def test_closed_connection_whose_peer_goes_on_sending_is_dropped(
    engine: Engine, has_answered: bool
) -> None:
    websocket = make_websocket(engine, close_timeout=TIMEOUT_S)
    peer = connect(websocket)
    websocket.close(1000)
    assert isinstance(peer.read(), Close)
    if has_answered:
        peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xe8", key=bytes(4)))
        wait_for(lambda: websocket.close_code == 1000, "the peer's close frame")
    else:  # an incomplete message, byte by byte
        peer.sock.sendall(b"\x82\xff" + (1 << 19).to_bytes(8, "big"))
    send_until_closed(peer.sock)
    assert engine.stats().open == 0
