"""The old process's side of a move: it repeats the request of each connection to its successor."""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple, TypeVar

from ..engine import Engine, default_engine, loop_engine
from ..errors import WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.request import Request, head
from ..protocol.state import State
from ..rooms.rooms import ANNOUNCE_AFTER_MOVE_S
from ..websocket import WebSocket
from .arrivals import HEADER, own_names
from .directory import Directory, open_directory
from .messages import NotMoved, is_of_same_user, receive, send, to_file
from .pace import Pace
from .state import Facts
from .suspension import NotYet, Suspended, facts_of, in_engine, suspend

logger: logging.Logger = logging.getLogger("websocket_handler")

PACE_INTERVAL_S = 0.25
"""Seconds after which the number of requests at the same time is reconsidered."""

LISTEN_TIMEOUT_S = 1.0
"""Seconds until a process must listen."""

HANDLER_TIMEOUT_S = 10.0
"""Seconds that the new application has to handle a request."""

READY_TIMEOUT_S = 2.0
"""Seconds that the new process has to send the secret, and later to read the state: meanwhile no
process reads the socket."""

IDLE_TIMEOUT_S = 2.0
"""Seconds that a connection has to come to a point at which it can be moved."""

RETRY_INTERVAL_S = 0.002
RETRY_AFTER_S = 0.1
MAX_ATTEMPTS = 3
"""Attempts to move one connection, if no process has answered or the old one itself has."""

Result = TypeVar("Result")


class StillBusy(NotMoved):
    """The application was busy with the connection for `IDLE_TIMEOUT_S`."""


NOT_IN_REPEATED = frozenset(("content-length", "transfer-encoding", HEADER.lower()))
"""Fields of a request that are not repeated: the third key of some versions was its body."""


class MoveResult(NamedTuple):
    """The number of connections that `move_connections` has moved, closed because the new
    application refused them, and closed because they could not be moved."""

    moved: int = 0
    refused: int = 0
    closed: int = 0


class Answer(NamedTuple):
    """The end of one attempt."""

    status: int
    """200: moved; 400 to 499: the application refuses; 0: no process has answered."""
    reason: str = ""


MOVED = Answer(200)
NOBODY_LISTENS = Answer(0, "no process listens")


class Move:
    """One call of `move_connections`."""

    def __init__(self, engine: Engine, timeout: float, refused_code: int, pause: float) -> None:
        self._engine = engine
        self._deadline = time.monotonic() + timeout
        self._refused_code = refused_code
        self._pace = Pace(self._deadline, pause)
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
            if len(threads) < self._pace.requests(len(self._left)):
                thread = threading.Thread(
                    target=self._work, args=[directory], name="websocket-move"
                )
                threads.append(thread)
                self._threads = len(threads)
                thread.start()
            for thread in threads:
                thread.join(PACE_INTERVAL_S / len(threads))

    def _work(self, directory: Directory) -> None:
        try:
            with WaitingSocket(directory) as waiting:
                while (websocket := self._next()) is not None:
                    self._move_and_rest(websocket, waiting)
        except OSError as error:
            logger.warning("connections cannot be moved to a new process: %s", error)

    def _move_and_rest(self, websocket: WebSocket, waiting: WaitingSocket) -> None:
        had_answer, began = self._has_answer, time.monotonic()
        try:
            self._move(websocket, waiting)
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

    def _move(self, websocket: WebSocket, waiting: WaitingSocket) -> None:
        for attempt in count(1):
            try:
                answer = self._attempt(websocket, waiting)
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

    def _attempt(self, websocket: WebSocket, waiting: WaitingSocket) -> Answer:
        address, facts, request = _when_idle(websocket, _describe)
        seconds = self._deadline - time.monotonic()
        if not self._has_answer:
            seconds = min(seconds, self._first_attempt + self._start_timeout - time.monotonic())
        answer = waiting.move(websocket, address, facts, request, max(seconds, 0.0))
        self._has_answer |= answer.status != 0
        return answer

    def _may_try_again(self, answer: Answer, attempt: int) -> bool:
        """Whether to repeat a request that was not answered. Before the first answer, the new
        process may still be starting."""
        if self._has_answer:
            return attempt < MAX_ATTEMPTS
        limit = LISTEN_TIMEOUT_S if answer is NOBODY_LISTENS else self._start_timeout
        if time.monotonic() - self._first_attempt > limit:
            self._is_hopeless = True
        return not self._is_hopeless

    def _note(self, websocket: WebSocket, answer: Answer) -> None:
        if answer is MOVED:
            with self._lock:
                self._counts["moved"] += 1
        elif 400 <= answer.status < 500 and answer.status not in NOT_ABOUT_THE_REQUEST:
            logger.info("%r: the new process refuses it with %d", websocket, answer.status)
            with self._lock:
                self._counts["refused"] += 1
            websocket.close(self._refused_code, "refused by the new process")
        else:
            logger.info("%r: not moved: %d %s", websocket, answer.status, answer.reason)


