"""This library on http.server: ours.py PORT thread|asyncio|uvloop [coroutine|COMPRESSION].

WEBSOCKET_HANDLER_PURE_PYTHON=1 selects the pure-Python engine.
"""

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from secure import context

import websocket_handler

TASKS = set()
COMPRESSION = {
    "compressed": websocket_handler.Compression(threshold=0),
    "compression-by-default": websocket_handler.Compression(),
    "takeover": websocket_handler.Compression(
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        server_max_window_bits=12,
        client_max_window_bits=12,
    ),
}


class Handler(BaseHTTPRequestHandler):
    loop = None  # the event loop that runs the coroutines, if any
    compression = False

    def do_GET(self):
        ws = self.websocket
        if self.loop is None:

            @ws.on("message")
            def echo(message):
                ws.send(message)

        ws.connect(max_message_size=1 << 24, compression=self.compression)
        if self.loop is not None:
            self.loop.call_soon_threadsafe(start, ws)

    def log_message(self, *_):
        pass


async def echo_each(ws):
    async for message in ws:
        ws.send(message)


def start(ws):
    task = asyncio.ensure_future(echo_each(ws))
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)


class Server(ThreadingHTTPServer):
    request_queue_size = 4096


async def serve_in_loop(server, style):
    if style == ["coroutine"]:
        Handler.loop = asyncio.get_running_loop()
    engine = websocket_handler.Engine(asyncio.get_running_loop())
    websocket_handler.configure_server(server, engine=engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    await asyncio.Event().wait()


def main():
    port, mode, *style = sys.argv[1:]
    if style and style[0] in COMPRESSION:
        Handler.compression = COMPRESSION[style[0]]
    server = Server(("127.0.0.1", int(port)), Handler)
    if (secure := context()) is not None:
        server.socket = secure.wrap_socket(server.socket, server_side=True)
    if mode == "thread":
        websocket_handler.configure_server(server)
        server.serve_forever()
    elif mode == "uvloop":
        import uvloop

        uvloop.run(serve_in_loop(server, style))
    else:
        asyncio.run(serve_in_loop(server, style))


main()
