"""Sends messages of 32 bytes as fast as each client reads them: feed.py PORT."""

import base64
import hashlib
import re
import sys
from socketserver import StreamRequestHandler, ThreadingTCPServer

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
MESSAGES = (b"\x82\x20" + b"x" * 32) * 1000


class Feed(StreamRequestHandler):
    def handle(self):
        request = b"".join(iter(self.rfile.readline, b"\r\n"))
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request)[1]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.wfile.write(HEAD + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        try:
            while True:
                self.wfile.write(MESSAGES)
        except ConnectionError:
            pass


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Feed).serve_forever()
