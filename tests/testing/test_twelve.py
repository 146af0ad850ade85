"""Twelve tests as a user of the test client writes them, the same for every framework."""

from __future__ import annotations

import pytest

from websocket_handler.testing import Client, HandshakeFailed

from .applications import chat


def test_echo_of_text_and_binary(client: Client) -> None:
    with client.connect("/echo") as ws:
        for message in ("text", b"binary", "x" * 100_000):
            ws.send(message)
            assert ws.receive() == message
    assert (ws.close_code, chat.closed) == (1000, [(1000, "")])


def test_user_is_greeted_after_login(client: Client) -> None:
    assert client.post("/login", data={"user": "alice"}).text.strip('"') == "welcome"
    with client.connect("/greeting") as ws:
        assert ws.receive() == "hello alice"


def test_stranger_is_refused_with_403(client: Client) -> None:
    with pytest.raises(HandshakeFailed) as refused:
        client.connect("/greeting")
    assert (refused.value.status, refused.value.body) == (403, b"log in first")


def test_plain_request_gets_a_plain_response(client: Client) -> None:
    response = client.get("/echo")
    assert (response.status, response.text) == (200, "plain")


def test_peer_that_stops_reading_is_closed_as_slow_consumer(client: Client) -> None:
    with client.connect("/feed") as ws:
        ws.stop_reading()
        ws.send("go")
        client.advance(1)
        ws.resume_reading()
        ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1008, "slow consumer")


def test_silent_peer_is_closed_after_the_ping_timeout(client: Client) -> None:
    with client.connect("/echo") as ws:
        ws.stop_reading()
        client.advance(39)
        assert chat.closed == []
        client.advance(2)
        ws.resume_reading()
        ws.wait_closed()
    assert (ws.close_code, ws.close_reason) == (1011, "keepalive ping timeout")


def test_idle_peer_stays_connected(client: Client) -> None:
    with client.connect("/echo") as ws:
        client.advance(300)
        ws.ping(b"still there")
        ws.send("hello")
        assert ws.receive() == "hello"


def test_garbage_is_closed_with_1002(client: Client) -> None:
    with client.connect("/echo") as ws:
        ws.send_raw(b"\xff\xff\xff\xff")
        ws.wait_closed()
    assert ws.close_code == 1002


def test_subprotocol_is_selected(client: Client) -> None:
    with client.connect("/echo", subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"


def test_close_codes_arrive_on_both_sides(client: Client) -> None:
    with client.connect("/echo") as ws:
        ws.send("leave")
        ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4001, "you asked for it")
    with client.connect("/echo") as ws:
        ws.close(4002, "bye")
    assert chat.closed == [(4001, "you asked for it"), (4002, "bye")]


def test_message_reaches_everybody_in_the_room(client: Client) -> None:
    with client.connect("/room") as alice, client.connect("/room") as bob:
        alice.send("hello")
        assert alice.receive() == bob.receive() == "hello"


def test_exceptions_of_the_application_are_raised_in_the_test(client: Client) -> None:
    ws = client.connect("/echo")
    ws.send("fail")
    with pytest.raises(LookupError, match="the listener failed"):
        ws.receive()
    with pytest.raises(LookupError, match="the handler failed"):
        client.connect("/fails")
