"""An echo server whose listener sleeps for a second at the message "sleep": blocking.py PORT."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import websocket_handler


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = self.websocket

        @ws.on("message")
        def echo(message):
            if message == "sleep":
                time.sleep(1)
            ws.send(message)

        ws.connect()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 4096


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
websocket_handler.configure_server(server)
server.serve_forever()
