"""hybi-04 (version 4): each client frame is masked with its own keystream.

Both ends derive a connection key from the client's key and the nonce in the server's response.
The keystream of a frame is the SHA-1 of four random bytes, which precede the frame, and of the
connection key. It masks header and payload.
"""

from __future__ import annotations

import hashlib

from ..assembly import Limits
from ..early_frame import EarlyDecoder, EarlyEncoder, Format, read_cookie, write_cookie
from ..request import Headers, Request
from . import accept
from .version import ClientRequest, HandshakeResponse, Offer, Version

KEY_GUID = "61AC5F19-FBBA-4540-B96F-6561F1AB40A8"


def connection_key(key: str, nonce: str) -> bytes:
    """Return the connection key, from the values of the two headers."""
    return _sha1((key + nonce + KEY_GUID).encode())


def keystream(frame_nonce: bytes, secret: bytes) -> bytes:
    return _sha1(frame_nonce + secret)


def build_response(request: Request, subprotocol: str | None, extra: Headers) -> HandshakeResponse:
    nonce = accept.new_key()
    response = accept.build_response(request, subprotocol, extra, nonce).response
    return HandshakeResponse(response, connection_key(request.headers["Sec-WebSocket-Key"], nonce))


def client_request(offer: Offer) -> ClientRequest:
    return accept.client_request(
        offer, 4, "Sec-WebSocket-Origin", accept.new_key(), _find_connection_key
    )


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
    _matches=accept.matches_version(4),
    _validation_error=accept.validation_error,
    _build_response=build_response,
    _offered_subprotocols=accept.offered_subprotocols,
    _client_request=client_request,
    _make_decoder=decoder,
    _make_encoder=encoder,
)
