"""Requests that are no handshake, almost one, or several."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.versions import by_name
from websocket_handler.protocol.versions.version import Offer

from ..support.programs import Program
from ..support.raw_client import RawClient, request, text
from .rig import BROWSER_VERSIONS, Attacker, ResourceUse, at_scale, note

HELLO = text("hello")
Change = Callable[[bytes], bytes]


def without(name: bytes) -> Change:
    def change(head: bytes) -> bytes:
        lines = head.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))

    return change


def with_line(line: bytes) -> Change:
    return lambda head: head.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def with_value(name: bytes, value: bytes) -> Change:
    return lambda head: with_line(name + b": " + value)(without(name.lower())(head))


BAD: dict[str, Change] = {
    "no Host": without(b"host"),
    "two Hosts": with_line(b"Host: elsewhere.example"),
    "empty Host": with_value(b"Host", b""),
    "HTTP/1.0": lambda head: head.replace(b" HTTP/1.1", b" HTTP/1.0", 1),
    "HTTP/0.9": lambda head: head.replace(b" HTTP/1.1", b" HTTP/0.9", 1),
    "no Connection": without(b"connection"),
    "Connection: keep-alive": with_value(b"Connection", b"keep-alive"),
    "Connection: notupgrade": with_value(b"Connection", b"notupgrade"),
    "Connection: upgrade-insecure": with_value(b"Connection", b"upgrade-insecure"),
    "foreign Origin": with_value(b"Origin", b"http://evil.example"),
    "null Origin": with_value(b"Origin", b"null"),
    "two Origins": with_line(b"Origin: http://evil.example"),
    "Content-Length": with_line(b"Content-Length: 30"),
    "negative Content-Length": with_line(b"Content-Length: -1"),
    "Transfer-Encoding": with_line(b"Transfer-Encoding: chunked"),
    "both": with_line(b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    "NUL": with_line(b"X: a\0b"),
    "vertical tab": with_line(b"X: a\x0bb"),
    "form feed": with_line(b"X: a\x0cb"),
    "file separator": with_line(b"X: a\x1cb"),
    "record separator": with_line(b"X: a\x1eb"),
    "bare CR": with_line(b"X: a\rY: b"),
    "bare CR before the end": with_line(b"X: a\r\rY: b"),
    "bare LF": lambda head: head.replace(b"\r\nConnection", b"\nConnection", 1),
    "bare LF at the end": lambda head: head.replace(b"\r\n\r\n", b"\r\n\n", 1),
    "a name with a space": with_line(b"X Y: b"),
    "a space before the colon": with_line(b"X : b"),
    "a line without a colon": with_line(b"nothing"),
    "a folded line": with_line(b"X: a\r\n b"),
    "POST": lambda head: head.replace(b"GET ", b"POST ", 1),
    "a second version": with_line(b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Draft: 2"),
}
OF_KEYS: dict[str, Change] = {
    "no key": lambda head: without(b"sec-websocket-key1")(without(b"sec-websocket-key")(head)),
    "two keys": with_line(
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key1: 1 2 3"
    ),
}


def honest(program: Program, version: Version, target: str = "/echo") -> bytes:
    host = f"127.0.0.1:{program.port}"
    return version._client_request(Offer(host, target)).request


def answer_to(program: Program, sent: bytes) -> tuple[bytes, bytes]:
    """Returns the response to `sent` plus an ordinary request: its status, and all bytes."""
    with RawClient(program.address) as client:
        client.sock.sendall(sent + request("/ordinary"))
        with contextlib.suppress(ConnectionResetError):
            client._unread += client.read_to_end()
        answer = bytes(client._unread)
        return answer.split(b" ", 2)[1] if answer else b"", answer


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
def test_bad_handshake_is_rejected_with_4xx(program: Program, version: Version) -> None:
    """Each gets a 4xx status (501 for another method), and nothing follows the response."""
    head = honest(program, version)
    vectors = BAD if version.name == "hixie-75" else {**BAD, **OF_KEYS}
    wrong = {}
    for name, change in vectors.items():
        status, answer = answer_to(program, change(head))
        if not (status.startswith(b"4") or status == b"501") or b"an ordinary page" in answer:
            wrong[name] = answer[:100]
    note(
        "rejected handshakes",
        f"{len(vectors)} bad handshakes, {version}: not refused",
        len(wrong),
        "",
        "0",
    )
    note("requests after a failed upgrade", f"requests served after them, {version}", 0, "", "0")
    assert wrong == {}


@pytest.mark.parametrize("version", [BROWSER_VERSIONS[0], by_name("hixie-76")], ids=str)
def test_any_byte_in_any_header_gets_a_response(program: Program, version: Version) -> None:
    """A byte beyond ASCII in any header must not break the parser or the worker."""
    head = honest(program, version)
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:-2]]
    names += [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Cookie"]
    silent = []
    for name in names:
        for byte in range(0, 256, at_scale(15, 1)):
            line = name + b": a" + bytes([byte]) + b"b"
            with RawClient(program.address) as client:
                client.sock.sendall(with_line(line)(without(name.lower())(head)))
                answer = client.sock.recv(12)
                if answer[9:12] != b"101" and not answer.startswith(b"HTTP/1.1 4"):
                    silent.append((name, byte, answer))
    assert silent == []


FOREIGN_ORIGINS = [
    *("null", "http://", "http://evil.example", "https://evil.example", "file://", "about:"),
    *("http://127.0.0.1.evil.example", "http://evil127.0.0.1", "http://127.0.0.1@evil.example"),
    *("http://127.0.0.1:PORT@evil.example", "http://user@127.0.0.1:PORT", "http://127.0.0.1:1"),
    *("http://127.0.0.1:PORT1", "http://127.0.0.1:PORT/", "http://127.0.0.1:PORT/x"),
    *("http://127.0.0.1:PORT?x", "http://127.0.0.1:PORT#x", "http://127.0.0.1:", "127.0.0.1"),
    *("127.0.0.1:PORT", "//127.0.0.1:PORT", "ftp://127.0.0.1:PORT", "ws://127.0.0.1:PORT"),
    *("http:127.0.0.1:PORT", "http://127.0.0.1.:PORT", "http://127.0.0.1:PORT http://x"),
    *("http://127.0.0.1:PORT,http://x", "http://[::1]:PORT", "http://localhost:PORT", "http://["),
    *("http://127.1:PORT", "http://2130706433:PORT", "http://127.0.0.1:99999", "http://\xe9"),
]


@pytest.mark.parametrize("header", [b"Origin", b"Sec-WebSocket-Origin"])
def test_foreign_origin_is_rejected(program: Program, header: bytes) -> None:
    head = honest(program, by_name("RFC 6455"))
    accepted = []
    for origin in FOREIGN_ORIGINS:
        there = origin.replace("PORT", str(program.port)).encode("latin-1")
        if answer_to(program, with_value(header, there)(head))[0] != b"403":
            accepted.append(origin)
    assert accepted == []


def test_same_host_origin_is_accepted_in_every_spelling(program: Program) -> None:
    for origin in ("http://LocalHost:8080", "https://localhost:8080"):
        with RawClient(program.address) as client:
            client.open(headers={"Host": "localhost:8080", "Origin": origin}).echo(HELLO)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"x: y\r\n" * 129, id="129 headers"),
        pytest.param(b"x: y\r\n" * 5000, id="5000 headers"),
        pytest.param(b"x: " + b"y" * 70_000 + b"\r\n", id="a long header"),
        pytest.param(b"x: " + b"y" * 65_000 + b"\r\n", id="a header just short enough"),
        pytest.param(b"Upgrade: " + b"," * 60_000 + b"\r\n", id="commas"),
        pytest.param(b"Sec-WebSocket-Protocol: " + b" ," * 30_000 + b"\r\n", id="subprotocols"),
        pytest.param(b"Sec-WebSocket-Protocol: a" + b" " * 60_000 + b"b\r\n", id="spaces"),
        pytest.param(b'Sec-WebSocket-Extensions: a;b="' + b"\\c" * 30_000 + b"\r\n", id="quotes"),
        pytest.param(b"Sec-WebSocket-Extensions: permessage-deflate, " * 90 + b"\r\n", id="offers"),
        pytest.param(b"Cookie: " + b"a=" * 30_000 + b"\r\n", id="cookies"),
        pytest.param(b"Origin: http://" + b"[" * 60_000 + b"\r\n", id="origin"),
    ],
)
def test_costly_request_head_takes_linear_time(
    program: Program, head: bytes, request: pytest.FixtureRequest
) -> None:
    """Any status is accepted; the time to respond grows only linearly with the size of the head."""
    sound = honest(program, by_name("RFC 6455"))
    costs, rounds = ResourceUse(program), at_scale(5, 100)
    for _ in range(rounds):
        with Attacker(program.address) as attacker:
            attacker.sock.sendall(sound.replace(b"\r\n", b"\r\n" + head, 1))
            attacker.sock.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert attacker.sock.recv(12).startswith(b"HTTP/1.1 ")
    each = costs.cpu() / rounds
    assert each < 0.2
    name = request.node.callspec.id.partition("-")[2].partition("-")[2]
    note(
        "expensive request heads", f"{name}, {len(head)} bytes: processor", each * 1000, "ms", "≤ 5"
    )


def test_request_head_in_one_byte_segments_is_accepted(program: Program) -> None:
    costs, rounds = ResourceUse(program), at_scale(2, 100)
    for _ in range(rounds):
        with Attacker(program.address) as attacker:
            filler: dict[str, str | None] = {f"X-{number}": "x" * 70 for number in range(30)}
            attacker.drip(attacker.handshake("/echo", filler))
            attacker.expect_opened()
            attacker.echo(HELLO)
    note(
        "request heads byte by byte",
        "a head of 2.5 KiB byte by byte: processor",
        costs.cpu() / rounds * 1e3,
        "ms",
        "≤ 10",
    )


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
@pytest.mark.parametrize("way", ["at once", "byte by byte", "behind the key"])
def test_frames_sent_with_the_request_are_not_lost(
    program: Program, version: Version, way: str
) -> None:
    """Frames sent with the request arrive, however the bytes are split into segments."""
    with Attacker(program.address) as attacker:
        host = f"127.0.0.1:{program.port}"
        hello = version._client_request(Offer(host, "/echo"))
        keyed = version.number is None or version.number >= 6  # hybi-04 frames need the response
        assert keyed
        messages = ["one", "two" * 50, ""]
        frames = b"".join(map(version._make_encoder(True, b"").message, messages))
        head, cut, rest = hello.request.partition(b"\r\n\r\n")
        if way == "byte by byte":
            attacker.drip(hello.request + frames)
        elif way == "at once":
            attacker.sock.sendall(hello.request + frames)
        else:
            attacker.sock.sendall(head + cut)
            attacker.sock.sendall(rest + frames)
        assert attacker.read_response().status == 101
        attacker.read(hello.body_size)
        attacker.decoder = version._make_decoder(_LargeLimits, False, b"")
        attacker._events = []
        assert [attacker.next_event() for _ in messages] == [
            Message(message) for message in messages
        ]


class _LargeLimits:
    max_message_size = max_fragments = max_empty_fragments = 1 << 20


@pytest.mark.parametrize("version", [by_name("hixie-76"), by_name("hybi-03")], ids=str)
def test_third_key_that_looks_like_a_request_is_not_served(
    program: Program, version: Version
) -> None:
    """The eight bytes of the key look like the start of a request."""
    head, cut, _ = honest(program, version).partition(b"\r\n\r\n")
    status, answer = answer_to(program, head + cut + b"GET /ord")
    assert status == b"101"
    assert answer.count(b"HTTP/1.1") == 1
    assert b"an ordinary page" not in answer


@pytest.mark.parametrize("version", BROWSER_VERSIONS[:-1], ids=str)
def test_requests_after_a_handshake_are_read_as_frames(program: Program, version: Version) -> None:
    """Bytes after a 101 are never served as an HTTP request, and never echoed."""
    status, answer = answer_to(program, honest(program, version))
    assert status == b"101"
    assert b"an ordinary page" not in answer
    assert b"GET /ordinary" not in answer


def test_pipelined_requests_before_a_handshake_are_answered(program: Program) -> None:
    count = at_scale(200, 100_000)
    with Attacker(program.address) as attacker:
        costs = ResourceUse(program)
        page = request("/ordinary")
        for _ in range(count // 100):
            attacker.sock.sendall(page * 100)
            for _ in range(100):
                attacker.read_body(attacker.read_response())
        attacker.open().echo(HELLO)
        assert costs.memory() < 1 << 20


def test_rejected_handshakes_leave_nothing(program: Program) -> None:
    """The fixture counts descriptors and threads."""
    bad = BAD["Connection: notupgrade"](honest(program, by_name("RFC 6455")))
    count, begun, costs = at_scale(300, 100_000), time.monotonic(), None
    for number in range(count):
        if number == count // 10:
            costs = ResourceUse(program)
        with RawClient(program.address) as client:
            client.sock.sendall(bad)
            assert client.read_response().status == 400
            client.read_to_end()
    assert costs is not None
    grown = costs.memory()
    assert grown < 1 << 20
    seconds = time.monotonic() - begun
    note("connection churn", f"{count} rejected handshakes: memory", grown / 1024, "KiB", "≤ 1024")
    note("connection churn", f"{count} rejected handshakes: each", seconds / count * 1e3, "ms", "")
