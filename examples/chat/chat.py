"""The chat itself: who is in which room, and what they say. It knows no web framework.

With a broker's URL in `CHAT_BROKER` (redis://… or nats://…) a room is one room in all
processes that use it, and those who were away get what they have missed.

The page and this talk in JSON. The page says `{"id", "text"}`, and is told, by `type`:

    welcome  name, server      who you are, and which of several servers this is;
             settling          ms in which you are told of some who were there before you
    message  id, name, text, at, offset      `id` is the page's own; `offset` with a broker
    present  who               name -> connections: first when you are in, then at each change
    lost                       messages may be missing
"""

import contextlib
import json
import os
import threading
import time
import unicodedata
from typing import Any

from websocket_handler import BusSettings, ConnectionClosed, History, Room, Rooms, WebSocket

LONGEST_NAME = 40
LONGEST_TEXT = 2000
LARGEST_ROOM = 500
"""Members in one process: each gets the list of all, whenever one comes or goes."""

COLLECTED = 0.05
"""Seconds in which those who come and go are told of together."""

SETTLING = 1000
"""Milliseconds that it may take until the other servers have told who is there."""

BROKER = os.environ.get("CHAT_BROKER")
SERVER = os.environ.get("CHAT_SERVER", "")


def add_offset(message: str | bytes, offset: str) -> str:
    return json.dumps({**json.loads(message), "offset": offset})


if BROKER:
    # Those of a server that was killed are gone after 10 s, unless they have come back.
    settings = BusSettings(presence_ttl=10.0)
    rooms = Rooms(
        BROKER, history=History(length=1000), add_offset=add_offset, bus_settings=settings
    )
else:
    rooms = Rooms()


def tidy(name: str | None) -> str:
    """The name of a person or a room in one line; empty if it is too long or cannot be read."""
    name = " ".join((name or "").split())
    has_control = any(unicodedata.category(character) == "Cc" for character in name)
    is_visible = any(character.isprintable() for character in name)
    return name if is_visible and not has_control and len(name) <= LONGEST_NAME else ""


def join(ws: WebSocket, name: str | None) -> Any:
    """Have `name` join the room that the query names (`room`, `since`); what `connect` returns."""
    room = rooms[tidy(asked(ws, "room"))]
    if not name:
        return ws.reject(4401, "log in first")
    if not room.name:
        return ws.reject(4400, f"a room's name has 1 to {LONGEST_NAME} characters")
    if len(room) >= LARGEST_ROOM:
        return ws.reject(4409, "the room is full")
    ws.on("message", lambda message: say(ws, room, name, message))
    answer = ws.connect(max_message_size=16 * 1024)
    settling = SETTLING if BROKER else 0
    welcome = {"type": "welcome", "name": name, "server": SERVER, "settling": settling}
    ws.send(json.dumps(welcome))
    room.add(ws, name, since=asked(ws, "since") if BROKER else None)
    return answer


def asked(ws: WebSocket, parameter: str) -> str | None:
    return ws.request.query.get(parameter, [None])[0]


def say(ws: WebSocket, room: Room, name: str, message: str | bytes) -> None:
    try:
        content = understand(message)
    except (ValueError, RecursionError):
        ws.close(1008, "not a message of this chat")
        return
    at = round(time.time() * 1000)
    room.send(json.dumps({"type": "message", "name": name, "at": at, **content}))


def understand(message: str | bytes) -> dict[str, str]:
    """ValueError for what a page would not send."""
    match json.loads(message):
        case {"id": str(id_), "text": str(text)}:
            if len(id_) <= 40 and text.strip() and len(text) <= LONGEST_TEXT:
                return {"id": id_, "text": text}
    raise ValueError("not a message of this chat")


# Who is there

changed: set[Room] = set()
changing = threading.Lock()
telling = threading.Lock()


@rooms.on("presence")
def presence_changed(room: Room) -> None:
    """A listener must not wait, and many may come at once: they are told of a little later."""
    with changing:
        if room in changed:
            return
        changed.add(room)
    timer = threading.Timer(COLLECTED, tell_present, [room])
    timer.daemon = True
    timer.start()


def tell_present(room: Room) -> None:
    with telling:  # one after the other, so that the last list told is the newest
        with changing:
            changed.discard(room)
        tell_here(room, type="present", who=room.presence())


@rooms.on("lost")
def lost(room: Room, count: int | None) -> None:
    tell_here(room, type="lost")


@rooms.on("missed")
def missed(room: Room, member: WebSocket, count: int | None) -> None:
    """What came after its `since` is not kept any more."""
    with contextlib.suppress(ConnectionClosed):
        member.send(json.dumps({"type": "lost"}))


def tell_here(room: Room, **content: Any) -> None:
    """Tell the members in this process; the others are told by theirs."""
    message = json.dumps(content)
    for member in room:
        with contextlib.suppress(ConnectionClosed):
            member.send(message)
