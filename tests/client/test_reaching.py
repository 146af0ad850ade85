"""Connecting to hosts with several addresses, and to hosts that do not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocket_handler import ConnectionFailed, HandshakeFailed
from websocket_handler.client import opening
from websocket_handler.client.happy_eyeballs import MAX_ADDRESSES

from .forms import Form, NothingLeft
from .peers import EchoServer, RawServer

Resolve = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The addresses of names; others are resolved by the system."""
    known: dict[str, list[str]] = {}
    original: Resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> list[tuple[Any, ...]]:
        if options.get("flags") or host not in known:
            return original(host, port, *rest, **options)
        return [info for one in known[host] for info in original(one, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: its queue of connections is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.2", port))
            waiting.append(sock)
        yield "127.0.0.2", port
        for sock in waiting:
            sock.close()


def test_second_family_is_used_if_the_first_refuses(
    echo: Form, server: EchoServer, names: dict[str, list[str]]
) -> None:
    names["dual.example"] = ["::1", "127.0.0.1"]
    with NothingLeft():
        assert echo(server.url(host="dual.example")) == "hello"


def test_second_family_is_used_while_the_first_is_silent(
    echo: Form, silent_address: tuple[str, int], names: dict[str, list[str]]
) -> None:
    silent, port = silent_address
    server = EchoServer(port=port)
    try:
        names["dual.example"] = [silent, "127.0.0.1"]
        with NothingLeft():
            assert echo(server.url(host="dual.example"), open_timeout=20) == "hello"
    finally:
        server.close()


def test_ipv6_server_is_reached(echo: Form) -> None:
    server = EchoServer(host="::1")
    try:
        assert echo(server.url(host="[::1]")) == "hello"
        assert server.header("Host") == f"[::1]:{server.port}"
    finally:
        server.close()


def test_all_addresses_that_refuse_are_named_once(echo: Form, names: dict[str, list[str]]) -> None:
    names["dual.example"] = ["::1", "127.0.0.1", "127.0.0.3"]
    with NothingLeft(), pytest.raises(ConnectionFailed) as caught:
        echo("ws://dual.example:1/")
    assert str(caught.value) == "cannot connect to dual.example:1: Connection refused"
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_only_some_addresses_of_a_long_list_are_tried(
    echo: Form, server: EchoServer, names: dict[str, list[str]]
) -> None:
    dead = [f"127.0.1.{number}" for number in range(1, 200)]
    names["many.example"] = [*dead[: MAX_ADDRESSES - 1], "127.0.0.1"]
    assert echo(server.url(host="many.example")) == "hello"
    names["many.example"] = [*dead, "127.0.0.1"]
    with pytest.raises(ConnectionFailed, match="refused"):
        echo(server.url(host="many.example"))


def test_unknown_name_is_an_error(echo: Form, names: dict[str, list[str]]) -> None:
    with NothingLeft(), pytest.raises(ConnectionFailed, match="cannot resolve the name no"):
        echo("ws://no.invalid/")
    names["empty.example"] = []
    with pytest.raises(ConnectionFailed, match="has no address"):
        echo("ws://empty.example/")


def test_host_that_does_not_answer_is_a_timeout(
    echo: Form, silent_address: tuple[str, int]
) -> None:
    url = "ws://{}:{}/".format(*silent_address)
    with NothingLeft(), pytest.raises(TimeoutError, match="open_timeout"):
        echo(url, open_timeout=0.3)


def test_name_that_is_not_resolved_in_time_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch, echo: Form
) -> None:
    release = threading.Event()
    original: Resolve = socket.getaddrinfo

    def getaddrinfo(*arguments: Any, **options: Any) -> list[tuple[Any, ...]]:
        if not options.get("flags"):
            release.wait(2)
        return original(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def open_and_release() -> None:
        try:
            echo("ws://slow.example/", open_timeout=0.2)
        finally:
            release.set()

    with pytest.raises(TimeoutError, match="open_timeout"):
        open_and_release()


def test_missing_unix_socket_is_an_error(echo: Form) -> None:
    with NothingLeft(), pytest.raises(ConnectionFailed, match="/nowhere/socket: No such file"):
        echo("ws://localhost/", unix="/nowhere/socket")


GARBAGE = {
    b"SSH-2.0-OpenSSH_9\r\n\r\n": "not HTTP",
    b"HTTP/1.1 101 Switching\r\nUpgrade websocket\r\n\r\n": "invalid header line",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n": "Upgrade header",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi": "HTTP status 200",
    b"HTTP/1.1 102 Processing\r\n\r\n" * 50: "too many interim",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000: "too long",
    b"SSH-2.0-OpenSSH_9\r\n": "not HTTP/1.1: 'SSH-2.0-OpenSSH_9'",
    b"\x15\x03\x01\x00\x02\x02F": "not HTTP",  # an alert of TLS
}


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_an_error_and_leaves_nothing_open(echo: Form, answer: bytes) -> None:
    server = RawServer(answer)
    try:
        with NothingLeft():
            with pytest.raises(HandshakeFailed, match=GARBAGE[answer]):
                echo(f"ws://127.0.0.1:{server.port}/", open_timeout=20)
            assert server.ended.acquire(timeout=20)
    finally:
        server.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swi"])
def test_connection_that_ends_within_the_handshake_is_an_error(echo: Form, answer: bytes) -> None:
    server = RawServer(answer, closes=True)
    try:
        with NothingLeft(), pytest.raises(ConnectionFailed, match=r"closed|lost"):
            echo(f"ws://127.0.0.1:{server.port}/")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 403 No\r\n\r\nno entry", b"no entry"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\nno entry", b"no entry"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n", b"no"),
    ],
    ids=["without length", "with length", "chunked"],
)
@pytest.mark.parametrize("closes", [True, False])
def test_refusal_has_the_body_up_to_the_end_or_a_time_limit(
    echo: Form, answer: bytes, body: bytes, closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BODY_TIMEOUT_S", 20 if closes else 0.2)
    server = RawServer(answer, closes=closes)
    try:
        with NothingLeft(), pytest.raises(HandshakeFailed) as caught:
            echo(f"ws://127.0.0.1:{server.port}/", open_timeout=40)
        assert (caught.value.status, caught.value.body) == (403, body)
    finally:
        server.close()


def test_interim_responses_are_skipped(echo: Form) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    server = RawServer(interim + b"HTTP/1.1 418 Odd\r\nContent-Length: 0\r\n\r\n")
    try:
        with pytest.raises(HandshakeFailed) as caught:
            echo(f"ws://127.0.0.1:{server.port}/")
        assert caught.value.status == 418
    finally:
        server.close()


def test_slow_bytes_do_not_extend_the_time_limit(echo: Form) -> None:
    fields = b"X: y\r\n" * 1000  # in single bytes they take a minute
    server = RawServer(b"HTTP/1.1 101 Switching Protocols\r\n" + fields, trickles=True)
    began = time.monotonic()
    try:
        with NothingLeft(), pytest.raises(TimeoutError, match="open_timeout"):
            echo(f"ws://127.0.0.1:{server.port}/", open_timeout=0.3)
        assert time.monotonic() - began < 20
    finally:
        server.close()
