"""The codec of the test's end of a WebSocket."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..connection.lifecycle import Codec
from ..engine import IS_NATIVE
from ..protocol.assembly import Event
from ..protocol.client import Established
from ..protocol.message import Encoder as PythonEncoder
from ..protocol.permessage_deflate import Compression, endpoint_parameters
from ..protocol.versions import Version
from ..protocol.versions.rfc6455 import VERSION as RFC_6455
from ..protocol.versions.version import Encoder
from ..settings import Settings

if IS_NATIVE:
    from ..engine import codec as native


class Decoder(Protocol):
    """Turns the bytes of the application into events."""

    def feed(self, data: bytes, /) -> list[Event]: ...


class PeerCodec(NamedTuple):
    decoder: Decoder
    encoder: Encoder


class NativeEncoder(PythonEncoder):
    """The encoder of RFC 6455, whose frames the native engine writes."""

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        return native.write_frame(opcode, bytes(payload), fin, self._random_bytes(4))


def make_codec(version: Version, settings: Settings, established: Established) -> PeerCodec:
    """Return the codec of a client, after its handshake: the native one where it can be used, which
    takes less time."""
    if IS_NATIVE and version is RFC_6455 and established.negotiated is None:
        return PeerCodec(native.Decoder(settings, expect_masked=False), NativeEncoder(mask=True))
    secret = established.secret
    codec = Codec(
        version._make_decoder(settings, False, secret),
        version._make_encoder(True, secret),
        holds_output=False,
    )
    if established.negotiated is not None and isinstance(settings.compression, Compression):
        codec.compress(
            endpoint_parameters(established.negotiated, settings.compression, is_client=True)
        )
    return PeerCodec(codec.decoder, codec.encoder)
