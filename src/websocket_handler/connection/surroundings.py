"""Code that runs around each call of a listener: a context manager of the application, the
`contextvars` context of the request, and the management of Django's database connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from contextvars import Context, copy_context
from typing import Any

from ..settings import Around, Settings
from .django_database import database_connections


class Surroundings:
    """Enters context managers around each call of the listeners of one connection.

    Each of `managers` returns a context manager to enter, the outermost first. Each call runs in
    a copy of `context`, if that is not None.
    """

    __slots__ = ("_context", "_managers")

    def __init__(self, managers: tuple[Around, ...], context: Context | None) -> None:
        self._managers = managers
        self._context = context

    @classmethod
    def of(cls, settings: Settings) -> Surroundings | None:
        """Return the surroundings for `settings`, with a copy of the caller's context if
        `keep_context` is set; None if nothing is needed."""
        managers = (database_connections(), settings.around)
        wanted = tuple(manager for manager in managers if manager is not None)
        context = copy_context() if settings.keep_context else None
        return cls(wanted, context) if wanted or context is not None else None

    def call(self, listener: Callable[..., object], *arguments: object) -> None:
        """Call a plain listener."""
        if self._context is None:
            self._call(listener, *arguments)
        else:
            self._context.copy().run(self._call, listener, *arguments)

    def _call(self, listener: Callable[..., object], *arguments: object) -> None:
        with ExitStack() as stack:
            for enter in self._managers:
                manager: Any = enter()
                if not hasattr(manager, "__exit__"):
                    raise TypeError(
                        f"around= returned {manager!r}, which is not a context manager for a plain "
                        "listener; an asynchronous one needs async def listeners"
                    )
                stack.enter_context(manager)
            listener(*arguments)

    async def call_async(
        self, listener: Callable[..., Coroutine[Any, Any, object]], *arguments: object
    ) -> None:
        """Call an `async def` listener, in a task made by `create_task`."""
        async with AsyncExitStack() as stack:
            for enter in self._managers:
                manager: Any = enter()
                if hasattr(manager, "__aexit__"):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            await listener(*arguments)

    def create_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        """Create a task for `work`, which calls `call_async`, in a copy of the kept context."""
        if self._context is None:
            return loop.create_task(work)
        return self._context.copy().run(loop.create_task, work)
