"""WebSockets on an HTTP server for which there is no integration: ws://localhost:8000/

`TinyHTTP` represents such a server: it reads a request, calls the application and writes the
returned response. `WebSocketTinyHTTP` is the complete integration. docs/servers.md explains it
step by step.

pip install websocket-handler
"""

import socketserver

from websocket_handler import Headers, Request, SocketHandover, WebSocket, is_websocket_request


class TinyHTTP(socketserver.StreamRequestHandler):
    def handle(self):
        request_line = self.rfile.readline().decode()
        if not request_line:
            return
        method, target, _version = request_line.split()
        headers = {}
        while line := self.rfile.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.title()] = value.strip()
        status, body = self.respond(method, target, headers)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def respond(self, method, target, headers):
        return application(None)


class WebSocketTinyHTTP(TinyHTTP):
    def respond(self, method, target, headers):
        if not is_websocket_request(method, headers):
            return application(None)
        request = Request(method, target, Headers(headers.items()))
        handover = SocketHandover(self.connection, self.rfile)
        try:
            status, body = application(WebSocket(request, handover=handover))
            handover.complete(int(status[:3]), body=body)
        except BaseException:
            handover.abort()
            raise
        return status, body


def application(ws):
    if ws is None:
        return "426 Upgrade Required", b"We only speak WebSockets here\n"
    ws.on("message", ws.send)
    return "200 OK", ws.connect().encode()


socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("localhost", 8000), WebSocketTinyHTTP)
server.serve_forever()
