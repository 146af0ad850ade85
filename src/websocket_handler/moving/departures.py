"""The old process's side of a move: it repeats the request of each connection to its successor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from ..engine import Engine, default_engine, loop_engine
from ..errors import WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.state import State
from ..rooms.rooms import ANNOUNCE_AFTER_MOVE_S
from ..websocket import WebSocket
from .directory import Directory, open_directory
from .giving import MOVED, REFUSED_REASON, Answer
from .keeping import KeeperLink, seconds_to_keep
from .messages import NotMoved
from .open_connection import OpenConnection, StillBusy, left_rooms
from .pace import Pace
from .repeating import NOBODY_LISTENS, WaitingSocket

logger: logging.Logger = logging.getLogger("websocket_handler")

PACE_INTERVAL_S = 0.25
"""Seconds after which the number of requests at the same time is reconsidered."""

DEFAULT_TIMEOUT_S = 20.0
"""Seconds that a whole move may take."""

DEFAULT_PAUSE = 4.0
"""The pause after a move, in relation to its duration. A fifth of the time of a process that ends
goes into the move then, which leaves the processor to the requests beside it."""

LISTEN_TIMEOUT_S = 1.0
"""Seconds until a process must listen."""

SWITCH_INTERVAL_S = 0.0005
"""Seconds after which a thread of the move gets the GIL from a thread that computes: meanwhile no
process serves the connection that moves."""

RETRY_AFTER_S = 0.1
MAX_ATTEMPTS = 3
"""Attempts to move one connection, if no process has answered or the old one itself has."""

Destination: TypeAlias = "WaitingSocket | KeeperLink"


class MoveResult(NamedTuple):
    """The number of connections that `move_connections` has moved, closed because the new
    application refused them, and closed because they could not be moved."""

    moved: int = 0
    refused: int = 0
    closed: int = 0


class Move:
    """One call of `move_connections`."""

    def __init__(
        self,
        engine: Engine,
        timeout: float,
        refused_code: int,
        pause: float,
        keeper: KeeperLink | None = None,
    ) -> None:
        """`keeper`: a process that gets the connections, instead of the new one."""
        self._engine = engine
        self._keeper = keeper
        self._deadline = time.monotonic() + timeout
        self._refused_code = refused_code
        self._pace = Pace(self._deadline, pause if keeper is None else 0.0)
        self._threads = 0
        self._left: list[WebSocket] = []
        self._postponed: set[WebSocket] = set()
        self._lock = threading.Lock()
        self._has_answer = False
        self._is_hopeless = False
        self._first_attempt = time.monotonic()
        self._start_timeout = timeout / 2
        self._counts = {"moved": 0, "refused": 0}

    def run(self) -> MoveResult:
        """Move all connections of the engine. Blocks until the last one has moved or the time is
        over."""
        known: set[WebSocket] = set()
        self._find(known)
        try:
            with open_directory(create=True) as directory:
                directory.remove_stale()
                while self._left and time.monotonic() < self._deadline:
                    self._work_in_threads(directory)
                    self._find(known)
        except OSError as error:
            logger.warning("connections cannot be moved to a new process: %s", error)
        moved, refused = self._counts["moved"], self._counts["refused"]
        return MoveResult(moved, refused, len(known) - moved - refused)

    def _find(self, known: set[WebSocket]) -> None:
        """Find the connections that are not `known` yet: a last handshake may have been completed
        meanwhile, or another process that ends may have moved its connections here."""
        found = {channel for channel in self._engine._channels() if _is_movable(channel)}
        self._left = list(found - known)
        known |= found

    def _work_in_threads(self, directory: Directory) -> None:
        """Move the connections in as many threads as the time requires."""
        threads: list[threading.Thread] = []
        while not threads or any(thread.is_alive() for thread in threads):
            if len(threads) < self._threads_needed():
                thread = threading.Thread(
                    target=self._work, args=[directory], name="websocket-move"
                )
                threads.append(thread)
                self._threads = len(threads)
                thread.start()
            for thread in threads:
                thread.join(PACE_INTERVAL_S / len(threads))

    def _threads_needed(self) -> int:
        return 1 if self._keeper is not None else self._pace.requests(len(self._left))

    def _work(self, directory: Directory) -> None:
        try:
            with self._destination(directory) as destination:
                while (websocket := self._next()) is not None:
                    self._move_and_rest(websocket, destination)
        except OSError as error:
            logger.warning("connections cannot be moved to a new process: %s", error)

    def _destination(self, directory: Directory) -> contextlib.AbstractContextManager[Destination]:
        return (
            WaitingSocket(directory) if not self._keeper else contextlib.nullcontext(self._keeper)
        )

    def _move_and_rest(self, websocket: WebSocket, destination: Destination) -> None:
        had_answer, began = self._has_answer, time.monotonic()
        try:
            self._move(websocket, destination)
        except Exception:  # must not stop the move of the others
            logger.exception("%r: not moved", websocket)
        if had_answer or not self._has_answer:  # else the new process had to start
            self._rest(time.monotonic() - began)

    def _rest(self, seconds: float) -> None:
        """Pause after a move of that duration."""
        with self._lock:
            self._pace.note(seconds)
            pause = self._pace.pause_after(seconds, len(self._left), self._threads)
        time.sleep(pause)

    def _next(self) -> WebSocket | None:
        with self._lock:
            if self._left and not self._is_hopeless and time.monotonic() < self._deadline:
                return self._left.pop()
            return None

    def _move(self, websocket: WebSocket, destination: Destination) -> None:
        for attempt in count(1):
            try:
                answer = self._attempt(websocket, destination)
            except StillBusy as reason:
                self._postpone(websocket, reason)
                return
            except NotMoved as reason:
                level = logging.INFO if websocket.state is State.OPEN else logging.DEBUG
                logger.log(level, "%r: not moved: %s", websocket, reason)
                return
            if answer.status:
                break
            if not self._may_try_again(answer, attempt):
                return
            time.sleep(RETRY_AFTER_S)
        self._note(websocket, answer)

    def _postpone(self, websocket: WebSocket, reason: StillBusy) -> None:
        """Try once more when the other connections have moved."""
        with self._lock:
            if websocket in self._postponed:
                logger.info("%r: not moved: %s", websocket, reason)
                return
            self._postponed.add(websocket)
            self._left.insert(0, websocket)

    def _attempt(self, websocket: WebSocket, destination: Destination) -> Answer:
        connection = OpenConnection(websocket)
        description = connection.describe()
        seconds = self._deadline - time.monotonic()
        if not self._has_answer:
            seconds = min(seconds, self._first_attempt + self._start_timeout - time.monotonic())
        answer = destination.move(connection, description, max(seconds, 0.0))
        self._has_answer |= answer.status != 0
        return answer

    def _may_try_again(self, answer: Answer, attempt: int) -> bool:
        """Whether to repeat a request that was not answered. Before the first answer, the new
        process may still be starting."""
        if self._has_answer:
            return attempt < MAX_ATTEMPTS
        limit = LISTEN_TIMEOUT_S if answer is NOBODY_LISTENS else self._start_timeout
        if time.monotonic() - self._first_attempt > limit:
            self._give_up(answer)
        return not self._is_hopeless

    def _give_up(self, answer: Answer) -> None:
        with self._lock:
            is_first, self._is_hopeless = not self._is_hopeless, True
        if is_first and answer is not NOBODY_LISTENS:  # else the server ends for good
            logger.warning(
                "no process has answered within %g s, so no connection is moved: %s",
                self._start_timeout,
                answer.reason,
            )

    def _note(self, websocket: WebSocket, answer: Answer) -> None:
        if answer is MOVED:
            with self._lock:
                self._counts["moved"] += 1
        elif answer.is_refusal:
            logger.info("%r: the new process refuses it with %d", websocket, answer.status)
            with self._lock:
                self._counts["refused"] += 1
            websocket.close(self._refused_code, REFUSED_REASON)
        else:
            logger.info("%r: not moved: %d %s", websocket, answer.status, answer.reason)


def _is_movable(channel: Any) -> bool:
    return isinstance(channel, WebSocket) and not channel._is_client


def _has_movable(engine: Engine) -> bool:
    return any(_is_movable(channel) for channel in engine._channels())


def move_connections(
    engine: Engine | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    window: float = 5.0,
    refused_code: int = CloseCode.POLICY_VIOLATION,
    pause: float = DEFAULT_PAUSE,
    keep: float | None = None,
) -> MoveResult:
    """Move the WebSockets of this process to the process that replaces it, then close the others.

    Call it when the server has stopped accepting connections, and another process accepts them on
    the same address. The application handles the request of each WebSocket again there. A WebSocket
    that it refuses with a status of 400 to 499 is closed with `refused_code`. All that could not be
    moved within `timeout` seconds are closed with 1012, spread over `window` seconds. If no process
    answers within half of `timeout`, nothing is moved.

    `engine` is that of the connections (default: `default_engine()`). After each connection, a
    thread of the move pauses for `pause` times the duration of that connection's move, so that the
    processes have time for other requests; less if `timeout` would not suffice.

    Where the new process starts only after the end of this one, `keep` is the number of seconds, up
    to 60, during which another process keeps the connections and waits for it. They count as moved.
    Default: that of the environment variable WEBSOCKET_HANDLER_KEEP, else 0: no such process.

    Blocks; in an event loop, await `amove_connections()`. Returns how many were moved. Raises
    `WebSocketError` in the engine's own thread, `ValueError` if `keep` is not between 0 and 60.
    """
    engine, keep = engine or default_engine(), seconds_to_keep(keep)
    if not engine.is_running:
        return MoveResult()
    if engine._is_own_thread():
        raise WebSocketError("move_connections() would block the engine's own thread")
    engine._ledger.is_draining = True
    gc.freeze()  # a process that ends need not stop for the collection of all its objects
    interval = sys.getswitchinterval()
    sys.setswitchinterval(min(interval, SWITCH_INTERVAL_S))
    try:
        with keeper_for(keep if _has_movable(engine) else 0, window, refused_code) as keeper:
            result = Move(engine, timeout, refused_code, pause, keeper).run()
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval)
    logger.info("moved connections to a new process: %s", result)
    if left_rooms.is_set():
        time.sleep(2 * ANNOUNCE_AFTER_MOVE_S)
    engine.close_all(CloseCode.SERVICE_RESTART, window=window if result.closed else 0.0)
    return result


@contextlib.contextmanager
def keeper_for(seconds: float, window: float, refused_code: int) -> Iterator[KeeperLink | None]:
    """Start a keeper if it has time to keep connections; return None if not, or on an error."""
    keeper = None
    if seconds:
        try:
            keeper = KeeperLink.start(seconds, window, refused_code)
        except OSError as error:
            logger.warning("%s", error)
    try:
        yield keeper
    finally:
        if keeper is not None:
            keeper.close()


async def amove_connections(engine: Engine | None = None, **options: Any) -> MoveResult:
    """Like `move_connections()`, for coroutines; by default for the engine of the running loop."""
    loop = asyncio.get_running_loop()
    engine = engine or loop_engine(loop)
    return await loop.run_in_executor(None, partial(move_connections, engine, **options))
