"""This library: rooms_broadcast.py PORT [compressed]. Sends from a thread outside the engine."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from broadcasting import execute, lines

from websocket_handler import Compression, Rooms, configure_server, default_engine

COMPRESSION = Compression(threshold=0) if sys.argv[2:] == ["compressed"] else False
ROOM = Rooms()["all"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = self.websocket
        ws.on("message", ws.send)
        ws.connect(compression=COMPRESSION, ping_interval=None)
        ROOM.add(ws)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 4096


def finish():
    """Wait until all data is sent: the engine runs a posted call before it sends, so the second
    call runs after the data of the first iteration is sent."""
    for _ in range(2):
        iteration_done = threading.Event()
        default_engine()._post(iteration_done.set)
        iteration_done.wait()


server = configure_server(Server(("127.0.0.1", int(sys.argv[1])), Handler))
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in lines():
    execute(line, ROOM, ROOM.send, finish)
