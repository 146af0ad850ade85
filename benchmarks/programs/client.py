"""A client with one connection: client.py LIBRARY URL echo|feed SECONDS.

`echo` sends a message of 32 bytes when the previous one has come back; `feed` only reads. Prints
the number of messages and the CPU time of this process per message.
"""

import asyncio
import json
import os
import sys
import time

MESSAGE = b"x" * 32


class Count:
    """Counts messages, from the 100th on. When the time is over, prints the result and ends the
    process at once: a feed does not answer a close frame."""

    def __init__(self, seconds):
        self.seconds, self.messages = seconds, 0

    def add(self):
        self.messages += 1
        if self.messages == 100:
            self.end = time.monotonic() + self.seconds
            self.cpu = time.process_time()
        elif self.messages > 100 and not self.messages % 16 and time.monotonic() > self.end:
            messages = self.messages - 100
            cpu_us = (time.process_time() - self.cpu) * 1e6 / messages
            print(json.dumps({"messages": messages, "cpu_us": cpu_us}), flush=True)
            os._exit(0)


def ours_thread(url, is_echo, count):
    import threading

    from websocket_handler.client import connect

    with connect(url, ping_interval=None) as ws:

        @ws.on("message")
        def receive(_message):
            count.add()
            if is_echo:
                ws.send(MESSAGE)

        if is_echo:
            ws.send(MESSAGE)
        threading.Event().wait()


async def ours_asyncio(url, is_echo, count):
    from websocket_handler.client import aconnect

    async with aconnect(url, ping_interval=None) as ws:
        if is_echo:
            ws.send(MESSAGE)
        async for _ in ws:
            count.add()
            if is_echo:
                ws.send(MESSAGE)


async def picows(url, is_echo, count):
    from picows import WSListener, WSMsgType, ws_connect

    class Listener(WSListener):
        def on_ws_connected(self, transport):
            if is_echo:
                transport.send(WSMsgType.BINARY, MESSAGE)

        def on_ws_frame(self, transport, frame):
            frame.get_payload_as_bytes()
            count.add()
            if is_echo:
                transport.send(WSMsgType.BINARY, MESSAGE)

    transport, _ = await ws_connect(Listener, url)
    await transport.wait_disconnected()


async def websockets(url, is_echo, count):
    from websockets.asyncio.client import connect

    async with connect(url, compression=None, ping_interval=None) as ws:
        if is_echo:
            await ws.send(MESSAGE)
        async for _ in ws:
            count.add()
            if is_echo:
                await ws.send(MESSAGE)


async def aiohttp(url, is_echo, count):
    from aiohttp import ClientSession

    async with ClientSession() as session, session.ws_connect(url) as ws:
        if is_echo:
            await ws.send_bytes(MESSAGE)
        async for _ in ws:
            count.add()
            if is_echo:
                await ws.send_bytes(MESSAGE)


def websocket_client(url, is_echo, count):
    from websocket import create_connection

    ws = create_connection(url)
    if is_echo:
        ws.send_binary(MESSAGE)
    while ws.recv():
        count.add()
        if is_echo:
            ws.send_binary(MESSAGE)


def main():
    name, url, kind, seconds = sys.argv[1:]
    run = globals()[name.removesuffix("_uvloop")]
    done = run(url, kind == "echo", Count(float(seconds)))
    if name.endswith("_uvloop"):
        import uvloop

        uvloop.run(done)
    elif asyncio.iscoroutine(done):
        asyncio.run(done)


main()
