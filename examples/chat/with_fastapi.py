"""FastAPI: http://localhost:8000/

pip install websocket-handler fastapi itsdangerous python-multipart uvicorn
"""

from pathlib import Path
from typing import Annotated

import chat
import uvicorn
from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.sessions import SessionMiddleware

from websocket_handler import ASGIMiddleware, WebSocket
from websocket_handler.servers.uvicorn import WebSocketProtocol

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key="change me")


@app.get("/", response_class=HTMLResponse)
def index():
    return Path(__file__).with_name("chat.html").read_text()


@app.post("/login")
def login(request: Request, name: Annotated[str, Form()] = ""):
    request.session["name"] = chat.tidy(name)
    if not request.session["name"]:
        return Response("A name must have 1 to 40 characters\n", 400)
    return Response("welcome\n")


@app.get("/chat")
def join(request: Request):
    ws = WebSocket.of(request)
    if ws is None:
        return Response("We only speak WebSockets here\n", 426)
    return chat.join(ws, request.session.get("name"))


app = ASGIMiddleware(app)  # outermost: middleware around it would not receive WebSockets


if __name__ == "__main__":
    uvicorn.run(app, port=8000, ws=WebSocketProtocol)
