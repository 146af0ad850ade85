"""hybi-07 (version 7) and hybi-08 to hybi-12 (version 8): the frames of RFC 6455.

Differences: the close code for a message that is too big is 1004, and the header for the origin
is `Sec-WebSocket-Origin` (until hybi-11, which is still version 8).
"""

from __future__ import annotations

from ..assembly import Close, Limits
from ..close_codes import CloseCode
from ..frame import Opcode
from ..message import Decoder, Encoder, close_payload, read_close
from . import accept
from .version import Version

DRAFT_TOO_BIG = 1004
CLOSE_CODES = ((CloseCode.MESSAGE_TOO_BIG, DRAFT_TOO_BIG),)


def read_draft_close(payload: bytes) -> Close:
    return read_close(payload, also_valid=DRAFT_TOO_BIG)


def draft_close_payload(code: int | None, reason: str) -> bytes:
    if code == DRAFT_TOO_BIG:
        return code.to_bytes(2, "big") + reason.encode()
    return close_payload(code, reason)


class DraftDecoder(Decoder):
    """The decoder of RFC 6455, which also accepts close code 1004."""

    def _read_close(self, payload: bytes) -> Close:
        return read_draft_close(payload)


class DraftEncoder(Encoder):
    """The encoder of RFC 6455, which also sends close code 1004."""

    def close(self, code: int | None = None, reason: str = "") -> bytes:
        return self.frame(Opcode.CLOSE, draft_close_payload(code, reason))


def decoder(limits: Limits, expect_masked: bool, _secret: bytes) -> Decoder:
    return DraftDecoder(limits, expect_masked)


def encoder(mask: bool, _secret: bytes) -> Encoder:
    return DraftEncoder(mask)


def _version(name: str, number: int) -> Version:
    return Version(
        name=name,
        number=number,
        _matches=accept.matches_version(number),
        _validation_error=accept.validation_error,
        _build_response=accept.build_response,
        _offered_subprotocols=accept.offered_subprotocols,
        _client_request=accept.client_request_builder(number, "Sec-WebSocket-Origin"),
        _make_decoder=decoder,
        _make_encoder=encoder,
        _is_native=True,
        _close_codes=CLOSE_CODES,
    )


HYBI_07 = _version("hybi-07", 7)
HYBI_12 = _version("hybi-12", 8)
