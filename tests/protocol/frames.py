"""Frames and codecs for the protocol tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from websocket_handler import IS_NATIVE
from websocket_handler.protocol import message
from websocket_handler.protocol.assembly import Event
from websocket_handler.protocol.deflate import Inflater
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.permessage_deflate import EndpointParameters

KEY = bytes.fromhex("37fa213d")

CONT, TEXT, BINARY = Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG


class Limits(NamedTuple):
    max_message_size: int = 1 << 20
    max_fragments: int = 1000
    max_empty_fragments: int = 100


class Codec(Protocol):
    """The interface of both decoders: the one in Python and the native one."""

    def feed(self, data: bytes) -> list[Event]: ...


Decoders = dict[str, Callable[[Any, bool], Codec]]

DECODERS: Decoders = {"python": message.Decoder}
if IS_NATIVE:
    from websocket_handler.engine import codec

    DECODERS["native"] = codec.Decoder


def python_inflating(limits: Any, masked: bool, window_bits: int, takeover: bool) -> Codec:
    return message.Decoder(limits, masked, Inflater(window_bits, takeover))


INFLATING: dict[str, Callable[[Any, bool, int, bool], Codec]] = {"python": python_inflating}
"""Creates decoders for connections with permessage-deflate."""

if IS_NATIVE and codec.HAS_DEFLATE:

    def native_inflating(limits: Any, masked: bool, window_bits: int, takeover: bool) -> Codec:
        return codec.Decoder(
            limits, masked, EndpointParameters(15, False, window_bits, takeover, 1, 8, 0)
        )

    INFLATING["native"] = native_inflating


def client_frame(opcode: int, payload: bytes = b"", fin: bool = True, key: bytes = KEY) -> bytes:
    """A masked frame, as a client sends it."""
    return write_frame(opcode, payload, fin, key)


def byte_by_byte(decoder: Codec, data: bytes) -> tuple[list[Event], list[int]]:
    """The events of `data` fed one byte at a time, and the number of bytes before each."""
    events: list[Event] = []
    after: list[int] = []
    for count in range(1, len(data) + 1):
        for event in decoder.feed(data[count - 1 : count]):
            events.append(event)
            after.append(count)
    return events, after
