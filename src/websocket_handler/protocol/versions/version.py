"""The `Version` type: everything in which one version of the protocol differs from another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..assembly import Close, Event, Limits
from ..request import Headers, Request


class Decoder(Protocol):
    """Turns the bytes of one peer into events."""

    @property
    def frames(self) -> int:
        """The number of frames received so far."""
        ...

    def feed(self, data: bytes | bytearray | memoryview, /) -> list[Event]: ...


class Encoder(Protocol):
    """Turns messages into bytes.

    Opcodes are those of RFC 6455; the encoder translates them for its version. Methods raise
    `UnsupportedByVersion` for a feature that the version lacks.
    """

    def message(self, data: str | bytes, compress: bool | None = None, /) -> bytes:
        """Return `data` as one frame.

        `compress` is as in `WebSocket.send`. It has no effect without permessage-deflate.
        """
        ...

    def wire_format(self, size: int, /) -> Hashable | None:
        """Return a key under which the frame of a message of `size` bytes can be shared.

        Encoders that return equal keys produce equal frames for the same message, provided that
        the compression context is empty. Returns None if frames cannot be shared, because each
        has its own masking key.
        """
        ...

    def forget_context(self) -> None:
        """Reset the compression context: the next message refers to no earlier message."""
        ...

    def frame(self, opcode: int, payload: bytes, fin: bool = True, /) -> bytes: ...
    def close(self, code: int | None = None, reason: str = "", /) -> bytes: ...
    def answer_close(self, close: Close, initiated: bool, /) -> bytes:
        """Return the reply to the peer's close frame, which may be empty.

        `initiated` is True if this end sent its close frame first.
        """
        ...


class HandshakeResponse(NamedTuple):
    """The server's 101 response, and the secret that the codec needs (b"" in most versions)."""

    response: bytes
    secret: bytes = b""


class Offer(NamedTuple):
    """The parameters of a client's request, for any version."""

    host: str
    """The Host header: with the port unless it is the default port."""
    target: str
    secure: bool = False
    origin: str | None = None
    subprotocols: Sequence[str] = ()
    headers: Sequence[tuple[str, str]] = ()
    extensions: str = ""
    """The value of Sec-WebSocket-Extensions; "" sends no such header."""


class ClientRequest(NamedTuple):
    """The bytes of a client's request, and the check of the server's response."""

    request: bytes
    verify: Callable[[Headers, bytes], bytes]
    """Takes the headers of the 101 response and the `body_size` bytes after it; returns the
    codec's secret. Raises `ValueError` if the response does not match the request."""
    body_size: int = 0
    """Bytes that follow the head of the response and belong to the handshake."""
    subprotocol_header: str = "Sec-WebSocket-Protocol"
    needs_subprotocol: bool = False
    """Whether the handshake fails if the server does not select the offered subprotocol."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Version:
    """A version of the WebSocket protocol, such as RFC 6455 or hixie-76.

    `name` and `number` are public: `number` is the value of `Sec-WebSocket-Version`, None for
    the versions before that header existed. All other fields are for this library.
    """

    name: str
    number: int | None
    _matches: Callable[[Request], bool]
    """Whether a request asks for this version."""
    _validation_error: Callable[[Request], str | None]
    """Returns the first error of a request for this version, None if it is valid."""
    _build_response: Callable[[Request, str | None, Headers], HandshakeResponse]
    """Takes the request, the selected subprotocol and extra headers."""
    _offered_subprotocols: Callable[[Request], list[str]]
    _client_request: Callable[[Offer], ClientRequest]
    _make_decoder: Callable[[Limits, bool, bytes], Decoder]
    """Takes the limits, whether the decoder is the server's, and the secret of the handshake."""
    _make_encoder: Callable[[bool, bytes], Encoder]
    """Takes whether the encoder is the client's, and the secret of the handshake."""
    _is_native: bool = False
    """Whether the framing is that of RFC 6455: the native codec reads it, and
    permessage-deflate can be negotiated."""
    _has_late_handshake: bool = False
    """Whether a server receives the last bytes of the request after it has sent the response's
    head."""
    _has_pings: bool = True
    _has_close: bool = True
    _close_codes: tuple[tuple[int, int], ...] = ()
    """Close codes with another number in this version: (number in RFC 6455, number here)."""

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Version({self.name!r})"
