"""What a version of the protocol is, as a value."""

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
        """How many came so far."""
        ...

    def feed(self, data: bytes | bytearray | memoryview, /) -> list[Event]: ...


class Encoder(Protocol):
    """Turns messages into bytes; raises `UnsupportedByVersion` for what there is not.

    Opcodes are those of RFC 6455, whatever a version makes of them.
    """

    def message(self, data: str | bytes, compress: bool | None = None, /) -> bytes:
        """`compress` is as in `WebSocket.send`; it means nothing where no compression is."""
        ...

    def wire_format(self, size: int, /) -> Hashable | None:
        """Encoders with the same one make the same frame of a message of `size` bytes, as long
        as it refers to none before; None where no two frames are the same, because of masks."""
        ...

    def forget_context(self) -> None:
        """What is compressed next refers to no message before it."""
        ...

    def frame(self, opcode: int, payload: bytes, fin: bool = True, /) -> bytes: ...
    def close(self, code: int | None = None, reason: str = "", /) -> bytes: ...
    def answer_close(self, close: Close, initiated: bool, /) -> bytes:
        """What answers the peer's close; `initiated` if ours came first."""
        ...


class Answer(NamedTuple):
    """What accepts a request: the bytes to send, and what the codec must know of it."""

    response: bytes
    secret: bytes = b""


class Offer(NamedTuple):
    """What a client asks for, whatever the version."""

    host: str
    """The Host header: with the port where it is not the default one."""
    target: str
    secure: bool = False
    origin: str | None = None
    subprotocols: Sequence[str] = ()
    headers: Sequence[tuple[str, str]] = ()
    extensions: str = ""
    """The Sec-WebSocket-Extensions header, if there is anything to be in it."""


class Hello(NamedTuple):
    """A client's request, and how to see that the server understood it."""

    request: bytes
    verify: Callable[[Headers, bytes], bytes]
    """Takes the headers of the 101 and the `body_size` bytes after it; gives the codec's
    secret. Raises `ValueError` with what is wrong."""
    body_size: int = 0
    subprotocol_header: str = "Sec-WebSocket-Protocol"
    needs_subprotocol: bool = False
    """Whether the server must take the subprotocol that it is offered."""


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version: how its request is recognised and answered, its codec, what it can do.

    `number` is what `Sec-WebSocket-Version` carries, None before that header existed.
    `find_defect` gives the first thing wrong with a request of this version, or None.
    `decoder` and `encoder` take the secret of the handshake last; the second argument of
    the decoder and the first of the encoder say whether client frames are masked there,
    which is whether it is the server that decodes, or the client that encodes.
    """

    name: str
    number: int | None
    is_asked_for: Callable[[Request], bool]
    find_defect: Callable[[Request], str | None]
    answer: Callable[[Request, str | None, Headers], Answer]
    offered_subprotocols: Callable[[Request], list[str]]
    hello: Callable[[Offer], Hello]
    decoder: Callable[[Limits, bool, bytes], Decoder]
    encoder: Callable[[bool, bytes], Encoder]
    is_native: bool = False
    """Whether its frames are those of RFC 6455, which the native codec reads, and which may
    be compressed."""
    completes_later: bool = False
    """Whether a server has the handshake's last bytes only after its response has begun."""
    has_pings: bool = True
    has_close: bool = True
    close_codes: tuple[tuple[int, int], ...] = ()
    """Codes that this version has under another number: (RFC 6455's, its own)."""

    def __str__(self) -> str:
        return self.name
