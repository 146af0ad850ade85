"""An echo server on the standard library's http.server: ws://localhost:8000/

pip install websocket-handler
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websocket_handler import WebSocket, configure_server


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = WebSocket.of(self)
        if ws is None:
            self.send_error(426, "We only speak WebSockets here")
            return
        ws.on("message", ws.send)
        ws.connect()


server = ThreadingHTTPServer(("localhost", 8000), Handler)
configure_server(server)
server.serve_forever()
