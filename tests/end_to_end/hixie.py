"""The third key of hixie-76, which follows the request head, and requests with a body."""

from __future__ import annotations

import time

import pytest

from ..support.raw_client import RawClient
from .versions import hixie_76

OF_HIXIE = b"8jKS'y:G*Co,Wxa-", b"\x00hello\xff"


def unmasked_by_zeros(payload: bytes) -> bytes:
    """A frame whose masking key is zero, so that the payload appears unmasked on the wire."""
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload


KEYS3 = [b"^n:ds[4U", b"\r\n\r\n\r\n\r\n"]

WITH_HEAD = pytest.mark.parametrize("with_head", [0, 3, 8], ids=["later", "in two", "at once"])

BODIES = pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"Content-Length": "5"}, b"hello"),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)


def greet_hixie_76(client: RawClient, path: str, key3: bytes, with_head: int) -> None:
    """A handshake and an echo; that many bytes of the third key arrive with the head."""
    head = client.handshake(path, hixie_76())
    rest = key3[with_head:] + b"\x00hello\xff"
    client.sock.sendall(head + key3[:with_head] + (rest if with_head == 8 else b""))
    if with_head == 3:
        time.sleep(0.02)
        client.sock.sendall(rest)
    response = client.read_response()
    assert (response.status, response.reason) == (101, "WebSocket Protocol Handshake")
    if with_head == 0:
        client.sock.sendall(rest)
    answer = client.read(16)
    assert (answer == OF_HIXIE[0]) == (key3 == KEYS3[0])
    assert client.read(14) == OF_HIXIE[1] * 2
