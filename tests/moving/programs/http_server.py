"""http.server on a port that the next process shares: `http_server.py PORT`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websocket_handler import ALL_VERSIONS, WebSocket, configure_server, move_connections

from . import mode
from .mode import report


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ws = WebSocket.of(self)
        if ws is None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str(os.getpid()).encode())
            return
        status = mode.refusal(ws.resumed)
        if status:
            self.send_error(status)
            return
        if self.path == "/receive":
            ws.connect()
            for message in ws:
                ws.send(mode.answer(ws, message))
        else:
            ws.on("message", lambda message: ws.send(mode.answer(ws, message)))
            ws.connect(**mode.options())


class Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        super().server_bind()


def main() -> None:
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    configure_server(server, versions=ALL_VERSIONS, compression=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    report(f"ready on port {server.server_port}")
    stop.wait()
    server.shutdown()
    server.socket.close()  # from now on, only the new process accepts connections
    report(move_connections(window=0.5, timeout=mode.timeout()))
    server.server_close()


if __name__ == "__main__":
    main()
