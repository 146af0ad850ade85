"""hybi-04 (version 4): every client frame under a keystream of its own.

Both ends derive a connection key from the client's key and a nonce of the server's
response. A frame's keystream is the SHA-1 of four random bytes, which precede the frame,
and that key; it covers header and payload.
"""

from __future__ import annotations

import hashlib

from ..assembly import Limits
from ..early_frame import EarlyDecoder, EarlyEncoder, Format, read_cookie, write_cookie
from ..request import Headers, Request
from . import accept
from .version import Answer, Hello, Offer, Version

KEY_GUID = "61AC5F19-FBBA-4540-B96F-6561F1AB40A8"


def connection_key(key: str, nonce: str) -> bytes:
    """From the texts of the two headers as they stand there."""
    return _sha1((key + nonce + KEY_GUID).encode())


def keystream(frame_nonce: bytes, secret: bytes) -> bytes:
    return _sha1(frame_nonce + secret)


def answer(request: Request, subprotocol: str | None, extra: Headers) -> Answer:
    nonce = accept.new_key()
    response = accept.answer(request, subprotocol, extra, nonce).response
    return Answer(response, connection_key(request.headers["Sec-WebSocket-Key"], nonce))


def hello(offer: Offer) -> Hello:
    return accept.greet(offer, 4, "Sec-WebSocket-Origin", accept.new_key(), _find_connection_key)


def _find_connection_key(key: str, headers: Headers) -> bytes:
    nonces = headers.get_all("Sec-WebSocket-Nonce")
    if len(nonces) != 1:
        raise ValueError("there must be exactly one Sec-WebSocket-Nonce header")
    return connection_key(key, nonces[0])


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


FORMAT = Format(
    has_fin=True,
    keystream=keystream,
    read_close=read_cookie,
    write_close=write_cookie,
    copies_close=True,
)


def decoder(limits: Limits, expect_masked: bool, secret: bytes) -> EarlyDecoder:
    return EarlyDecoder(FORMAT, limits, expect_masked, secret)


def encoder(mask: bool, secret: bytes) -> EarlyEncoder:
    return EarlyEncoder(FORMAT, mask, secret)


HYBI_04 = Version(
    name="hybi-04",
    number=4,
    is_asked_for=accept.recogniser(4),
    find_defect=accept.find_defect,
    answer=answer,
    offered_subprotocols=accept.offered_subprotocols,
    hello=hello,
    decoder=decoder,
    encoder=encoder,
)
