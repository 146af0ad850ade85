"""hixie-75, and hixie-76, which is hybi-00: text messages between two delimiter bytes.

A message is 00, UTF-8 text, FF. The bytes 80 to FF begin a frame with a length; in hixie-76,
FF 00 is the close frame. A server may close the connection for any other frame and for invalid
UTF-8, and this one does. A client must skip other frames and replace invalid UTF-8.
"""

from __future__ import annotations

from ...errors import UnsupportedByVersion
from .. import check
from ..assembly import (
    NEED_DATA,
    Assembly,
    Close,
    Event,
    Limits,
    NeedData,
    ProtocolViolation,
    StreamDecoder,
)
from ..check import Violation
from ..close_codes import CloseCode
from ..frame import Opcode
from ..request import Headers, Request, head
from . import challenge
from .version import ClientRequest, Decoder, HandshakeResponse, Offer, Version

TEXT_BEGINS = 0x00
TEXT_ENDS = 0xFF
CONTINUES = 0x80
"""The bit of a frame type that is followed by a length, and of all bytes of a length except the
last."""
CLOSE_FRAME = b"\xff\x00"
SUBPROTOCOL_HEADER_75 = "WebSocket-Protocol"
STATUS_LINE_75 = "HTTP/1.1 101 Web Socket Protocol Handshake"

MAX_LENGTH_BYTES = 10
"""The longest length that is read, in bytes of seven bits each: enough for a 64-bit number."""

UNKNOWN_FRAME = Violation(CloseCode.PROTOCOL_ERROR, "frame of an unknown type")


class HixieDecoder(StreamDecoder):
    """The decoder of a server. Without `has_close` (hixie-75) it skips FF 00."""

    replaces_invalid_utf8 = False

    def __init__(self, limits: Limits, has_close: bool) -> None:
        super().__init__(limits)
        self._has_close = has_close

    def _read(self) -> Event | NeedData | None:
        if not self._unread:
            return NEED_DATA
        if self._assembly is not None:
            return self._read_text()
        if self._unread[0] == TEXT_BEGINS:
            del self._unread[0]
            self._assembly = Assembly(True, self._limits, self.replaces_invalid_utf8)
            self.frames += 1
            return None
        return self._read_other()

    def _read_text(self) -> Event | NeedData:
        assert self._assembly is not None
        end = self._unread.find(TEXT_ENDS)
        part = self._take(len(self._unread) if end < 0 else end)
        self._assembly.grow(len(part))
        self._assembly.append(part)
        if end < 0:
            return NEED_DATA
        del self._unread[0]
        return self._finish_message()

    def _read_other(self) -> Event | NeedData | None:
        if self._unread[:2] == CLOSE_FRAME[: len(self._unread)]:
            if len(self._unread) < len(CLOSE_FRAME):
                return NEED_DATA
            del self._unread[: len(CLOSE_FRAME)]
            if not self._has_close:
                return None
            self._finished = True
            return Close(CloseCode.NO_CODE_RECEIVED, "")
        raise ProtocolViolation(UNKNOWN_FRAME)


class HixieClientDecoder(HixieDecoder):
    """The decoder of a client, which skips frames that are neither text nor close.

    A skipped frame takes no memory, but its length is limited by `max_message_size`.
    """

    replaces_invalid_utf8 = True

    def __init__(self, limits: Limits, has_close: bool) -> None:
        super().__init__(limits, has_close)
        self._to_skip = 0  # remaining bytes of a frame with a length
        self._skipped: int | None = None  # bytes so far of a frame that ends with FF

    def _read(self) -> Event | NeedData | None:
        if self._to_skip:
            self._to_skip -= len(self._take(self._to_skip))
            return NEED_DATA if self._to_skip else None
        if self._skipped is not None:
            return self._skip_to_end(self._skipped)
        return super()._read()

    def _skip_to_end(self, skipped: int) -> NeedData | None:
        end = self._unread.find(TEXT_ENDS)
        skipped += len(self._unread) if end < 0 else end
        self._check_size(skipped)
        self._skipped = skipped if end < 0 else None
        del self._unread[: len(self._unread) if end < 0 else end + 1]
        return NEED_DATA if end < 0 else None

    def _read_other(self) -> Event | NeedData | None:
        kind = self._unread[0]
        if not kind & CONTINUES:
            del self._unread[0]
            self._skipped = 0
            return None
        length, size = self._read_length()
        self._check_size(length)
        if not size:
            return NEED_DATA
        del self._unread[: 1 + size]
        if self._has_close and kind == TEXT_ENDS and length == 0:
            self._finished = True
            return Close(CloseCode.NO_CODE_RECEIVED, "")
        self._to_skip = length
        return None

    def _read_length(self) -> tuple[int, int]:
        """Return the length of the frame and the number of bytes that encode it.

        If not all of those bytes have arrived, the second value is 0 and the first is the length
        so far.
        """
        length = 0
        for size, byte in enumerate(self._unread[1 : MAX_LENGTH_BYTES + 1], 1):
            length = length << 7 | byte & ~CONTINUES
            if not byte & CONTINUES:
                return length, size
        if len(self._unread) > MAX_LENGTH_BYTES:
            raise ProtocolViolation(check.TOO_BIG)
        return length, 0

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_message_size:
            raise ProtocolViolation(check.TOO_BIG)


class HixieEncoder:
    """Writes text messages, and `close_frame` (b"" in hixie-75) to close."""

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
        """Do nothing: this version has no compression."""

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


def matches_hixie_75(request: Request) -> bool:
    """Whether the request has none of the headers of later versions."""
    return not any(name.lower().startswith("sec-websocket-") for name in request.headers)


def validation_error_75(request: Request) -> str | None:
    if len(request.headers.get_all(SUBPROTOCOL_HEADER_75)) > 1:
        return f"there must be at most one {SUBPROTOCOL_HEADER_75} header"
    return challenge.target_error(request)


def build_response_75(
    request: Request, subprotocol: str | None, extra: Headers
) -> HandshakeResponse:
    """Return the head of the response.

    The client compares the first 85 bytes exactly, including case and order of the fields.
    """
    fields = challenge.location_fields(request, subprotocol, "")
    return HandshakeResponse(head(STATUS_LINE_75, fields + extra.fields()))


def client_request_75(offer: Offer) -> ClientRequest:
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
    return ClientRequest(
        request, verify, subprotocol_header=SUBPROTOCOL_HEADER_75, needs_subprotocol=True
    )


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
    _matches=matches_hixie_75,
    _validation_error=validation_error_75,
    _build_response=build_response_75,
    _offered_subprotocols=lambda request: request.headers.get_all(SUBPROTOCOL_HEADER_75),
    _client_request=client_request_75,
    _make_decoder=decoder_75,
    _make_encoder=encoder_75,
    _has_pings=False,
    _has_close=False,
)
HIXIE_76 = Version(
    name="hixie-76",
    number=None,
    _matches=challenge.matches_draft("", "0"),
    _validation_error=challenge.validation_error,
    _build_response=challenge.build_response,
    _offered_subprotocols=lambda request: request.headers.get_all("Sec-WebSocket-Protocol"),
    _client_request=challenge.client_request_builder(None),
    _make_decoder=decoder_76,
    _make_encoder=encoder_76,
    _has_late_handshake=True,
    _has_pings=False,
)
