"""Runs the servers of asynchronous applications: in an event loop of their own, in a thread, or in
the test's running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from socket import socket
from threading import Thread
from typing import Any, Protocol

from ...engine import Engine, loop_engine
from ..failures import Failures
from ..waiting import Waits, seconds_to


class LoopServer(Protocol):
    """Serves one application in the running event loop."""

    async def start(self) -> None: ...

    async def serve(self, sock: socket) -> None:
        """Serve a connection until the handler of its request is done."""
        ...

    async def stop(self) -> None: ...


class Tasks:
    """The tasks of one server in its event loop, each in a copy of the caller's context."""

    def __init__(self, loop: asyncio.AbstractEventLoop, failures: Failures) -> None:
        self._loop = loop
        self._failures = failures
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, coroutine: Coroutine[Any, Any, None], context: Context) -> Future[None]:
        """Run a coroutine as a task. Returns its future. In the loop's thread."""
        future: Future[None] = Future()
        task = context.run(self._loop.create_task, coroutine)
        self._tasks.add(task)
        task.add_done_callback(partial(self._finish, future))
        return future

    def _finish(self, future: Future[None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            self._failures.record(error)
            future.set_exception(error)
        else:
            future.set_result(None)

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


class InLoopThread:
    """Runs a server in an event loop of its own, in a thread."""

    engine: Engine
    _loop: asyncio.AbstractEventLoop
    _task: asyncio.Task[None] | None = None

    def __init__(self, server: LoopServer, failures: Failures) -> None:
        self._server = server
        self._failures = failures
        self._started: Future[None] = Future()
        self._over: Future[None] = Future()
        self._end = asyncio.Event()

    async def start(self, waits: Waits, until: float) -> None:
        self._thread = Thread(
            target=self._failures.context().run,
            args=(self._run,),
            name="websocket-test-loop",
            daemon=True,
        )
        self._thread.start()
        if not await waits.done(self._started, until):
            self._cancel()
            raise TimeoutError("the application has not started in time")
        self._started.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._over.set_exception(error)
            if not self._started.done():
                self._started.set_exception(error)
        else:
            self._over.set_result(None)

    async def _main(self) -> None:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self.engine = loop_engine(self._loop)
        self._tasks = Tasks(self._loop, self._failures)
        await self._server.start()
        self._started.set_result(None)
        await self._end.wait()
        await self._server.stop()
        if not any(self.engine._channels()):  # else the end of the loop closes them
            self.engine.stop()

    def _cancel(self) -> None:
        """Cancel all tasks of the loop, after a wait in vain."""
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def serve(self, sock: socket) -> Future[None]:
        future: Future[None] = Future()
        context = self._failures.context()

        def begin() -> None:
            self._tasks.begin(self._server.serve(sock), context).add_done_callback(
                lambda _: future.set_result(None)
            )

        self._loop.call_soon_threadsafe(begin)
        return future

    async def stop(self, waits: Waits, until: float) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        if not await waits.done(self._over, until):
            self._cancel()
            raise TimeoutError("the application has not stopped in time")
        self._thread.join(seconds_to(until))
        self._over.result()


class InRunningLoop:
    """Runs a server in the event loop of the test."""

    engine: Engine

    def __init__(self, server: LoopServer, failures: Failures) -> None:
        self._server = server
        self._failures = failures

    async def start(self, waits: Waits, until: float) -> None:
        loop = asyncio.get_running_loop()
        self.engine = loop_engine(loop)
        self._tasks = Tasks(loop, self._failures)
        starting = self._tasks.begin(self._server.start(), self._failures.context())
        if not await waits.done(starting, until):
            self._tasks.cancel()
            raise TimeoutError("the application has not started in time")
        starting.result()

    def serve(self, sock: socket) -> Future[None]:
        return self._tasks.begin(self._server.serve(sock), self._failures.context())

    async def stop(self, waits: Waits, until: float) -> None:
        stopping = self._tasks.begin(self._server.stop(), self._failures.context())
        is_done = await waits.done(stopping, until)
        self._tasks.cancel()
        if not is_done:
            raise TimeoutError("the application has not stopped in time")
        stopping.result()
