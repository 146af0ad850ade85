"""A chat whose connections stay open when it is deployed: see README.md."""

import os
from pathlib import Path

from flask import Flask, request

from websocket_handler import Rooms, WebSocket, WSGIMiddleware

VERSION = Path(os.environ.get("VERSION_FILE", os.devnull)).read_text() or "1"
app = Flask(__name__)
app.wsgi_app = WSGIMiddleware(app.wsgi_app)
rooms = Rooms(os.environ.get("ROOMS_URL"))  # the URL of a broker, for more than one worker


@app.get("/")
def chat():
    ws = WebSocket.of(request)
    if ws is None:
        return f"version {VERSION}"

    @ws.on("message")
    def receive(message):
        if message.startswith("/ask "):
            ws.send(f"{message[5:]} {VERSION} {os.getpid()}")
        else:
            rooms["chat"].send(message)

    response = ws.connect()
    rooms["chat"].add(ws)
    if not ws.resumed:  # after a deploy, nobody is welcomed again
        ws.send("welcome")
    return response
