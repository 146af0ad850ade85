"""RFC 6455, `Sec-WebSocket-Version: 13`: the handshake of section 4; framing in `message`."""

from __future__ import annotations

import base64
import binascii
import hashlib

from ..message import Decoder, Encoder
from ..request import TOKEN, Headers, Request, tokens
from .version import Version

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_value(key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (section 4.2.2)."""
    digest = hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def is_asked_for(request: Request) -> bool:
    return request.headers.get_all("Sec-WebSocket-Version") == ["13"]


def find_defect(request: Request) -> str | None:
    """The first thing wrong with the headers of section 4.1 that only this version has."""
    keys = request.headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1:
        return "there must be exactly one Sec-WebSocket-Key header"
    if not _is_16_bytes_in_base64(keys[0]):
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    offered = tokens(request.headers.get_all("Sec-WebSocket-Protocol"))
    if not all(TOKEN.fullmatch(name) for name in offered):
        return "Sec-WebSocket-Protocol must be a list of tokens"
    if len(set(offered)) != len(offered):
        return "Sec-WebSocket-Protocol must not offer a subprotocol twice"
    return None


def answer(request: Request, subprotocol: str | None, extra: Headers) -> bytes:
    """The 101 response (section 4.2.2)."""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_value(request.headers["Sec-WebSocket-Key"])),
    ]
    if subprotocol is not None:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    lines = [f"{name}: {value}" for name, value in fields + extra.fields()]
    head = "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""])
    return head.encode("latin-1")


def _is_16_bytes_in_base64(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


VERSION = Version(
    name="RFC 6455",
    number=13,
    is_asked_for=is_asked_for,
    find_defect=find_defect,
    answer=answer,
    decoder=Decoder,
    encoder=Encoder,
)