left_rooms = threading.Event()
"""Set once a moved connection was in a room: this process must not end before it has announced
that."""

NOT_ABOUT_THE_REQUEST = (408, 409, 425, 429)
"""Refusals because of the state or the load of the new process: the client may connect again."""


class WaitingSocket:
    """A socket on which one thread waits for the new process, one connection after the other."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._name = secrets.token_hex(8)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> WaitingSocket:
        own_names.add(self._name)
        try:
            self._listener.bind(self._directory.path(self._name))
            self._listener.listen(8)
            self._listener.setblocking(False)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        own_names.discard(self._name)
        self._listener.close()
        self._directory.remove(self._name)

    def move(
        self, websocket: WebSocket, address: Any, facts: Facts, request: Request, seconds: float
    ) -> Answer:
        """Repeat the request, and pass the connection to the process that asks for it. That must
        happen within `seconds`."""
        handler_timeout = min(HANDLER_TIMEOUT_S, seconds)
        secret = secrets.token_hex(16)
        fields = [
            (name, value)
            for name, value in request.headers.fields()
            if name.lower() not in NOT_IN_REPEATED
        ]
        fields.append((HEADER, f"{self._name}:{secret}"))
        try:
            repeated = head(f"GET {request.target} HTTP/1.1", fields)
            with _connect(address, seconds) as connection:
                connection.sendall(repeated)
                sock = self._wait(connection, secret, time.monotonic() + seconds)
                with sock:
                    return pass_on(sock, websocket, facts, handler_timeout)
        except (ConnectionRefusedError, FileNotFoundError):
            return NOBODY_LISTENS
        except (OSError, UnicodeEncodeError) as error:
            return Answer(0, str(error))

    def _wait(self, connection: socket.socket, secret: str, end: float) -> socket.socket:
        """Return the exchange with the process that has received the request. Raises `OSError` if
        it answers without asking for the connection, or in time."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(connection, select.POLLIN)
        while True:
            left = end - time.monotonic()
            ready = dict(poll.poll(max(left, 0) * 1000))
            if not ready:
                raise TimeoutError("no process has answered")
            if self._listener.fileno() in ready:
                sock = self._accept(secret)
                if sock is not None:
                    return sock
            elif connection.fileno() in ready:
                status = connection.recv(100).partition(b"\r\n")[0].decode("latin-1")
                raise ConnectionError(f"the answer was {status!r}")

    def _accept(self, secret: str) -> socket.socket | None:
        """Accept the exchange. Returns None if the other process may not have the connection."""
        try:
            sock = self._listener.accept()[0]
        except OSError:
            return None
        try:
            if is_of_same_user(sock):
                received = receive(sock, READY_TIMEOUT_S)
                received.close()
                shown = str(received.fields.get("secret")).encode()
                if hmac.compare_digest(shown, secret.encode()):
                    return sock
        except (NotMoved, OSError):
            pass
        sock.close()
        return None


def pass_on(
    sock: socket.socket, websocket: WebSocket, facts: Facts, handler_timeout: float
) -> Answer:
    """Pass the connection to the new process if its application accepts it. Raises `NotMoved` if
    the connection itself cannot be moved."""
    try:
        send(sock, facts.to_json())
        asked = receive(sock, handler_timeout)
        asked.close()
    except NotMoved as error:
        return Answer(0, str(error))
    if "take" not in asked.fields:
        status = asked.fields.get("refused")
        status = status if isinstance(status, int) and status != 503 else 0
        return Answer(status, "the new process refuses it")
    try:
        suspended = _when_idle(websocket, suspend)
    except NotMoved as error:
        _send_if_possible(sock, {"kept": str(error)})
        raise
    return _exchange(sock, suspended)


