"""Ours: rooms_broadcast.py PORT [compressed]. Sends from a thread that is not the engine's."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from broadcasting import lines, obey

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
    """A call to the engine comes before what it sends in that turn, the next one after."""
    for _ in range(2):
        turned = threading.Event()
        default_engine().post(turned.set)
        turned.wait()


server = configure_server(Server(("127.0.0.1", int(sys.argv[1])), Handler))
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in lines():
    obey(line, ROOM, ROOM.send, finish)
