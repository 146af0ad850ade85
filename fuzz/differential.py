"""The native and the pure-Python codec: the same events for the same bytes."""

from __future__ import annotations

from websocket_handler.engine.codec import Decoder as NativeDecoder
from websocket_handler.engine.codec import write_frame as write_native_frame
from websocket_handler.protocol import check
from websocket_handler.protocol.assembly import Close, Event, Message, Ping, Pong
from websocket_handler.protocol.deflate import Inflater
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import Decoder, close_payload
from websocket_handler.protocol.permessage_deflate import EndpointParameters

from .wire import AS_SERVER, COMPRESSED, DIRECT, TAKEOVER, Wire, check_ends, typed

KEY = b"\x37\xfa\x21\x3d"


def test_one_input(source: bytes) -> None:
    wire = Wire.read(source)
    if wire is None:
        return
    limits, is_server = wire.chosen_limits(), bool(wire.flags & AS_SERVER)
    inflater = parameters = None
    if wire.flags & COMPRESSED:
        bits, takeover = 8 + (wire.choice & 7), bool(wire.flags & TAKEOVER)
        inflater, parameters = (
            Inflater(bits, takeover),
            EndpointParameters(15, False, bits, takeover, 1, 8, 0),
        )
    python = Decoder(limits, is_server, inflater)
    native = NativeDecoder(limits, is_server, parameters)
    all_events: list[Event] = []
    for part in wire.cut():
        expected = python.feed(part)
        taken, events = native.receive_into(part) if wire.flags & DIRECT else (0, [])
        events += native.feed(part[taken:])
        all_events += events
        if beyond_window(parameters, [*events, *expected]):
            return
        assert typed(events) == typed(expected)
    check_ends(all_events)
    for event in all_events:
        check_frame(event, KEY if is_server else None)


def beyond_window(parameters: EndpointParameters | None, events: list[Event]) -> bool:
    """Whether the payload may refer back beyond the negotiated window.

    Whether zlib rejects such a reference depends on the size of its output buffer.
    """
    return (
        parameters is not None
        and parameters.inflate_window_bits < 15
        and check.INVALID_DEFLATE in events
    )


def check_frame(event: Event, key: bytes | None) -> None:
    """Check that both codecs write the same frame for an event."""
    opcode, payload = Opcode.CLOSE, b""
    if isinstance(event, Message):
        is_text = isinstance(event.data, str)
        opcode = Opcode.TEXT if is_text else Opcode.BINARY
        payload = event.data.encode() if isinstance(event.data, str) else event.data
    elif isinstance(event, Ping | Pong):
        opcode, payload = Opcode.PING if isinstance(event, Ping) else Opcode.PONG, event.payload
    elif isinstance(event, Close) and event.code != 1005:
        payload = close_payload(event.code, event.reason)
    assert write_frame(opcode, payload, key=key) == write_native_frame(opcode, payload, key=key)
