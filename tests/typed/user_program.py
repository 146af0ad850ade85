"""A user's program with ten mistakes, each on a line that ends with its number.

`test_user_program` has the type checkers find all of them, and nothing else.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websocket_handler import (
    ConnectionClosed,
    Rooms,
    Settings,
    WebSocket,
    aconnect,
    configure_server,
    connect,
)

rooms = Rooms()


def listen_to_a_list(_: list[int]) -> None: ...


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ws = WebSocket.of(self)
        if ws is None:
            self.send_error(426)
            return

        @ws.on("message")
        def echo(message: str | bytes) -> None:
            ws.send(message)

        @ws.once("close")
        def closed(code: int, reason: str) -> None:
            self.log_message("%d %s", code, reason)

        ws.on("close", listen_to_a_list)  # mistake 1
        ws.on("mesage", ws.send)  # mistake 2
        ws.on("message", 42)  # mistake 3
        ws.connect(max_mesage_size=10)  # mistake 4
        ws.connect(ping_interval="often")  # mistake 5
        ws.send(3.14)  # mistake 6
        message = ws.receive(timeout=1)
        message.nonsense()  # mistake 7
        for item in ws:
            item.nonsense()  # mistake 8


server = configure_server(ThreadingHTTPServer(("localhost", 0), Handler), settings=Settings())
configure_server(server, max_mesage_size=1)  # mistake 9

with connect("ws://localhost/", compresion=True) as client:  # mistake 10
    client.send("hello")


async def main() -> None:
    async with aconnect("ws://localhost/") as ws:
        async for message in ws:
            print(len(message), ws.close_code)
        delivery = rooms["lobby"].send(await ws.areceive())
        print(delivery.sent + 1)
        try:
            ws.send("x", timeout=1.0)
        except ConnectionClosed as closed:
            print(closed.code + 1)
