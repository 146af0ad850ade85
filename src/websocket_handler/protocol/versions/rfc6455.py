"""RFC 6455, `Sec-WebSocket-Version: 13`: handshake in `accept`, framing in `message`."""

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
    is_asked_for=accept.recogniser(13),
    find_defect=accept.find_strict_defect,
    answer=accept.answer,
    offered_subprotocols=accept.offered_subprotocols,
    hello=accept.greeter(13, "Origin"),
    decoder=decoder,
    encoder=encoder,
    is_native=True,
)
