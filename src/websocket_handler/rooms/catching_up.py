"""A member that receives the messages it missed, from the history, before live messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..websocket import WebSocket
from .membership import Joining
from .room import Room

if TYPE_CHECKING:
    from .rooms import Rooms

HANDOVER_POLL_S = 0.01
"""Seconds between attempts to send on a connection that its server has not handed over yet."""


class CatchingUp:
    """Implements `ReplayTarget` for one member.

    The replay runs as fast as the peer reads, regardless of the room's policy for slow consumers.
    """

    def __init__(self, rooms: Rooms, room: Room, websocket: WebSocket, joining: Joining) -> None:
        self._rooms = rooms
        self._room = room
        self._websocket = websocket
        self._joining = joining

    @property
    def waits_for_broker(self) -> bool:
        return self._joining.is_moved

    @property
    def has_left(self) -> bool:
        return not self._room._is_catching_up(self._websocket, self._joining)

    def try_send(self, message: str | bytes, offset: str) -> bool:
        is_excluded = offset in self._joining.excluded
        is_sent = is_excluded or self._rooms._catch_up(self._websocket, message, offset)
        if is_sent:
            self._joining.offset = offset
            self._joining.excluded.discard(offset)
        return is_sent

    def call_when_ready(self, call: Callable[[], object]) -> None:
        websocket = self._websocket
        if websocket._taken_over and websocket._engine is not None:
            websocket._engine._post(partial(websocket._on_drained, call))
        else:
            self._rooms._call_later(HANDOVER_POLL_S, call)

    def on_missed(self, count: int | None) -> None:
        self._rooms._emit("missed", self._room, self._websocket, count)

    def on_caught_up(self) -> None:
        self._room._admit(self._websocket)

    def on_error(self, error: Exception) -> None:
        self._room._reject_member(self._websocket, error)
