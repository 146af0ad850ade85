"""hixie-75, and hixie-76 which is hybi-00: text between two bytes, and nothing else.

00 text FF is a message. 80 to FF begin frames of a given length, of which hixie-76 made
FF 00 its close. A server may hang up on all others, and on text that is not UTF-8, and this
one does; a client has to skip the first and mend the second.
"""

from __future__ import annotations

from ...errors import UnsupportedByVersion
from .. import check
from ..assembly import (
    STARVED,
    Assembly,
    Broken,
    Close,
    Event,
    Limits,
    Starved,
    StreamDecoder,
)
from ..check import PROTOCOL_ERROR, Violation
from ..frame import Opcode
from ..request import Headers, Request, head
from . import challenge
from .version import Answer, Decoder, Hello, Offer, Version

TEXT_BEGINS = 0x00
TEXT_ENDS = 0xFF
CONTINUES = 0x80
"""The bit of a type that announces a length, and of all bytes of a length but the last."""
CLOSE_FRAME = b"\xff\x00"
SUBPROTOCOL_HEADER_75 = "WebSocket-Protocol"
STATUS_LINE_75 = "HTTP/1.1 101 Web Socket Protocol Handshake"

MAX_LENGTH_BYTES = 10
"""Of seven bits each, enough for 64; more are an attack on whoever adds them up."""

UNKNOWN_FRAME = Violation(PROTOCOL_ERROR, "frame of an unknown type")


class HixieDecoder(StreamDecoder):
    """Reads these frames, as a server; in hixie-75 (`has_close` False) FF 00 is to skip."""

    mends_text = False

    def __init__(self, limits: Limits, has_close: bool) -> None:
        super().__init__(limits)
        self._has_close = has_close

    def _read(self) -> Event | Starved | None:
        if not self._unread:
            return STARVED
        if self._assembly is not None:
            return self._read_text()
        if self._unread[0] == TEXT_BEGINS:
            del self._unread[0]
            self._assembly = Assembly(True, self._limits, self.mends_text)
            self.frames += 1
            return None
        return self._read_other()

    def _read_text(self) -> Event | Starved:
        assert self._assembly is not None
        end = self._unread.find(TEXT_ENDS)
        part = self._take(len(self._unread) if end < 0 else end)
        self._assembly.grow(len(part))
        self._assembly.append(part)
        if end < 0:
            return STARVED
        del self._unread[0]
        return self._finish_message()

    def _read_other(self) -> Event | Starved | None:
        if self._unread[:2] == CLOSE_FRAME[: len(self._unread)]:
            if len(self._unread) < len(CLOSE_FRAME):
                return STARVED
            del self._unread[: len(CLOSE_FRAME)]
            if not self._has_close:
                return None
            self._finished = True
            return Close(check.NO_CODE_RECEIVED, "")
        raise Broken(UNKNOWN_FRAME)


class HixieClientDecoder(HixieDecoder):
    """The same as a client, which skips frames that are neither text nor close.

    They take no memory, but count as messages against the limit on their size.
    """

    mends_text = True

    def __init__(self, limits: Limits, has_close: bool) -> None:
        super().__init__(limits, has_close)
        self._to_skip = 0  # bytes of a frame with a length
        self._skipped: int | None = None  # bytes of a frame that lasts until FF

    def _read(self) -> Event | Starved | None:
        if self._to_skip:
            self._to_skip -= len(self._take(self._to_skip))
            return STARVED if self._to_skip else None
        if self._skipped is not None:
            return self._skip_to_end(self._skipped)
        return super()._read()

    def _skip_to_end(self, skipped: int) -> Starved | None:
        end = self._unread.find(TEXT_ENDS)
        skipped += len(self._unread) if end < 0 else end
        self._check_size(skipped)
        self._skipped = skipped if end < 0 else None
        del self._unread[: len(self._unread) if end < 0 else end + 1]
        return STARVED if end < 0 else None

    def _read_other(self) -> Event | Starved | None:
        kind = self._unread[0]
        if not kind & CONTINUES:
            del self._unread[0]
            self._skipped = 0
            return None
        length, size = self._read_length()
        self._check_size(length)
        if not size:
            return STARVED
        del self._unread[: 1 + size]
        if self._has_close and kind == TEXT_ENDS and length == 0:
            self._finished = True
            return Close(check.NO_CODE_RECEIVED, "")
        self._to_skip = length
        return None

    def _read_length(self) -> tuple[int, int]:
        """The length of the frame, as far as it is here, and in how many bytes: 0 if not all."""
        length = 0
        for size, byte in enumerate(self._unread[1 : MAX_LENGTH_BYTES + 1], 1):
            length = length << 7 | byte & ~CONTINUES
            if not byte & CONTINUES:
                return length, size
        if len(self._unread) > MAX_LENGTH_BYTES:
            raise Broken(check.TOO_BIG)
        return length, 0

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_message_size:
            raise Broken(check.TOO_BIG)


