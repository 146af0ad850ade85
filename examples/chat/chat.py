"""The chat logic: rooms, members and messages. It is independent of the web framework.

All processes of this machine share the rooms, and members that reconnect receive the messages they
missed. If `CHAT_BROKER` is the URL of a broker (redis://… or nats://…), the processes of all
machines that use it share them.

The page and the server exchange JSON. The page sends `{"id", "text"}`. The server sends, by `type`:

    welcome  name, server      the member's name, and the name of this server;
             settling          ms until the list of present members is complete
    message  id, name, text, at, offset      `id` is from the page
    present  who               name -> connections: after joining, and at each change
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

MAX_NAME_LENGTH = 40
MAX_TEXT_LENGTH = 2000
MAX_MEMBERS = 500
"""The limit of members per room and process: each change sends the whole list to all of them."""

PRESENCE_DELAY_S = 0.05
"""The time in which changes of presence are combined into one message."""

SETTLING_MS = 1000
"""The time that other processes may need to report their members."""

BROKER = os.environ.get("CHAT_BROKER", "local://chat")
SERVER = os.environ.get("CHAT_SERVER")


def add_offset(message: str | bytes, offset: str) -> str:
    return json.dumps({**json.loads(message), "offset": offset})


# With a broker, members of a killed server disappear after 10 s, unless they reconnect.
settings = BusSettings(presence_ttl=10.0)
rooms = Rooms(BROKER, history=History(length=1000), add_offset=add_offset, bus_settings=settings)


def tidy(name: str | None) -> str:
    """Return the normalized name of a user or room; empty if it is too long or not printable."""
    name = " ".join((name or "").split())
    has_control = any(unicodedata.category(character) == "Cc" for character in name)
    is_visible = any(character.isprintable() for character in name)
    return name if is_visible and not has_control and len(name) <= MAX_NAME_LENGTH else ""


def join(ws: WebSocket, name: str | None) -> Any:
    """Add the user `name` to the room in the query (`room`, `since`).

    Returns the response, which the route must return.
    """
    room = rooms[tidy(asked(ws, "room"))]
    if not name:
        return ws.reject(4401, "log in first")
    if not room.name:
        return ws.reject(4400, f"a room name must have 1 to {MAX_NAME_LENGTH} characters")
    if len(room) >= MAX_MEMBERS:
        return ws.reject(4409, "the room is full")
    ws.on("message", lambda message: say(ws, room, name, message))
    answer = ws.connect(max_message_size=16 * 1024)
    server = SERVER or f"worker {os.getpid()}"
    welcome = {"type": "welcome", "name": name, "server": server, "settling": SETTLING_MS}
    ws.send(json.dumps(welcome))
    room.add(ws, name, since=asked(ws, "since"))
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
    """Parse a page's message. Raises `ValueError` if it is invalid."""
    match json.loads(message):
        case {"id": str(id_), "text": str(text)}:
            if len(id_) <= 40 and text.strip() and len(text) <= MAX_TEXT_LENGTH:
                return {"id": id_, "text": text}
    raise ValueError("not a message of this chat")


# Presence

changed: set[Room] = set()
changed_lock = threading.Lock()
sending_lock = threading.Lock()


@rooms.on("presence")
def presence_changed(room: Room) -> None:
    """Schedule a message: a listener must not block, and many changes may come at once."""
    with changed_lock:
        if room in changed:
            return
        changed.add(room)
    timer = threading.Timer(PRESENCE_DELAY_S, send_presence, [room])
    timer.daemon = True
    timer.start()


def send_presence(room: Room) -> None:
    with sending_lock:  # so that the last list sent is the newest
        with changed_lock:
            changed.discard(room)
        send_to_local_members(room, type="present", who=room.presence())


@rooms.on("lost")
def lost(room: Room, count: int | None) -> None:
    send_to_local_members(room, type="lost")


@rooms.on("missed")
def missed(room: Room, member: WebSocket, count: int | None) -> None:
    """The messages after its `since` are no longer kept."""
    with contextlib.suppress(ConnectionClosed):
        member.send(json.dumps({"type": "lost"}))


def send_to_local_members(room: Room, **content: Any) -> None:
    """Send to the members in this process; other processes send to their own members."""
    message = json.dumps(content)
    for member in room:
        with contextlib.suppress(ConnectionClosed):
            member.send(message)
