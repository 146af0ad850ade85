"""The application in Starlette and FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect, WebSocketException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount

from websocket_handler import ASGIMiddleware
from websocket_handler import WebSocket as OurWebSocket

from .. import misuse

JOURNAL: list[list[object]] = []

# WebSocket routes in FastAPI's style

app = FastAPI()


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
    JOURNAL.append(["the end"])


@app.websocket("/bytes")
async def echo_bytes(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect as disconnect:
        JOURNAL.append(["disconnect", disconnect.code, disconnect.reason])


@app.websocket("/either")
async def echo_either(websocket: WebSocket) -> None:
    await websocket.accept()
    while (event := await websocket.receive())["type"] == "websocket.receive":
        await websocket.send({**event, "type": "websocket.send"})


@app.websocket("/forbidden")
async def forbidden(websocket: WebSocket) -> None:
    await websocket.send_denial_response(Response("not you\n", 403))


@app.websocket("/exception")
async def exception(_: WebSocket) -> None:
    raise WebSocketException(4003, "not you")


@app.get("/journal")
async def journal() -> Any:
    return JOURNAL


@app.get("/plain")
async def plain() -> Any:
    return "plain\n"


# Ordinary routes, with sessions

ordinary = FastAPI(middleware=[Middleware(SessionMiddleware, secret_key="secret")])


@ordinary.get("/login")
async def login(request: Request) -> Any:
    request.session["user"] = "Ada"
    return "welcome\n"


@ordinary.get("/echo")
def answer(request: Request) -> Any:
    """Not `async`: FastAPI calls it in a thread."""
    ws: OurWebSocket | None = request.scope["websocket"]
    if ws is None:
        return Response("We only speak WebSockets here\n", 426)
    if "user" not in request.session:
        return Response("who are you?\n", 401)
    ws.on("message", ws.send)
    return ws.connect(max_message_size=1 << 22)


@ordinary.get("/misuse/{kind}")
async def misused(kind: str, request: Request) -> Any:
    result = misuse.connect(request.scope["websocket"], kind)
    return {"forgets": None, "body": "nobody sees this"}.get(kind, result)


app.router.routes.append(Mount("/ordinary", ASGIMiddleware(ordinary)))
