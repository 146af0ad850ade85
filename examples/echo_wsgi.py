"""The echo server as a WSGI application, under wsgiref: ws://localhost:8000/

pip install websocket-handler
"""

from wsgiref.simple_server import make_server

from websocket_handler import WebSocket, configure_server


def application(environ, start_response):
    ws = WebSocket.of(environ)
    if ws is None:
        start_response("426 Upgrade Required", [("Content-Type", "text/plain")])
        return [b"We only speak WebSockets here\n"]
    ws.on("message", ws.send)
    ws.connect()
    start_response("101 Switching Protocols", [])
    return []


server = make_server("localhost", 8000, application)
configure_server(server)
server.serve_forever()
