"""hybi-05 and hybi-06 (versions 5 and 6): a client's key stands before its frame.

The key masks header and payload alike, counted from the first byte of the header. The
frames are those of `early_frame`, with FIN. Close: one byte that says who closes in
hybi-05, code and reason in hybi-06.
"""

from __future__ import annotations

from .. import check
from ..assembly import Close, Limits
from ..early_frame import EarlyDecoder, EarlyEncoder, Format
from . import accept
from .hybi07 import CLOSE_CODES, old_close_payload, read_old_close
from .version import Version


def read_letter(_payload: bytes) -> Close:
    """hybi-05: a letter that tells nothing the direction does not."""
    return Close(check.NO_CODE_RECEIVED, "")


def write_letter(_code: int | None, _reason: str, is_client: bool) -> bytes:
    return b"C" if is_client else b"S"


def write_code(code: int | None, reason: str, _is_client: bool) -> bytes:
    return old_close_payload(code, reason)


def key_as_it_is(key: bytes, _secret: bytes) -> bytes:
    return key


WITH_LETTER = Format(
    has_fin=True, keystream=key_as_it_is, read_close=read_letter, write_close=write_letter
)
WITH_CODE = Format(
    has_fin=True, keystream=key_as_it_is, read_close=read_old_close, write_close=write_code
)


def _version(
    name: str, number: int, form: Format, close_codes: tuple[tuple[int, int], ...] = ()
) -> Version:
    def decoder(limits: Limits, expect_masked: bool, secret: bytes) -> EarlyDecoder:
        return EarlyDecoder(form, limits, expect_masked, secret)

    def encoder(mask: bool, secret: bytes) -> EarlyEncoder:
        return EarlyEncoder(form, mask, secret)

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
        close_codes=close_codes,
    )


HYBI_05 = _version("hybi-05", 5, WITH_LETTER)
HYBI_06 = _version("hybi-06", 6, WITH_CODE, CLOSE_CODES)