def _exchange(sock: socket.socket, suspended: Suspended) -> Answer:
    websocket = suspended.websocket
    resume = partial(suspended.resume)
    try:
        _send_state(sock, suspended)
        ready = receive(sock, READY_TIMEOUT_S)
        ready.close()
        if "ready" not in ready.fields:
            raise NotMoved("the new process was not ready")
    except NotMoved as error:
        in_engine(websocket, resume)
        return Answer(0, str(error))
    try:
        released = _in_engine(websocket, suspended.release)
    except StillBusy:
        in_engine(websocket, resume)
        raise
    if released is None:
        _send_if_possible(sock, {"kept": "the application has closed it"})
        raise NotMoved("the application has closed it")
    if released.offsets:
        left_rooms.set()
    files = [to_file(released.late)] if released.late else []
    _send_if_possible(sock, {"given": True, "offsets": released.offsets}, files)
    _close_all(files)
    return MOVED


def _send_state(sock: socket.socket, suspended: Suspended) -> None:
    data = suspended.state.data
    files = [to_file(data)] if data else []
    try:
        send(sock, suspended.state.to_json(), [suspended.descriptor, *files])
    finally:
        _close_all(files)


def _when_idle(websocket: WebSocket, call: Callable[[WebSocket], Result]) -> Result:
    """Return the result of a call in the engine's thread, as soon as it does not raise `NotYet`."""
    end = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        try:
            return _in_engine(websocket, partial(call, websocket))
        except NotYet as reason:
            if time.monotonic() > end:
                raise NotMoved(str(reason)) from None
        time.sleep(RETRY_INTERVAL_S)


def _describe(websocket: WebSocket) -> tuple[Any, Facts, Request]:
    """Return the address to which the client has connected, and facts of the connection."""
    facts = facts_of(websocket)
    descriptor = websocket._descriptor
    if descriptor < 0:
        raise NotMoved("it has no socket")
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        address = copy.getsockname()
    return address, facts, websocket.request.as_received()


def _in_engine(websocket: WebSocket, call: Callable[[], Result]) -> Result:
    """Return the result of a call in the engine's thread, outside of the connection's listeners.

    Raises its exception, and `NotMoved` if a listener does not return in time.
    """
    done = threading.Event()
    lock = threading.Lock()
    result: list[Result] = []
    failure: list[BaseException] = []
    cancelled: list[bool] = []

    def make() -> None:
        with lock:
            if cancelled:
                return
            try:
                result.append(call())
            except Exception as error:
                failure.append(error)
            done.set()

    in_engine(websocket, partial(make))
    if not done.wait(IDLE_TIMEOUT_S):
        with lock:
            if not done.is_set():
                cancelled.append(True)
                raise StillBusy("a listener does not return")
    if failure:
        raise failure[0]
    return result[0]


def _connect(address: Any, seconds: float) -> socket.socket:
    """Connect to the address on which this process has accepted a client."""
    family = socket.AF_UNIX
    if isinstance(address, tuple):
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(seconds, 0.001))
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _send_if_possible(
    sock: socket.socket, fields: dict[str, Any], files: Sequence[int] = ()
) -> None:
    try:
        send(sock, fields, files)
    except NotMoved as error:
        logger.debug("the new process has ended: %s", error)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_movable(channel: Any) -> bool:
    return isinstance(channel, WebSocket) and not channel._is_client


def move_connections(
    engine: Engine | None = None,
    *,
    timeout: float = 20.0,
    window: float = 5.0,
    refused_code: int = CloseCode.POLICY_VIOLATION,
    pause: float = 1.0,
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

    Blocks; in an event loop, await `amove_connections()`. Returns how many were moved. Raises
    `WebSocketError` in the engine's own thread.
    """
    engine = engine or default_engine()
    if not engine.is_running:
        return MoveResult()
    if engine._is_own_thread():
        raise WebSocketError("move_connections() would block the engine's own thread")
    engine._ledger.is_draining = True
    gc.freeze()  # a process that ends need not stop for the collection of all its objects
    try:
        result = Move(engine, timeout, refused_code, pause).run()
    finally:
        gc.unfreeze()
    logger.info("moved connections to a new process: %s", result)
    if left_rooms.is_set():
        time.sleep(2 * ANNOUNCE_AFTER_MOVE_S)
    engine.close_all(CloseCode.SERVICE_RESTART, window=window if result.closed else 0.0)
    return result


async def amove_connections(engine: Engine | None = None, **options: Any) -> MoveResult:
    """Like `move_connections()`, for coroutines; by default for the engine of the running loop."""
    loop = asyncio.get_running_loop()
    engine = engine or loop_engine(loop)
    return await loop.run_in_executor(None, partial(move_connections, engine, **options))