class HixieEncoder:
    """Writes text, and whatever stands for a close."""

    def __init__(self, name: str, close_frame: bytes) -> None:
        self._name = name
        self._close_frame = close_frame

    def message(self, data: str | bytes, _compress: bool | None = None) -> bytes:
        if isinstance(data, str):
            return bytes((TEXT_BEGINS,)) + data.encode() + bytes((TEXT_ENDS,))
        raise UnsupportedByVersion(f"{self._name} has no binary messages")

    def wire_format(self, _size: int) -> str:
        return "hixie"

    def forget_context(self) -> None:
        """There is none."""

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        if opcode in (Opcode.PING, Opcode.PONG):
            raise UnsupportedByVersion(f"{self._name} has no pings")
        if not fin or opcode == Opcode.CONTINUATION:
            raise UnsupportedByVersion(f"{self._name} has no fragments")
        return self.message(payload.decode() if opcode == Opcode.TEXT else payload)

    def close(self, _code: int | None = None, _reason: str = "") -> bytes:
        return self._close_frame

    def answer_close(self, _close: Close, initiated: bool) -> bytes:
        return b"" if initiated else self._close_frame


def is_asked_for_75(request: Request) -> bool:
    """Without any of the headers that came later."""
    return not any(name.lower().startswith("sec-websocket-") for name in request.headers)


def find_defect_75(request: Request) -> str | None:
    if len(request.headers.get_all(SUBPROTOCOL_HEADER_75)) > 1:
        return f"there must be at most one {SUBPROTOCOL_HEADER_75} header"
    return challenge.find_target_defect(request)


def answer_75(request: Request, subprotocol: str | None, extra: Headers) -> Answer:
    """The first 85 bytes are compared by the client, case and order included."""
    fields = challenge.location_fields(request, subprotocol, "")
    return Answer(head(STATUS_LINE_75, fields + extra.fields()))


def hello_75(offer: Offer) -> Hello:
    fields = [
        ("Upgrade", "WebSocket"),
        ("Connection", "Upgrade"),
        ("Host", offer.host),
        ("Origin", challenge.offer_origin(offer)),
        *challenge.only_subprotocol(offer, SUBPROTOCOL_HEADER_75),
    ]

    def verify(headers: Headers, _body: bytes) -> bytes:
        challenge.verify_location(offer, headers, "")
        return b""

    request = head(f"GET {offer.target} HTTP/1.1", [*fields, *offer.headers])
    return Hello(request, verify, subprotocol_header=SUBPROTOCOL_HEADER_75, needs_subprotocol=True)


def decoder_75(limits: Limits, is_server: bool, _secret: bytes) -> Decoder:
    return (HixieDecoder if is_server else HixieClientDecoder)(limits, has_close=False)


def decoder_76(limits: Limits, is_server: bool, secret: bytes) -> Decoder:
    if is_server:
        return challenge.AwaitingKey3(secret, HixieDecoder(limits, has_close=True))
    return HixieClientDecoder(limits, has_close=True)


def encoder_75(_is_client: bool, _secret: bytes) -> HixieEncoder:
    return HixieEncoder("hixie-75", b"")


def encoder_76(_is_client: bool, _secret: bytes) -> HixieEncoder:
    return HixieEncoder("hixie-76", CLOSE_FRAME)


HIXIE_75 = Version(
    name="hixie-75",
    number=None,
    is_asked_for=is_asked_for_75,
    find_defect=find_defect_75,
    answer=answer_75,
    offered_subprotocols=lambda request: request.headers.get_all(SUBPROTOCOL_HEADER_75),
    hello=hello_75,
    decoder=decoder_75,
    encoder=encoder_75,
    has_pings=False,
    has_close=False,
)
HIXIE_76 = Version(
    name="hixie-76",
    number=None,
    is_asked_for=challenge.recogniser("", "0"),
    find_defect=challenge.find_defect,
    answer=challenge.answer,
    offered_subprotocols=lambda request: request.headers.get_all("Sec-WebSocket-Protocol"),
    hello=challenge.greeter(None),
    decoder=decoder_76,
    encoder=encoder_76,
    completes_later=True,
    has_pings=False,
)
