"""A server whose workers a test kills, for test_killed_workers.py."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask, request

from websocket_handler import History, Room, Rooms, WebSocket, WSGIMiddleware


def add_offset(message: str | bytes, offset: str) -> str:
    return f"{offset} {message!s}"


if os.environ.get("HISTORY"):
    kept = History(length=int(os.environ["HISTORY"]))
    rooms = Rooms(os.environ["ROOMS_URL"], history=kept, add_offset=add_offset)
else:
    rooms = Rooms(os.environ["ROOMS_URL"])

application = Flask(__name__)


@application.get("/")
def join() -> Any:
    websocket = WebSocket.of(request)
    if websocket is None:
        return "ready"
    room = rooms[request.args["room"]]
    websocket.on("message", lambda _: answer(websocket, room))
    response = websocket.connect()
    room.add(websocket, request.args["name"], since=request.args.get("since"))
    return response


def answer(websocket: WebSocket, room: Room) -> None:
    """Send the id of this process, and the members of the room that it knows."""
    websocket.send(json.dumps({"worker": os.getpid(), "present": room.presence()}))


wsgi = WSGIMiddleware(application.wsgi_app)
