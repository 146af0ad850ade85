"""Members of rooms, and waiting until their buses have joined."""

from __future__ import annotations

import json
from collections.abc import Callable

from websocket_handler import (
    BusState,
    Engine,
    Room,
    Rooms,
    WebSocket,
)

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for


def join(engine: Engine, *rooms: Room) -> tuple[WebSocket, Peer]:
    """A member of these rooms from the start."""
    websocket = make_websocket(engine)

    @websocket.on("open")
    def join_all() -> None:
        for room in rooms:
            room.add(websocket)

    return websocket, connect(websocket)


Make = Callable[..., Rooms]

SLOW_HEARTBEAT = {"heartbeat_interval": 0.5, "silence_timeout": 5.0}


def wait_until_joined(*rooms: Rooms, count: int = 1) -> None:
    """Wait until each has joined that many rooms."""
    for one in rooms:
        wait_for(lambda one=one: joined_rooms(one) == count, "the bus to have joined")  # type: ignore[misc]


def joined_rooms(rooms: Rooms) -> int:
    bus = rooms.stats().bus
    assert bus is not None
    return bus.rooms if bus.state is BusState.UP else -1


def add_offset(message: str | bytes, offset: str) -> str:
    return json.dumps([str(message), offset])
