"""hybi-07 (version 7) and hybi-08 to -12 (version 8): the frames of RFC 6455.

A message too big has code 1004 in them, and the origin comes in `Sec-WebSocket-Origin`
(until hybi-11, which is still version 8).
"""

from __future__ import annotations

from ..assembly import Close, Limits
from ..check import MESSAGE_TOO_BIG
from ..frame import Opcode
from ..message import Decoder, Encoder, close_payload, read_close
from . import accept
from .version import Version

OLD_TOO_BIG = 1004
CLOSE_CODES = ((MESSAGE_TOO_BIG, OLD_TOO_BIG),)


def read_old_close(payload: bytes) -> Close:
    return read_close(payload, also_valid=OLD_TOO_BIG)


def old_close_payload(code: int | None, reason: str) -> bytes:
    if code == OLD_TOO_BIG:
        return code.to_bytes(2, "big") + reason.encode()
    return close_payload(code, reason)


class OldCodesDecoder(Decoder):
    def _read_close(self, payload: bytes) -> Close:
        return read_old_close(payload)


class OldCodesEncoder(Encoder):
    def close(self, code: int | None = None, reason: str = "") -> bytes:
        return self.frame(Opcode.CLOSE, old_close_payload(code, reason))


def decoder(limits: Limits, expect_masked: bool, _secret: bytes) -> Decoder:
    return OldCodesDecoder(limits, expect_masked)


def encoder(mask: bool, _secret: bytes) -> Encoder:
    return OldCodesEncoder(mask)


def _version(name: str, number: int) -> Version:
    return Version(
        name=name,
        number=number,
        is_asked_for=accept.recogniser(number),
        find_defect=accept.find_defect,
        answer=accept.answer,
        offered_subprotocols=accept.offered_subprotocols,
        hello=accept.greeter(number, "Sec-WebSocket-Origin"),
        decoder=decoder,
        encoder=encoder,
        is_native=True,
        close_codes=CLOSE_CODES,
    )


HYBI_07 = _version("hybi-07", 7)
HYBI_12 = _version("hybi-12", 8)
