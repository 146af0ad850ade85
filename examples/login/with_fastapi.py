"""FastAPI with WebSockets as requests of ordinary routes: http://localhost:8000/

pip install websocket-handler fastapi itsdangerous uvicorn
"""

from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.sessions import SessionMiddleware

from websocket_handler import ASGIMiddleware, WebSocket
from websocket_handler.servers.uvicorn import WebSocketProtocol

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key="change me")


@app.get("/", response_class=HTMLResponse)
def index():
    return Path(__file__).with_name("echo.html").read_text()


@app.post("/login")
def login(request: Request):
    request.session["user"] = "Ada"
    return "welcome"


@app.get("/echo")
def echo(request: Request):
    ws = WebSocket.of(request)
    if ws is None:
        return Response("We only speak WebSockets here\n", 426)
    if "user" not in request.session:
        return Response("Log in first\n", 401)
    ws.on("message", ws.send)
    return ws.connect()


app = ASGIMiddleware(app)  # outermost: middleware around it would not receive WebSockets


if __name__ == "__main__":
    uvicorn.run(app, port=8000, ws=WebSocketProtocol)
