"""Compressed messages on the wire, as a client sends and reads them."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from urllib.parse import quote

from websocket_handler import Compression
from websocket_handler.protocol.deflate import TAIL
from websocket_handler.protocol.frame import RSV1, FrameStart, Opcode

from .programs import Program
from .raw_client import Frame, RawClient

EXTENSIONS = "Sec-WebSocket-Extensions"
MIB = 1 << 20


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def compressed(data: str, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT | RSV1, deflated(data.encode()), fin)


def open_raw(program: Program, compression: Compression | bool = True) -> RawClient:
    client = RawClient(program.address)
    offer = {EXTENSIONS: "permessage-deflate; client_max_window_bits"}
    client.sock.sendall(client.handshake(target("/echo", compression), offer))
    response = client.expect_opened()
    agreed = response.headers.get(EXTENSIONS.lower(), [""])[0]
    assert agreed.startswith("permessage-deflate" if compression else "")
    return client


def read_frame(client: RawClient) -> tuple[bool, Frame]:
    """Returns whether the next frame is marked as compressed, and the frame."""
    first, second = client.read(2)
    start = FrameStart.read(first & ~RSV1, second)
    length = start.short_length
    if start.length_size:
        length = int.from_bytes(client.read(start.length_size), "big")
    return bool(first & RSV1), Frame(start.opcode, client.read(length), start.fin)


def target(route: str, compression: Compression | bool, **others: object) -> str:
    """A target whose WebSocket is connected with these settings."""
    chosen = asdict(compression) if isinstance(compression, Compression) else compression
    fields = {"compression": chosen, "max_message_size": MIB, **others}
    return route + "?" + "&".join(f"{k}={quote(json.dumps(v))}" for k, v in fields.items())
