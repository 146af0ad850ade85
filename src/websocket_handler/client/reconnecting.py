"""`Reconnecting`: a client that connects again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload
from weakref import WeakSet

from ..connection.listeners import check_event, is_async
from ..engine.forks import in_forked_child
from ..engine.running_loop import is_in_event_loop
from ..errors import ConnectionClosed, WebSocketError
from ..protocol.client import without_password
from ..protocol.close_codes import CloseCode
from ..protocol.message import close_payload
from ..protocol.state import State
from .blocking import BlockingNetwork, complete
from .event_loop import LoopNetwork
from .opening import Plan
from .options import split_options
from .reopening import reopen

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import Settings
    from ..websocket import WebSocket
    from .options import ClientOptions

logger: logging.Logger = logging.getLogger("websocket_handler")

Event: TypeAlias = Literal["open", "message", "ping", "pong", "drain", "error", "close"]
Listener = TypeVar("Listener", bound=Callable[..., object])


class Reconnecting:
    """A WebSocket to `url` that is opened again whenever it ends.

    With listeners, which are those of a `WebSocket` and stay for all its connections:

        with Reconnecting("wss://host/feed") as feed:     # or start() and close()
            feed.on("open", lambda: feed.send("subscribe"))
            feed.on("message", print)
            feed.wait_closed()

    `start()` in a running event loop connects there, and listeners may be `async def`; elsewhere
    it uses a thread. Or as an iteration over WebSockets in a thread; each is closed at the end
    of the body (in an event loop: `async for ws in aconnect(url)`):

        for ws in Reconnecting("wss://host/feed"):
            for message in ws:
                print(message)

    Takes the arguments of `connect()`. Before connecting again it waits for a random time, which
    grows up to a minute (`reconnect_delays`), and after 1012, 1013 and Retry-After at least as
    long as the server asks for. `process_exception` decides which errors end it: by default all
    but network errors, timeouts and the HTTP statuses from 500 on. Then `error` is emitted with
    the exception, or the iteration raises it.
    """

    def __init__(
        self, url: str, *, settings: Settings | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        plan = Plan.of(url, *split_options(settings, **options))
        plan.check_repeatable()
        self._plan = plan
        self._listeners: list[tuple[Event, Callable[..., object]]] = []
        self._websocket: WebSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_started = False
        self._is_active = False
        self._is_in_background = False  # `start()` was called
        self._stopped = threading.Event()
        self._ended = threading.Event()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<Reconnecting {without_password(self._plan.url)} {self.state.value}>"

    @property
    def state(self) -> State:
        """OPEN while there is an open connection, CONNECTING while there is none, CLOSING after
        `close()`, CLOSED before `start()` or an iteration and after its end."""
        if not self._is_active:
            return State.CLOSED
        if self._stopped.is_set():
            return State.CLOSING
        websocket = self._websocket
        is_open = websocket is not None and websocket.state is State.OPEN
        return State.OPEN if is_open else State.CONNECTING

    @overload
    def on(self, event: Event, listener: Listener) -> Listener: ...
    @overload
    def on(self, event: Event) -> Callable[[Listener], Listener]: ...
    def on(
        self, event: Event, listener: Listener | None = None
    ) -> Listener | Callable[[Listener], Listener]:
        """Call `listener` for every `event` of every connection; see `WebSocket.on`.

        Raises `ValueError` for an unknown event, `WebSocketError` after `start()`.
        """
        check_event(event)
        if listener is None:
            return partial(self.on, event)
        if self._is_started:
            raise WebSocketError("register the listeners before start()")
        self._listeners.append((event, listener))
        return listener

    def start(self) -> None:
        """Begin to connect. Does not wait. Raises `WebSocketError` if it was called before, and
        `RuntimeError` if the system has no thread left; then it may be called again."""
        if self._is_started:
            raise WebSocketError("start() was already called")
        self._is_started = self._is_active = self._is_in_background = True
        if is_in_event_loop():
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run_in_loop())
        else:
            name = "websocket-reconnecting"
            try:
                threading.Thread(target=self._run_in_thread, name=name, daemon=True).start()
            except BaseException:
                self._is_started = self._is_active = self._is_in_background = False
                raise

    def send(self, message: str | bytes) -> None:
        """Send a message on the present connection. Thread-safe.

        Raises `ConnectionClosed` if there is none: nothing is queued for the next one.
        """
        websocket = self._websocket
        if websocket is None:
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, "not connected")
        websocket.send(message)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection, and connect no more. Does not wait. Thread-safe."""
        close_payload(code, reason)
        self._stopped.set()
        websocket = self._websocket
        if websocket is not None:
            websocket.close(code, reason)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until it has ended, after `close()` or an error; at most `timeout` seconds.

        Returns whether it has ended. Raises `WebSocketError` in the event loop of `start()`, which
        it would block: use `await_closed()` there.
        """
        if self._loop is not None and is_in_event_loop() and not self._ended.is_set():
            raise WebSocketError(
                "wait_closed() would block the event loop of this thread: "
                "await await_closed() instead"
            )
        return self._ended.wait(timeout)

    async def await_closed(self) -> None:
        """Wait until it has ended, in the event loop of `start()`."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def __enter__(self) -> Reconnecting:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close with 1000, or with 1011 after an exception; in a thread, wait for the end."""
        is_normal = kind is None or issubclass(kind, ConnectionClosed)
        self.close(CloseCode.NORMAL_CLOSURE if is_normal else CloseCode.INTERNAL_ERROR)
        if self._loop is None:
            self.wait_closed(self._plan.settings.close_timeout)

    def __iter__(self) -> Generator[WebSocket, None, None]:
        self._is_started = self._is_active = True
        network = partial(BlockingNetwork, stopped=self._stopped)
        opened = reopen(self._with_listeners, network, self._stopped.is_set)
        try:
            while True:
                try:
                    yield complete(opened.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            complete(opened.aclose())
            self._is_active = False

    # Implementation

    @property
    def _with_listeners(self) -> Plan:
        return replace(self._plan, prepare=self._adopt)

    def _run_in_thread(self) -> None:
        try:
            for websocket in self:
                websocket.wait_closed()
        except Exception as error:
            self._fail(error)
        finally:
            self._end()

    async def _run_in_loop(self) -> None:
        opened = reopen(self._with_listeners, LoopNetwork, self._stopped.is_set)
        try:
            async with contextlib.aclosing(opened):
                async for websocket in opened:
                    await websocket.await_closed()
        except Exception as error:
            self._fail(error)
        finally:
            self._end()

    def _adopt(self, websocket: WebSocket) -> None:
        """Add the listeners before the WebSocket opens, and forget it when it is closed."""
        for event, listener in self._listeners:
            websocket.on(event, listener)
        websocket.on("close", partial(self._forget, websocket))
        self._websocket = websocket

    def _forget(self, websocket: WebSocket, *_: object) -> None:
        if self._websocket is websocket:
            self._websocket = None

    def _cancel(self) -> None:
        if self._task is not None and self._websocket is None:
            self._task.cancel()

    def _fail(self, error: Exception) -> None:
        logger.error("%s: not connected again: %s", self._plan.address.authority, error)
        for event, listener in self._listeners:
            if event == "error":
                self._call(listener, error)

    def _call(self, listener: Callable[..., Any], error: Exception) -> None:
        try:
            result = listener(error)
            if is_async(listener) and self._loop is not None:
                self._loop.create_task(result)
        except Exception:
            logger.exception("a listener of 'error' raised")

    def _end(self) -> None:
        self._websocket = None
        self._is_active = False
        self._ended.set()

    def _forget_after_fork(self) -> None:
        """In a forked child: it ends. The thread or loop that reconnects is in the parent. (An
        iteration continues in the child that its body has forked.)"""
        if self._is_in_background:
            self._stopped, self._ended = threading.Event(), threading.Event()
            self._stopped.set()
            self._end()


_all: WeakSet[Reconnecting] = WeakSet()


@in_forked_child
def _forget_threads() -> None:
    for reconnecting in list(_all):
        reconnecting._forget_after_fork()
