"""Fixed workloads, whose instructions instruction_counts.py counts: workloads.py NAME TIMES.

One process has both ends of a socket pair and polls the engine itself, so that the result does
not depend on time or on other threads.
"""

import asyncio
import gc
import socket
import sys

from websocket_handler import Headers, Request, Settings, WebSocket
from websocket_handler.engine.engine import EpollEngine
from websocket_handler.engine.threads import Engine
from websocket_handler.protocol import handshake
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import DEFAULT_VERSIONS

KEY = b"\x01\x02\x03\x04"
SETTINGS = Settings(max_message_size=1 << 24, ping_interval=None)
REQUEST = Request(
    "GET",
    "/",
    Headers(
        {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }.items()
    ),
)


def frames(size, count=1, opcode=Opcode.BINARY):
    return write_frame(opcode, b"x" * size, key=KEY) * count


def open_pair(engine):
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    websocket = WebSocket(REQUEST, SETTINGS, engine=engine)
    return websocket, ours, theirs


def echo(times, data):
    engine = EpollEngine()
    websocket, ours, theirs = open_pair(engine)

    @websocket.on("message")
    def send_back(message):
        websocket.send(message)

    websocket.connect()
    websocket._take_over(ours)
    engine.poll()
    theirs.recv(1 << 16)
    buffer = bytearray(1 << 18)
    for _ in range(times):
        theirs.sendall(data)
        engine.poll()
        engine.poll()
        theirs.recv_into(buffer)


def echo_in_a_coroutine(times, data):
    async def main():
        websocket, ours, theirs = open_pair(Engine(asyncio.get_running_loop()))

        async def send_back():
            async for message in websocket:
                websocket.send(message)

        websocket.connect()
        websocket._take_over(ours)
        task = asyncio.ensure_future(send_back())
        for _ in range(4):
            await asyncio.sleep(0)
        theirs.recv(1 << 16)
        buffer = bytearray(1 << 18)
        for _ in range(times):
            theirs.sendall(data)
            for _ in range(3):
                await asyncio.sleep(0)
            theirs.recv_into(buffer)
        task.cancel()
        await asyncio.sleep(0)

    asyncio.run(main())


def answer(times):
    for _ in range(times):
        handshake.answer(REQUEST, DEFAULT_VERSIONS)


WORKLOADS = {
    "echo of 32 bytes": lambda times: echo(times, frames(32)),
    "echo of 16 messages of 32 bytes": lambda times: echo(times, frames(32, 16)),
    "echo of 128 bytes of text": lambda times: echo(times, frames(128, 1, Opcode.TEXT)),
    "echo of 64 KiB": lambda times: echo(times, frames(1 << 16)),
    "echo of 32 bytes in a coroutine": lambda times: echo_in_a_coroutine(times, frames(32)),
    "16 messages in a coroutine": lambda times: echo_in_a_coroutine(times, frames(32, 16)),
    "answer to a handshake": answer,
}

if __name__ == "__main__":
    gc.disable()
    WORKLOADS[sys.argv[1]](int(sys.argv[2]))
