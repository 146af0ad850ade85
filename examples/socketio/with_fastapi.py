"""A chat with socketio.AsyncServer: http://localhost:8000/. `python run.py fastapi` starts it.

pip install websocket-handler[socketio] fastapi uvicorn; npm install
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

import socketio
from websocket_handler.socketio import serve

HERE = Path(__file__).parent

sio = serve(socketio.AsyncServer(async_mode="asgi"))
api = FastAPI()
api.mount("/client", StaticFiles(directory=HERE / "node_modules/socket.io-client/dist"))
app = socketio.ASGIApp(sio, api)
names = {}


@api.get("/", response_class=HTMLResponse)
def index():
    return (HERE / "chat.html").read_text()


@sio.event
async def join(sid, name):
    names[sid] = str(name)[:40] or "nobody"
    await sio.enter_room(sid, "chat")
    await sio.emit("members", sorted(names.values()), to="chat")


@sio.event
async def say(sid, text):
    if sid in names:
        await sio.emit("said", [names[sid], str(text)[:1000]], to="chat")
    return "delivered"


@sio.event
async def disconnect(sid):
    if names.pop(sid, None):
        await sio.emit("members", sorted(names.values()), to="chat")
