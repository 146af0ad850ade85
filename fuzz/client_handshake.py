"""The client's side of the target `handshake`."""

from __future__ import annotations

from websocket_handler.errors import HandshakeFailed, UnsupportedByVersion
from websocket_handler.protocol.client import Address, ClientHandshake, Established
from websocket_handler.protocol.permessage_deflate import Compression
from websocket_handler.protocol.versions import ALL_VERSIONS
from websocket_handler.protocol.versions.accept import accept_value
from websocket_handler.protocol.versions.challenge import (
    challenge_answer,
    key_number,
    numbers_in_bytes,
)

ADDRESS = Address.parse("ws://example.com/demo")
SUBPROTOCOLS: tuple[tuple[str, ...], ...] = ((), ("chat",), ("chat", "superchat"))


def ask(
    compression: Compression | bool, options: int, version_number: int, piece: int, text: bytes
) -> None:
    version = ALL_VERSIONS[version_number % len(ALL_VERSIONS)]
    offered = SUBPROTOCOLS[options % len(SUBPROTOCOLS)]
    try:
        client = ClientHandshake(ADDRESS, version, offered, compression=compression)
    except UnsupportedByVersion:
        assert len(offered) > 1
        return
    text = fill_in(text, client.request)
    established, fed = read_response(client, text, piece)
    if established is not None:
        assert established.subprotocol in (None, *offered)
        assert text[:fed].endswith(established.rest)


def read_response(
    client: ClientHandshake, text: bytes, piece: int
) -> tuple[Established | None, int]:
    """Return the result, None if the handshake failed, and the number of bytes fed until then."""
    size = piece or len(text) or 1
    fed = 0
    while True:
        try:
            established = client.feed(text[fed : fed + size])
        except HandshakeFailed:
            return None, fed
        assert established is not None or fed < len(text), "no failure at the end of the response"
        fed = min(fed + size, len(text))
        if established is not None:
            return established, fed


def fill_in(text: bytes, request: bytes) -> bytes:
    """Replace the placeholders by a server's correct reply to the keys of the request."""
    head, _, key3 = request.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    if "Sec-WebSocket-Key" in headers:
        accept = accept_value(headers["Sec-WebSocket-Key"])
        text = text.replace(b"{accept}", accept.encode())
    elif "Sec-WebSocket-Key1" in headers:
        numbers = [key_number(headers[f"Sec-WebSocket-Key{n}"]) for n in (1, 2)]
        text = text.replace(b"{answer}", challenge_answer(numbers_in_bytes(*numbers), key3))
    return text


def parse_url(url: str) -> None:
    try:
        address = Address.parse(url)
    except ValueError:
        return
    assert address.host
    assert 0 < address.port < 65536
    for version in ALL_VERSIONS:
        request = ClientHandshake(address, version).request.partition(b"\r\n\r\n")[0]
        lines = request.decode("ascii").split("\r\n")
        assert lines[0] == f"GET {address.target} HTTP/1.1"
        assert f"Host: {address.host_header}" in lines
