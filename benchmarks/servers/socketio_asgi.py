"""An echo of Socket.IO with AsyncServer: with this library if SOCKETIO=ours, else stock."""

import os
import time
from urllib.parse import parse_qs

import socketio

sio = socketio.AsyncServer(async_mode="asgi")
if os.environ["SOCKETIO"] == "ours":
    from websocket_handler.socketio import serve

    serve(sio)


@sio.on("echo")
async def echo(_, data):
    return data


async def emit(scope, _, send):
    if scope["type"] != "http":
        return
    size = int(parse_qs(scope["query_string"].decode())["size"][0])
    begin = time.time()
    await sio.emit("news", [begin, "x" * size])
    took = str(time.time() - begin).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": took})


app = socketio.ASGIApp(sio, emit)
