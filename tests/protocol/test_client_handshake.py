"""The client handshake: requests it must not send, and responses of hostile or slow servers."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest

from websocket_handler import Headers, Request, UnsupportedByVersion
from websocket_handler.errors import HandshakeFailed
from websocket_handler.protocol import handshake
from websocket_handler.protocol.assembly import Completed
from websocket_handler.protocol.client import (
    MAX_BODY_SHOWN,
    MAX_HEAD_SIZE,
    Address,
    ClientHandshake,
)
from websocket_handler.protocol.versions import ALL_VERSIONS, by_name

from .frames import Limits

ADDRESS = Address.parse("ws://localhost:1/")


def new_client(version: str = "RFC 6455", **others: Any) -> ClientHandshake:
    return ClientHandshake(ADDRESS, by_name(version), **others)


@pytest.mark.parametrize(
    "response",
    [
        "HTTP/1.1 10\xb2 Odd\r\n\r\n",
        f"HTTP/1.1 {'9' * 5000} Odd\r\n\r\n",
        "HTTP/1.1 1010\r\n\r\n",
        "HTTP/1.1  101 Odd\r\n\r\n",
        "HTTP/1.x 101 Odd\r\n\r\n",
        "HTTP/2 101 Odd\r\n\r\n",
        "\r\n\r\n",
    ],
)
def test_invalid_status_line_fails_the_handshake(response: str) -> None:
    with pytest.raises(HandshakeFailed, match="not HTTP"):
        new_client().feed(response.encode("latin-1"))


@pytest.mark.parametrize("length", ["1\xb2", "-1", "+1", "", "9" * 5000, "1, 1"])
def test_rejection_with_an_invalid_length_is_reported_at_once(length: str) -> None:
    head = f"HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\n\r\n"
    with pytest.raises(HandshakeFailed) as caught:
        new_client().feed(head.encode("latin-1"))
    assert caught.value.status == 404


def test_rejection_is_reported_after_its_body_or_the_end() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\n"
    for last in (b"e", b""):
        client = new_client()
        for at in range(len(head)):
            assert client.feed(head[at : at + 1]) is None
        assert client.feed(b"nop") is None
        with pytest.raises(HandshakeFailed) as caught:
            client.feed(last)
        assert caught.value.body == b"nop" + last


def test_response_in_single_bytes_is_parsed_once() -> None:
    fields = b"X: y\r\n" * (MAX_HEAD_SIZE // 8)
    response = b"HTTP/1.1 404 Odd\r\nContent-Length: 60000\r\n" + fields + b"\r\n" + bytes(59_999)
    client = new_client()
    began = process_time()
    for at in range(len(response)):
        assert client.feed(response[at : at + 1]) is None
    assert process_time() - began < 2  # rescanning the head at every byte would take minutes


def test_oversized_response_head_fails_even_in_one_piece() -> None:
    head = b"HTTP/1.1 101 Odd\r\nX: " + b"y" * MAX_HEAD_SIZE + b"\r\n\r\n"
    with pytest.raises(HandshakeFailed, match="too long"):
        new_client().feed(head)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 101 Odd\r\n"])
def test_end_before_the_response_fails_the_handshake(head: bytes) -> None:
    client = new_client()
    if head:
        assert client.feed(head) is None
    with pytest.raises(HandshakeFailed, match="without a response"):
        client.feed(b"")


def test_end_before_the_challenge_answer_fails_the_handshake() -> None:
    client = new_client("hixie-76")
    assert client.feed(b"HTTP/1.1 101 Odd\r\nUpgrade: WebSocket\r\n\r\n" + bytes(15)) is None
    with pytest.raises(HandshakeFailed, match="within its response"):
        client.feed(b"")


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "UPGRADE", "Connection", "origin", "Content-Length", "Transfer-Encoding"),
        *("Sec-WebSocket-Key", "sec-websocket-version", "WebSocket-Protocol"),
    ],
)
def test_handshake_headers_set_by_the_caller_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        new_client(headers=[(name, "x")])


@pytest.mark.parametrize(
    "others",
    [
        {"headers": [("X", "a\r\nb")]},
        {"headers": [("X y", "a")]},
        {"origin": "http://a\r\nX: y"},
        {"subprotocols": ["a b"]},
        {"subprotocols": [""]},
        {"subprotocols": ["a", "a"]},
    ],
)
def test_invalid_client_request_value_is_an_error(others: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        new_client(**others)


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_several_subprotocols_are_an_error_in_hixie(name: str) -> None:
    with pytest.raises(
        UnsupportedByVersion, match=f"^{name} cannot offer more than one subprotocol$"
    ):
        new_client(name, subprotocols=["a", "b"])


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_missing_subprotocol_fails_only_hixie_handshakes(version: Any) -> None:
    """Only hixie-75 and -76 fail the handshake."""
    client = ClientHandshake(ADDRESS, version, ["chat"])
    response = response_to(client, subprotocol=None)
    if version.name.startswith("hixie"):
        with pytest.raises(HandshakeFailed, match="did not take the subprotocol 'chat'"):
            client.feed(response)
    else:
        established = client.feed(response)
        assert established is not None
        assert established.subprotocol is None


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_subprotocol_header_matches_the_version(version: Any) -> None:
    old, new = b"\r\nWebSocket-Protocol:", b"\r\nSec-WebSocket-Protocol:"
    client = ClientHandshake(ADDRESS, version, ["chat"])
    response = response_to(client, subprotocol="chat")
    right, wrong = (old, new) if version.name == "hixie-75" else (new, old)
    assert right in response
    if version.name.startswith("hixie"):
        with pytest.raises(HandshakeFailed, match="did not take"):
            client.feed(response.replace(right, wrong))
    else:
        established = client.feed(response.replace(right, wrong))
        assert established is not None
        assert established.subprotocol is None


def response_to(client: ClientHandshake, subprotocol: str | None) -> bytes:
    """The complete response of our server."""
    head, _, body = client.request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    fields = Headers([(name, value) for name, _, value in (one.partition(": ") for one in lines)])
    request = Request("GET", line.split(" ")[1], fields)
    outcome = handshake.answer(request, ALL_VERSIONS, ["*"], subprotocol)
    assert isinstance(outcome, handshake.Accepted)
    if not outcome.version._has_late_handshake:
        return outcome.response
    (completed,) = outcome.version._make_decoder(Limits(), True, outcome.secret).feed(body)
    assert isinstance(completed, Completed)
    return outcome.response + completed.response


@pytest.mark.parametrize(
    ("url", "host_header"),
    [
        ("ws://example.com:443", "example.com:443"),
        ("wss://example.com:443", "example.com"),
        ("WSS://EXAMPLE.com", "example.com"),
        ("ws://[::1]", "[::1]"),
        ("ws://b\xfccher.example:81/", "xn--bcher-kva.example:81"),
        ("ws://x:/", "x"),
    ],
)
def test_host_header_omits_the_default_port(url: str, host_header: str) -> None:
    assert Address.parse(url).host_header == host_header


@pytest.mark.parametrize(
    "url",
    [
        "ws://exa mple/",
        "ws://ex\tample/",
        "ws://example/a\r\nX: y",
        "ws://example/a\x7f",
        " ws://example/",
        'ws://ex"ample/',
        "ws://ex\\ample/",
        "ws://example:0/",
        "ws://" + "\xfc" * 70 + ".example/",
        "ws://[::1/",
        "ws://[host]/",
    ],
)
def test_misleading_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(url)


@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"])
def test_rejection_without_length_ends_with_the_connection(fields: bytes) -> None:
    client = new_client()
    assert client.feed(b"HTTP/1.0 403 Forbidden\r\n" + fields + b"\r\nnot ") is None
    assert client.feed(b"you") is None
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(b"")
    assert (caught.value.status, caught.value.body) == (403, b"not you")


def test_long_rejection_without_length_is_cut_off() -> None:
    client = new_client()
    assert client.feed(b"HTTP/1.1 403 Forbidden\r\n\r\n" + bytes(MAX_BODY_SHOWN - 1)) is None
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(bytes(10))
    assert len(caught.value.body) == MAX_BODY_SHOWN


@pytest.mark.parametrize("status", [204, 304])
def test_rejection_that_cannot_have_a_body_is_reported_at_once(status: int) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        new_client().feed(b"HTTP/1.1 %d Odd\r\n\r\n" % status)
    assert (caught.value.status, caught.value.body) == (status, b"")


def test_bytes_after_the_body_of_a_rejection_are_ignored() -> None:
    with pytest.raises(HandshakeFailed) as caught:
        new_client().feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK")
    assert caught.value.body == b"no"


def test_incomplete_chunked_rejection_has_the_received_part() -> None:
    client = new_client()
    head = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert client.feed(head + b"3\r\nnot\r\n9\r\n yet") is None
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(b"")
    assert caught.value.body == b"not yet"


def test_chunked_rejection_is_decoded() -> None:
    client = new_client()
    head = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = head + b"8\r\nnot you\n\r\n3;x=y\r\nyet\r\n0\r\n\r\n"
    for at in range(len(wire) - 1):
        assert client.feed(wire[at : at + 1]) is None
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(wire[-1:])
    assert (caught.value.status, caught.value.body) == (403, b"not you\nyet")
