"""Sends the engine's statistics once per second to all subscribed WebSockets."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict

from .. import ConnectionClosed, WebSocket, default_engine

INTERVAL_S = 1.0
"""The time between two messages."""


class StatsFeed:
    """Sends the statistics of the default engine to each WebSocket that was added.

    A thread runs while there are subscribers. A subscriber that has not read the last message is
    skipped, because only the newest statistics matter.
    """

    def __init__(self) -> None:
        self._subscribers: set[WebSocket] = set()
        self._change = threading.Condition()
        self._is_running = False
        self._started = time.time()  # the page recognizes a new process by it

    def add(self, websocket: WebSocket) -> None:
        """Subscribe `websocket` from its `open` event to its `close` event.

        Must be called before it is connected.
        """
        websocket.on("open", lambda: self._enter(websocket))
        websocket.on("close", lambda *_: self._leave(websocket))

    def _enter(self, websocket: WebSocket) -> None:
        websocket.send(self._message())
        with self._change:
            self._subscribers.add(websocket)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="stats", daemon=True).start()

    def _leave(self, websocket: WebSocket) -> None:
        with self._change:
            self._subscribers.discard(websocket)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                if self._change.wait_for(lambda: not self._subscribers, INTERVAL_S):
                    self._is_running = False
                    return
                subscribers = list(self._subscribers)
            message = self._message()
            for websocket in subscribers:
                if not websocket.buffered_amount:
                    try:
                        websocket.send(message)
                    except ConnectionClosed:
                        self._leave(websocket)

    def _message(self) -> str:
        stats = default_engine().stats()
        values = {**asdict(stats), "traffic": stats.traffic._asdict()}
        values["round_trips"] = stats.round_trips._asdict()
        values |= {"time": time.monotonic(), "cpu": time.process_time()}
        return json.dumps({**values, "at": time.time(), "started": self._started})
