"""Writes the seeds of all targets into a folder: python -m fuzz.seeds FOLDER."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from websocket_handler.protocol.frame import FIN, RSV1, Opcode, write_frame
from websocket_handler.protocol.message import Encoder
from websocket_handler.protocol.versions import ALL_VERSIONS, by_name

from .wire import ALLOW_1004, AS_SERVER, COMPRESSED, DIRECT, NO_MEMORY, TAKEOVER, Wire

EXAMPLES = Path(__file__).parent.parent / "tests" / "protocol" / "examples.json"
MAX_SEED_BYTES = 2048  # longer inputs slow down fuzzing without finding more
KEY = bytes.fromhex("37fa213d")
RFC_6455 = {  # section 5.7, and other cases
    "masked": "818537fa213d7f9f4d5158",
    "unmasked": "810548656c6c6f",
    "fragments": "010348656c80026c6f",
    "ping": "890548656c6c6f",
    "pong masked": "8a8537fa213d7f9f4d5158",
    "256 bytes": "827e0100+00*256",
    "64 KiB begun": "827f0000000000010000+61*9",
    "close": "880203e8",
    "close with a reason": "880703e968c3a920",
    "no code": "8800",
    "1004": "880203ec",
    "short close": "880103",
    "bad code": "88020000",
    "bad reason": "880303e8ff",
    "bad text": "8103eda080",
    "overlong text": "8103e08080",
    "all of UTF-8": "8110e0a080ed9fbff0908080f48fbfbfc280",
    "4 bytes of UTF-8, cut": "0102f09f80029880",
    "ping between fragments": "01014889000000800165",
    "empty fragments": "020000000000000080007f",
    "reserved bit": "a10148",
    "reserved opcode": "8300",
    "long control": "897e0080",
    "fragmented control": "0900",
    "stray continuation": "8001ff",
    "interleaved": "010148010148",
    "long form": "817e0001",
    "negative length": "817fffffffffffffffff",
    "huge": "827f0000000001000000",
}
RFC_7692 = {  # section 7.2.3
    "one block": "c107f248cdc9c90700",
    "two fragments": "4103f248cd8004c9c90700",
    "shared window": "c107f248cdc9c90700c105f200110000",
    "no compression": "c10b000500faff48656c6c6f00",
    "last block": "c108f348cdc9c9070000",
    "two blocks": "c10df248050000 00ffffcac9c90700",
    "nothing": "c100",
    "nothing, deflated": "c10100",
    "on a control frame": "c900",
    "bad": "c104ffffffff",
}


def masked(wire: bytes) -> bytes:
    """Return a server's frames, masked as a client sends them."""
    out = b""
    while len(wire) > 1:
        length, start = wire[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(wire[2:start], "big")
        if start + length > len(wire):
            return out + wire[:1] + bytes((wire[1] | 0x80,)) + wire[2:start] + KEY
        payload = wire[start : start + length]
        out += write_frame(wire[0] & ~FIN, payload, bool(wire[0] & FIN), KEY)
        wire = wire[start + length :]
    return out + wire


def deflated(level: int, takeover: bool) -> bytes:
    """Return some messages as another implementation might compress them."""
    wire = b""
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    for text in ("Hello, hello, Hello " * 20, "Hellö", "", "hello" * 900, "*" * 300_000):
        if not takeover:
            stream = zlib.compressobj(level, zlib.DEFLATED, -15)
        data = stream.compress(text.encode()) + stream.flush(zlib.Z_SYNC_FLUSH)
        wire += write_frame(Opcode.TEXT | RSV1, data.removesuffix(b"\x00\x00\xff\xff"))
    return wire


def wires() -> Iterator[Wire]:
    """Yield inputs for the two codecs of RFC 6455."""
    for text in RFC_6455.values():
        wire = read_bytes(text)
        yield Wire(0, 0, 0, b"\x00", wire)
        yield Wire(AS_SERVER | DIRECT, 7, 0, b"\x03\x00", masked(wire))
        yield Wire(AS_SERVER | ALLOW_1004, 2 | 2 << 3 | 1 << 5, 0, b"\x01", masked(wire))
    for text in RFC_7692.values():
        wire = bytes.fromhex(text)
        for flags in (COMPRESSED, COMPRESSED | TAKEOVER):
            yield Wire(flags, 0, 7, b"\x00", wire)
            yield Wire(flags | AS_SERVER, 2, 0, b"\x02", masked(wire))
    for level in (0, 1, 9):
        for flags in (COMPRESSED, COMPRESSED | TAKEOVER):
            wire = deflated(level, bool(flags & TAKEOVER))
            yield Wire(flags, 0, 7, b"\x00", wire)
            yield Wire(flags | AS_SERVER, 5, 7, b"\x11\x05", masked(wire))
    for choice in range(0, 40, 8):  # the number of memory requests before one fails
        wire = read_bytes(RFC_6455["fragments"]) + write_frame(2, b"x" * 900)
        yield Wire(NO_MEMORY, 0, choice, b"\x03", wire)
        yield Wire(NO_MEMORY | DIRECT, 0, choice, b"\x03\x00", wire)
        yield Wire(NO_MEMORY | COMPRESSED, 0, choice | 7, b"\x05", deflated(9, False))
    both = Encoder(mask=True).message("x" * 600) + Encoder(mask=True).close(1000, "bye")
    yield Wire(AS_SERVER | DIRECT, 0, 0, b"\x14\xff", both)


def read_bytes(text: str) -> bytes:
    """Parse the notation of the examples: "00+61*3" stands for 00616161."""
    start, plus, repeated = text.partition("+")
    byte, _, times = repeated.partition("*")
    return bytes.fromhex(start) + (bytes.fromhex(byte) * int(times) if plus else b"")


def examples() -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = json.loads(EXAMPLES.read_text())
    return loaded


def version_wires() -> Iterator[Wire]:
    for example in examples():
        number = ALL_VERSIONS.index(by_name(str(example["version"])))
        frames = example["frames"]
        assert isinstance(frames, list)
        for role in "CS":
            wire = b"".join(read_bytes(data) for end, data in frames if end == role)
            key3 = bytes.fromhex(str(example["request_body"])) if role == "C" else b""
            yield Wire(AS_SERVER if role == "C" else 0, 0, number, b"\x00", key3 + wire)
            yield Wire(AS_SERVER if role == "C" else 0, 3, number, b"\x03\x01", key3 + wire)
    for number, version in enumerate(ALL_VERSIONS):
        for is_server in (False, True):
            encoder = version._make_encoder(is_server, b"what the handshake gave")
            wire = b"12345678" if is_server and version._has_late_handshake else b""
            wire += encoder.message("h\u00e9llo") + encoder.message("x" * 300)
            if version._has_pings:
                wire += encoder.message(b"\x00\xff") + encoder.frame(Opcode.PING, b"ping")
                wire += encoder.frame(Opcode.TEXT, b"a", False)
                wire += encoder.frame(Opcode.CONTINUATION, b"b") + encoder.frame(Opcode.PONG, b"")
            wire += encoder.close(1000, "bye")
            yield Wire(AS_SERVER if is_server else 0, 0, number, b"\x00\x02", wire)


OFFERS = (
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    'permessage-deflate; server_max_window_bits="10"; client_max_window_bits=9, permessage-deflate',
    "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=16",
)
URLS = (
    "ws://example.com/demo?a=b",
    "wss://[::1]:9001",
    "ws://b\u00fccher.example:80/",
    "http://a#b",
)


def handshakes() -> Iterator[bytes]:
    for example in examples():
        version = ALL_VERSIONS.index(by_name(str(example["version"])))
        request, response = example["request"], example["response"]
        assert isinstance(request, list)
        assert isinstance(response, list)
        for options in (0x1E, 0x27):
            yield bytes((0, options)) + "\r\n".join([*request, "", ""]).encode()
        lines = [
            "Sec-WebSocket-Accept: {accept}" if line.startswith("Sec-WebSocket-Accept") else line
            for line in response
        ]
        body = b"{answer}" if example["response_body"] else b""
        for options, piece in ((0, 0), (1, 7)):
            answer = "\r\n".join([*lines, "", ""]).encode() + body + b"\x00frames"
            yield bytes((1, options, version, piece)) + answer
    head = "GET /chat?a=%20b&c HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n"
    head += "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head += 'Sec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\nCookie: a=b; c="d"\r\n'
    reply = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    reply += "Sec-WebSocket-Accept: {accept}\r\n"
    for offer in OFFERS:
        for options in (0x10, 0x22, 0x3F):
            text = f"Sec-WebSocket-Extensions: {offer}\r\nSec-WebSocket-Protocol: chat, b\r\n\r\n"
            yield bytes((0, options)) + (head + text).encode()
            yield bytes((1, options, 0, 0)) + (reply + text).encode()
    for refusal in (
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nno\r\n0\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\nno",
    ):
        yield bytes((1, 0, 0, 0)) + refusal.encode()
    for http_version in ("2", "1.0", "\u00b2", "1" * 30, ""):
        text = head.replace("HTTP/1.1", f"HTTP/{http_version}") + "\r\n"
        yield bytes((0, 4)) + text.encode("latin-1")
    for url in URLS:
        yield bytes((2, 0)) + url.encode()


def deflates() -> Iterator[bytes]:
    messages = (b"Hello", b"hello, " * 40, bytes(range(256)) * 2, b"\x00")
    tape = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    for bits in range(16):
        yield bytes((bits, bits, 15 - bits, 2 * bits, 255 - 16 * bits)) + tape


TURN, DROP = bytes((12, 0)), bytes((11, 0))


def engines() -> Iterator[bytes]:
    """Yield inputs of frames, polls, actions of the application and ways to end."""
    hello, ping = bytes((0x14, 0x85)) + b"hello", bytes((0x94, 0x84)) + b"ping"
    closing = bytes((0x84, 0x82)) + b"\x03\xe8"
    read = bytes((10, 255))
    for version in range(len(ALL_VERSIONS)):
        for flags in (0, 1, 8, 9, 16, 32, 64):
            yield bytes((flags, version, 0, 0)) + hello + TURN + ping + TURN + closing + TURN + read
    for flags in range(0, 128, 3):
        number = flags % 17
        tape = hello + TURN + bytes((7, number)) + TURN + bytes((8, number + 1)) + hello + TURN
        for limits in range(4):
            head = bytes((flags, limits * len(ALL_VERSIONS), 1, number, number + 2))
            yield head + tape + read + TURN + DROP
            yield head + tape * 2 + bytes((9, 0)) + TURN + read


def main(folder: Path) -> None:
    wire_seeds = [wire.write() for wire in wires()]
    seeds = {
        "decoder": wire_seeds,
        "differential": wire_seeds,
        "deflate": list(deflates()),
        "versions": [wire.write() for wire in version_wires()],
        "handshake": list(handshakes()),
        "engine": list(engines()),
    }
    for target, inputs in seeds.items():
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        for source in inputs:
            name = hashlib.sha1(source, usedforsecurity=False).hexdigest()[:12]
            (place / name).write_bytes(source[:MAX_SEED_BYTES])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
