"""A member that records the messages of a replay."""

from __future__ import annotations

import threading
from collections.abc import Callable

from websocket_handler.bus.bus import Bus

from .recorder import Recorder


class Replay:
    """The messages that a replay gives a member, in order, and those delivered before it was
    admitted. It takes `at_once` messages, and more after each `resume`."""

    has_left = False
    waits_for_broker = False

    def __init__(
        self, bus: Bus, recorder: Recorder, room: str, since: str, at_once: int = 1_000_000
    ) -> None:
        self.given: list[tuple[str | bytes, str]] = []
        self.losses: list[int | None] = []
        self.delivered_before = -1
        self.error: Exception | None = None
        self._at_once = at_once
        self._allowed = at_once
        self._recorder = recorder
        self._waiting: Callable[[], object] | None = None
        self._done = threading.Event()
        bus.replay(room, since, self)

    def try_send(self, message: str | bytes, offset: str) -> bool:
        if len(self.given) >= self._allowed:
            return False
        self.given.append((message, offset))
        return True

    def call_when_ready(self, call: Callable[[], object]) -> None:
        self._waiting = call

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    def resume(self) -> None:
        assert self._waiting is not None
        call, self._waiting = self._waiting, None
        self._allowed = len(self.given) + self._at_once
        call()

    def on_missed(self, count: int | None) -> None:
        self.losses.append(count)

    def on_caught_up(self) -> None:
        self.delivered_before = len(self._recorder.delivered)
        self._done.set()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self._done.set()

    def wait(self) -> Replay:
        assert self._done.wait(10), "neither admitted nor failed"
        return self

    def messages(self) -> list[str | bytes]:
        return [message for message, _ in self.given]
