"""hybi-05 and hybi-06 (versions 5 and 6): the masking key precedes the client's frame.

The key masks header and payload, starting at the first byte of the header. The frames are those
of `early_frame`, with a FIN bit. The body of a close frame is one byte in hybi-05, "C" from a
client and "S" from a server, and a code and a reason in hybi-06.
"""

from __future__ import annotations

from ..assembly import Close, Limits
from ..close_codes import CloseCode
from ..early_frame import EarlyDecoder, EarlyEncoder, Format
from . import accept
from .hybi07 import CLOSE_CODES, draft_close_payload, read_draft_close
from .version import Version


def read_letter(_payload: bytes) -> Close:
    """Return a close without a code: the letter of hybi-05 only repeats the sender's role."""
    return Close(CloseCode.NO_CODE_RECEIVED, "")


def write_letter(_code: int | None, _reason: str, is_client: bool) -> bytes:
    return b"C" if is_client else b"S"


def write_code(code: int | None, reason: str, _is_client: bool) -> bytes:
    return draft_close_payload(code, reason)


def key_as_it_is(key: bytes, _secret: bytes) -> bytes:
    return key


WITH_LETTER = Format(
    has_fin=True, keystream=key_as_it_is, read_close=read_letter, write_close=write_letter
)
WITH_CODE = Format(
    has_fin=True, keystream=key_as_it_is, read_close=read_draft_close, write_close=write_code
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
        _matches=accept.matches_version(number),
        _validation_error=accept.validation_error,
        _build_response=accept.build_response,
        _offered_subprotocols=accept.offered_subprotocols,
        _client_request=accept.client_request_builder(number, "Sec-WebSocket-Origin"),
        _make_decoder=decoder,
        _make_encoder=encoder,
        _close_codes=close_codes,
    )


HYBI_05 = _version("hybi-05", 5, WITH_LETTER)
HYBI_06 = _version("hybi-06", 6, WITH_CODE, CLOSE_CODES)
