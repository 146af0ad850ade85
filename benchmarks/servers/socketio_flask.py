"""An echo of Socket.IO in Flask: with this library if SOCKETIO=ours, else with Flask-SocketIO's
own servers."""

import os
import time

from flask import Flask, request
from flask_socketio import SocketIO

app = Flask(__name__)
is_ours = os.environ["SOCKETIO"] == "ours"
sio = SocketIO(app, async_mode="threading" if is_ours else "gevent")
if is_ours:
    from websocket_handler.socketio import serve

    serve(sio)


@sio.on("echo")
def echo(data):
    return data


@app.get("/emit")
def emit():
    text = "x" * int(request.args["size"])
    begin = time.time()
    sio.emit("news", [begin, text])
    return str(time.time() - begin)
