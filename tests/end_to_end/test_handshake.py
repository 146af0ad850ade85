"""Handshakes on real connections: the response to a valid one, the rejection of an invalid one."""

from __future__ import annotations

import pytest

from ..support.programs import Journal, Program
from ..support.raw_client import RawClient, masked, request, text

HELLO = text("hello")


def test_handshake_response_is_complete(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/headers", {"Cookie": "name=value; other=2"}))
        assert client.expect_opened().headers["set-cookie"] == ["a=1", "b=2"]
        client.send(HELLO)
        client.expect(text('{"name": "value", "other": "2"}'))


def test_offered_subprotocol_is_selected(program: Program) -> None:
    with RawClient(program.address) as client:
        offer: dict[str, str | None] = {"Sec-WebSocket-Protocol": "chat, superchat"}
        client.sock.sendall(client.handshake("/subprotocol", offer))
        assert client.expect_opened().header("sec-websocket-protocol") == "superchat"
        client.send(HELLO)
        client.expect(text("superchat"))


def test_accepted_then_closed_handshake_is_visible_to_browsers(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/refuses?code=4001&reason=no").expect_closed(4001, "no")


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Host": None}, 400, "exactly one Host header"),
        ({"Host": ""}, 400, "exactly one Host header"),
        ({"Connection": "keep-alive"}, 400, "the Connection header must contain 'Upgrade'"),
        ({"Sec-WebSocket-Key": None}, 400, "exactly one Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": "short"}, 400, "Sec-WebSocket-Key must be 16 bytes in base64"),
        ({"Sec-WebSocket-Version": None}, 400, "the Sec-WebSocket-Version header is missing"),
        ({"Sec-WebSocket-Version": "14"}, 426, "unsupported WebSocket version '14'; supported: 13"),
        ({"Sec-WebSocket-Version": "8"}, 426, "unsupported WebSocket version '8'; supported: 13"),
        ({"Origin": "http://evil.example"}, 403, "the origin 'http://evil.example' is not allowed"),
        ({"Origin": "null"}, 403, "the origin 'null' is not allowed"),
        ({"Content-Length": "5"}, 400, "must not have a body"),
        ({"Transfer-Encoding": "chunked"}, 400, "must not have a body"),
        ({"Sec-WebSocket-Protocol": "a, a"}, 400, "must not offer a subprotocol twice"),
    ],
    ids=str,
)
def test_bad_handshake_gets_the_whole_rejection(
    program: Program, headers: dict[str, str | None], status: int, reason: str
) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        sent = client.handshake("/echo", headers) + masked(HELLO) + request("/ordinary")
        client.sock.sendall(sent)
        response = client.read_response()
        assert (response.status, response.header("connection")) == (status, "close")
        if status == 426:
            assert response.header("sec-websocket-version") == "13"
            assert response.header("upgrade") == "websocket"
        assert reason in client.read_body(response).decode()
        client.expect_end()
    log = program.wait_for_log(f"handshake refused with {status}", seen)
    assert reason in log
    assert f'"GET /echo HTTP/1.1" {status}' in log


@pytest.mark.parametrize(
    "fields", [{"Origin": "http://evil.example"}, {"Sec-WebSocket-Version": "9"}], ids=str
)
def test_rejected_client_receives_no_messages_of_the_handler(
    program: Program, journal: Journal, fields: dict[str, str | None]
) -> None:
    seen = len(program.log())
    for route in ("greet", "sends-all"):
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake(f"/{route}?id={journal.name}", fields))
            client.read_body(client.read_response())
            client.expect_end()
    assert journal.wait_for("close")[-1][:2] == ["close", 1006]
    assert "Traceback" not in program.log()[seen:]


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://127.0.0.1:443"])
def test_same_host_page_may_connect(program: Program, origin: str) -> None:
    host = "127.0.0.1:443" if origin.startswith("https") else "127.0.0.1:80"
    with RawClient(program.address) as client:
        client.open(headers={"Origin": origin, "Host": host}).echo(HELLO)


def test_http_1_0_handshake_is_rejected(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0"))
        response = client.read_response()
        assert (response.status, response.header("connection")) == (400, "close")
        assert b"the request must be HTTP/1.1" in client.read_body(response)
        client.expect_end()
