"""The stages of a connection in which a client may stop."""

from __future__ import annotations

from ..support.raw_client import RawClient, binary, close, masked, more, raw, text

MIB = 1 << 20
HELLO = text("hello")

STAGES = {
    "at once": b"",
    "in the request line": b"GET /ec",
    "in the head": b"half",
    "after the handshake": b"",
    "in a frame header": raw(b"\x82\xfe")[:3],
    "in a payload": masked(binary(b"x" * 1000))[:500],
    "in a large payload": masked(binary(b"x" * MIB))[: MIB // 2],
    "in a fragmented message": masked(text("one", fin=False), more(b"two", fin=False)),
    "after a message": masked(HELLO),
    "after many messages": masked(*[binary(b"x" * 50_000)] * 10),
    "after a close frame": masked(close(1000)),
    "after a violation": b"\xff\xff",
}
OPENED = list(STAGES)[3:]
"""The stages after the handshake."""


def go_to(client: RawClient, stage: str, target: str = "/echo") -> None:
    if stage in OPENED:
        client.open(target)
        client.sock.sendall(STAGES[stage])
    else:
        head = client.handshake(target)
        client.sock.sendall(head[: len(head) // 2] if STAGES[stage] == b"half" else STAGES[stage])
