"""What the engine does, once a second, to whoever watches."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict

from .. import ConnectionClosed, WebSocket, default_engine

PERIOD = 1.0
"""Seconds from one message to the next."""


class StatsFeed:
    """Sends the stats of the default engine to every WebSocket that was added.

    There is a thread while somebody watches. Who has not read the last message gets no
    other: only the newest figures matter.
    """

    def __init__(self) -> None:
        self._watchers: set[WebSocket] = set()
        self._change = threading.Condition()
        self._is_running = False

    def add(self, websocket: WebSocket) -> None:
        """Before it is connected. It leaves when it is closed."""
        websocket.on("open", lambda: self._enter(websocket))
        websocket.on("close", lambda *_: self._leave(websocket))

    def _enter(self, websocket: WebSocket) -> None:
        websocket.send(self._message())
        with self._change:
            self._watchers.add(websocket)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="stats", daemon=True).start()

    def _leave(self, websocket: WebSocket) -> None:
        with self._change:
            self._watchers.discard(websocket)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                if self._change.wait_for(lambda: not self._watchers, PERIOD):
                    self._is_running = False
                    return
                watchers = list(self._watchers)
            message = self._message()
            for websocket in watchers:
                if not websocket.buffered_amount:
                    try:
                        websocket.send(message)
                    except ConnectionClosed:
                        self._leave(websocket)

    def _message(self) -> str:
        stats = default_engine().stats()
        figures = {**asdict(stats), "traffic": stats.traffic._asdict()}
        figures["round_trips"] = stats.round_trips._asdict()
        return json.dumps({**figures, "time": time.monotonic(), "cpu": time.process_time()})
