"""The memory of idle compressed connections, compared with zlib alone: `make bench-deflaters`.

Each connection has exchanged a compressed message of 4 KiB and is idle since then: with default
settings, and with context takeover and windows of 12 bits. The result is the resident user-space
memory of the server per connection, with the engine in a thread.
"""

from __future__ import annotations

import argparse
import base64
import os
import resource
import socket
import subprocess
import sys
import zlib

from messages import json_message
from scenarios import Running, _ours

FIRST_PORT = 7400
MESSAGE = json_message(4096)
HEAD = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
ZLIB_ALONE = """
import sys, zlib
from messages import json_message

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10

def stream():
    deflater = zlib.compressobj(1, zlib.DEFLATED, -12, 8)
    payload = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
    inflater = zlib.decompressobj(-12)
    inflater.decompress(payload)
    return deflater, inflater

message, count = json_message(4096), int(sys.argv[1])
kept = [stream() for _ in range(100)]
before = resident()
kept += [stream() for _ in range(count)]
print((resident() - before) / count)
"""


def frame(payload: bytes) -> bytes:
    """Return a compressed text message as a client sends it, with a masking key of zeros."""
    return b"\xc1\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def exchange(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(HEAD.format(base64.b64encode(os.urandom(16)).decode()).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert b"permessage-deflate" in head
    deflater = zlib.compressobj(1, zlib.DEFLATED, -12, 8)
    payload = (deflater.compress(MESSAGE) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    sock.sendall(frame(payload))
    start = sock.recv(4, socket.MSG_WAITALL)
    assert start[:2] == b"\xc1\x7e", start
    body = sock.recv(int.from_bytes(start[2:], "big"), socket.MSG_WAITALL)
    assert zlib.decompressobj(-15).decompress(body + b"\x00\x00\xff\xff") == MESSAGE
    return sock


def memory(style: str, port: int, connections: int) -> float:
    server = Running(_ours(style, "thread", style), port)
    try:
        kept = [exchange(port) for _ in range(100)]
        before = server.memory()
        kept += [exchange(port) for _ in range(connections)]
        return (server.memory() - before) / connections
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--takeover", type=int, default=2_000, help="connections with takeover")
    options = parser.parse_args()
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    by_default = memory("compression-by-default", FIRST_PORT, options.connections)
    print(f"{options.connections} with default settings: {by_default:.0f} bytes each")
    takeover = memory("takeover", FIRST_PORT + 1, options.takeover)
    words = [sys.executable, "-c", ZLIB_ALONE, str(options.takeover)]
    alone = float(subprocess.run(words, capture_output=True, check=True).stdout)
    print(
        f"{options.takeover} with takeover, 12 bits: {takeover:.0f} bytes each, "
        f"{takeover / alone:.3f} × the memory of zlib alone ({alone:.0f})"
    )


main()
