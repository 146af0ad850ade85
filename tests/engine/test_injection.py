"""No value set by an application can inject a header line or a frame."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from websocket_handler import Engine, Headers, Request, WebSocket
from websocket_handler.protocol.client import Address, ClientHandshake
from websocket_handler.protocol.versions import ALL_VERSIONS, DEFAULT_VERSIONS, Version

from ..support.connections import HANDSHAKE, connect, make_websocket

BAD = ["\r", "\n", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x7f", "\u0100", "\u2028", "\ud800"]


def header_value(websocket: WebSocket, bad: str) -> None:
    websocket.response_headers["X"] = f"a{bad}b"


def added_value(websocket: WebSocket, bad: str) -> None:
    websocket.response_headers.add("Set-Cookie", f"a={bad}")


def header_name(websocket: WebSocket, bad: str) -> None:
    websocket.response_headers[f"X{bad}Y"] = "a"


def subprotocol(websocket: WebSocket, bad: str) -> None:
    websocket.connect(f"a{bad}b")


def handshake_header(websocket: WebSocket, bad: str) -> None:
    websocket.response_headers["Sec-WebSocket-Accept"] = bad
    websocket.connect()


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize(
    "set_it", [header_value, added_value, header_name, subprotocol, handshake_header]
)
def test_server_values_cannot_inject_header_lines(
    engine: Engine, set_it: Callable[[WebSocket, str], None], bad: str
) -> None:
    websocket = make_websocket(engine)
    with pytest.raises(ValueError, match=r".+"):
        set_it(websocket, bad)
    assert websocket._outcome is None
    assert websocket.buffered_amount == 0  # not a byte
    connect_anew = make_websocket(engine)
    connect_anew.response_headers["X"] = "fine"
    connect(connect_anew).sock.close()


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536, 1 << 40])
def test_invalid_close_code_is_an_error(engine: Engine, code: int) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    with pytest.raises(ValueError, match=r".+"):
        websocket.close(code)
    peer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)


@pytest.mark.parametrize("reason", ["x" * 124, "\u20ac" * 42, "\ud800"])
def test_too_long_close_reason_is_an_error(engine: Engine, reason: str) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    with pytest.raises(ValueError, match=r".+"):
        websocket.close(1000, reason)
    peer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)


WRONG: list[Any] = [5, 2**64, None, 1.5, object, {"a": 1}, [1], (2**70,), [None], {1}]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["send", "ping", "send_text_message", "send_binary_message"])
def test_argument_of_a_wrong_type_is_an_error(engine: Engine, name: str, wrong: Any) -> None:
    """Once, libraries sent uninitialised memory if given a number. A wrong argument within a
    fragmented message ends the connection, and sends no part of the argument."""
    websocket = make_websocket(engine)
    peer = connect(websocket)
    with pytest.raises(TypeError):
        getattr(websocket, name)(wrong)
    peer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        peer.sock.recv(1)


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_client_values_cannot_inject_header_lines(version: Version, bad: str) -> None:
    address = Address.parse("ws://localhost/")
    for others in (
        {"headers": [("X", f"a{bad}b")]},
        {"headers": [(f"X{bad}", "a")]},
        {"origin": f"http://a{bad}"},
        {"subprotocols": [f"a{bad}b"]},
    ):
        with pytest.raises(ValueError, match=r".+"):
            ClientHandshake(address, version, **others)
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(f"ws://localhost/{bad}")


@pytest.mark.parametrize("bad", ["\r\n", "\n", "\0", "\x0b", "\u2028"], ids=ascii)
@pytest.mark.parametrize("name", [*HANDSHAKE, "Origin", "Sec-WebSocket-Protocol", "Cookie"])
def test_request_values_cannot_inject_response_lines(engine: Engine, name: str, bad: str) -> None:
    """If a server lets such a header through, it does not appear in the response."""
    fields = {**HANDSHAKE, name: f"{HANDSHAKE.get(name, 'a')}{bad}X-Injected: 1"}
    websocket = WebSocket(Request("GET", "/", Headers(fields.items())), engine=engine)
    websocket.connect()
    assert websocket._outcome is not None
    assert int(websocket._outcome.status) in (400, 403)
    ours, theirs = socket.socketpair()
    websocket._take_over(ours)
    theirs.settimeout(10)
    answer = b""
    while part := theirs.recv(4096):
        answer += part
        theirs.shutdown(socket.SHUT_WR) if b"\r\n\r\n" in answer else None
    theirs.close()
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"X-Injected" not in head
    assert DEFAULT_VERSIONS[0].name.encode() not in head
