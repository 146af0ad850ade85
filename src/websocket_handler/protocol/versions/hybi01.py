"""hybi-01, hybi-02 and hybi-03: the handshake of hixie-76 with a draft number, and binary frames.

The frames are those of `early_frame`, with a MORE bit and never masked. In hybi-01 the close frame
is empty; in hybi-02 and hybi-03 its body is a cookie that the reply copies.
"""

from __future__ import annotations

from ..assembly import Limits
from ..early_frame import (
    EarlyDecoder,
    EarlyEncoder,
    Format,
    read_cookie,
    write_cookie,
    write_nothing,
)
from ..request import Request
from . import challenge
from .version import Decoder, Version


def _version(name: str, draft: str, form: Format) -> Version:
    def decoder(limits: Limits, is_server: bool, secret: bytes) -> Decoder:
        frames = EarlyDecoder(form, limits, is_server, secret)
        return challenge.AwaitingKey3(secret, frames) if is_server else frames

    def encoder(is_client: bool, secret: bytes) -> EarlyEncoder:
        return EarlyEncoder(form, is_client, secret)

    return Version(
        name=name,
        number=None,
        _matches=challenge.matches_draft(draft),
        _validation_error=challenge.validation_error,
        _build_response=challenge.build_response,
        _offered_subprotocols=_offered_subprotocols,
        _client_request=challenge.client_request_builder(draft),
        _make_decoder=decoder,
        _make_encoder=encoder,
        _has_late_handshake=True,
    )


def _offered_subprotocols(request: Request) -> list[str]:
    """Return the offered subprotocols, which these versions separate by spaces."""
    return " ".join(request.headers.get_all("Sec-WebSocket-Protocol")).split()


WITHOUT_COOKIE = Format(
    has_fin=False,
    keystream=None,
    read_close=read_cookie,
    write_close=write_nothing,
    copies_close=True,
)
WITH_COOKIE = Format(
    has_fin=False,
    keystream=None,
    read_close=read_cookie,
    write_close=write_cookie,
    copies_close=True,
)
HYBI_01 = _version("hybi-01", "1", WITHOUT_COOKIE)
HYBI_02 = _version("hybi-02", "2", WITH_COOKIE)
HYBI_03 = _version("hybi-03", "3", WITH_COOKIE)
