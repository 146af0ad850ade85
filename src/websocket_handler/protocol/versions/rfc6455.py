"""RFC 6455, `Sec-WebSocket-Version: 13`: its handshake is in `accept`, its framing in `message`."""

from __future__ import annotations

from ..assembly import Limits
from ..message import Decoder, Encoder
from . import accept
from .version import Version


def decoder(limits: Limits, expect_masked: bool, _secret: bytes = b"") -> Decoder:
    return Decoder(limits, expect_masked)


def encoder(mask: bool, _secret: bytes = b"") -> Encoder:
    return Encoder(mask)


VERSION = Version(
    name="RFC 6455",
    number=13,
    _matches=accept.matches_version(13),
    _validation_error=accept.strict_validation_error,
    _build_response=accept.build_response,
    _offered_subprotocols=accept.offered_subprotocols,
    _client_request=accept.client_request_builder(13, "Origin"),
    _make_decoder=decoder,
    _make_encoder=encoder,
    _is_native=True,
)
