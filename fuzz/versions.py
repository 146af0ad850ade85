"""The pure-Python codecs of all versions: bytes to events and back."""

from __future__ import annotations

from collections.abc import Iterable

from websocket_handler.protocol.assembly import Close, Completed, Event, Message, Ping, Pong
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import ALL_VERSIONS, Version
from websocket_handler.protocol.versions.version import Decoder

from .wire import AS_SERVER, Wire, check_ends, check_pieces_do_not_matter, typed

SECRET = b"what the handshake gave"
HAS_CLOSE_CODE = ("hybi-06", "hybi-07", "hybi-12", "RFC 6455")  # whose close frames have a code


def read(decoder: Decoder, pieces: Iterable[bytes]) -> list[Event]:
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_one_input(source: bytes) -> None:
    wire = Wire.read(source)
    if wire is None:
        return
    version, is_server = ALL_VERSIONS[wire.choice % len(ALL_VERSIONS)], wire.flags & AS_SERVER != 0
    limits = wire.chosen_limits()
    events = read(version._make_decoder(limits, is_server, SECRET), wire.cut())
    whole = read(version._make_decoder(limits, is_server, SECRET), [wire.data])
    check_pieces_do_not_matter(events, whole, lenient=version.name.startswith("hixie"))
    check_ends(events)
    check_round_trip(wire, version, is_server, events)


def check_round_trip(wire: Wire, version: Version, is_server: bool, events: list[Event]) -> None:
    """Check that the decoder reads back the frames that the encoder writes for the events."""
    data = wire.data[:8] if any(isinstance(event, Completed) for event in events) else b""
    expected = [event for event in events if not isinstance(event, Violation)]
    encoder = version._make_encoder(is_server, SECRET)  # the peer's
    for event in expected:
        if isinstance(event, Message):
            data += encoder.message(event.data)
        elif isinstance(event, Ping | Pong):
            opcode = Opcode.PING if isinstance(event, Ping) else Opcode.PONG
            data += encoder.frame(opcode, event.payload)
        elif isinstance(event, Close):
            data += encoder.close(None if event.code == 1005 else event.code, event.reason)
            for initiated in (False, True):  # by us
                assert version._make_encoder(not is_server, SECRET).answer_close(
                    event, initiated
                ) or (initiated or not version._has_close)
    limits = wire.chosen_limits()
    max_size = 3 * limits.max_message_size  # a hixie client replaces invalid bytes with U+FFFD
    limits = limits._replace(max_message_size=max_size, max_fragments=1)
    again = read(version._make_decoder(limits, is_server, SECRET), [data])
    if version.name not in HAS_CLOSE_CODE and expected and isinstance(expected[-1], Close):
        assert isinstance(again.pop(), Close)
        expected.pop()
    assert typed(again) == typed(expected)
