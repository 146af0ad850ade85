"""Ours, on http.server: ours.py PORT thread|asyncio|uvloop. Plain Python with
WEBSOCKET_HANDLER_PURE_PYTHON=1."""

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import websocket_handler


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = self.websocket

        @ws.on("message")
        def echo(message):
            ws.send(message)

        ws.connect(max_message_size=1 << 24)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 4096


async def serve_in_loop(server):
    engine = websocket_handler.Engine(asyncio.get_running_loop())
    websocket_handler.configure_server(server, engine=engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    await asyncio.Event().wait()


def main():
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    if sys.argv[2] == "thread":
        websocket_handler.configure_server(server)
        server.serve_forever()
    elif sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(serve_in_loop(server))
    else:
        asyncio.run(serve_in_loop(server))


main()
