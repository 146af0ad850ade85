"""The awaitable that `LoopInbox.__anext__` returns behaves like a coroutine, compiled or not."""

from __future__ import annotations

import asyncio
import collections.abc
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from websocket_handler import ConnectionClosed
from websocket_handler.connection import inbox as in_use


def source() -> ModuleType:
    """Return inbox.py as a Python module, also where the compiled one is in use."""
    path = in_use.__file__.rpartition("/")[0] + "/inbox.py"
    spec = importlib.util.spec_from_file_location("websocket_handler.connection.plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[in_use, source()], ids=["in use", "plain Python"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


class Source:
    """Counts the pauses of the connection."""

    def __init__(self) -> None:
        self.pauses = 0

    def _pause_for_backlog(self) -> None:
        self.pauses += 1

    def _resume_reading(self) -> None:
        self.pauses -= 1

    def _in_engine(self, call: Callable[[], object]) -> None:
        call()


def make_inbox(module: Any, source: Source | None = None, high_water: int = 1 << 20) -> Any:
    loop = asyncio.get_running_loop()
    return module.LoopInbox(source or Source(), high_water, loop, True, (1000,))


def test_awaitable_has_the_methods_of_a_coroutine(module: Any) -> None:
    async def test() -> None:
        awaitable = make_inbox(module).__anext__()
        assert inspect.isawaitable(awaitable)
        assert asyncio.iscoroutine(awaitable)
        assert isinstance(awaitable, collections.abc.Coroutine)
        assert not asyncio.isfuture(awaitable)

    asyncio.run(test())


def test_awaitable_awaited_again_raises_and_takes_nothing(module: Any) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        inbox.put("first")
        inbox.put("second")
        awaitable = inbox.__anext__()
        assert await awaitable == "first"
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable
        assert await inbox.__anext__() == "second"

    asyncio.run(test())


def test_awaitable_that_is_not_awaited_takes_nothing(module: Any) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        inbox.put("")
        inbox.__anext__().close()
        assert await inbox.__anext__() == ""

    asyncio.run(test())


@pytest.mark.parametrize("is_queued", [True, False])
def test_awaitable_in_a_task_of_its_own_returns_the_message(module: Any, is_queued: bool) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        if is_queued:
            inbox.put("message")
        task = asyncio.ensure_future(inbox.__anext__())
        await asyncio.sleep(0)
        if not is_queued:
            assert inbox.is_waited_for
            inbox.put("message")
            asyncio.get_running_loop().call_soon(inbox.wake)
        assert await task == "message"

    asyncio.run(test())


def test_wait_that_is_cancelled_loses_no_message_and_can_be_repeated(module: Any) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        for number in range(3):
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                await asyncio.wait_for(inbox.__anext__(), 0.001)
            assert not inbox.is_waited_for
            inbox.put(f"{number}")
            assert await inbox.__anext__() == f"{number}"

    asyncio.run(test())


@pytest.mark.parametrize("kind", [asyncio.Task, asyncio.tasks._PyTask])  # type: ignore[attr-defined]
def test_message_received_in_a_task_resumes_another_task_after_it(module: Any, kind: Any) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        waiting = kind(inbox.__anext__(), loop=asyncio.get_running_loop())
        await asyncio.sleep(0)
        inbox.put("text")
        inbox.end_read()
        assert not waiting.done()
        assert await waiting == "text"

    asyncio.run(test())


@pytest.mark.parametrize("kind", [asyncio.Task, asyncio.tasks._PyTask])  # type: ignore[attr-defined]
def test_message_received_in_a_callback_resumes_the_task_at_once(module: Any, kind: Any) -> None:
    async def test() -> None:
        inbox = make_inbox(module)
        loop = asyncio.get_running_loop()
        waiting = kind(inbox.__anext__(), loop=loop)
        resumed = loop.create_future()

        def receive() -> None:
            inbox.put("text")
            inbox.end_read()
            resumed.set_result(waiting.done())

        loop.call_soon(receive)
        assert await resumed
        assert waiting.result() == "text"

    asyncio.run(test())


def test_exception_that_is_thrown_ends_the_awaitable(module: Any) -> None:
    async def test() -> None:
        for thrown in ((ValueError("text"),), (ValueError, "text"), (ValueError, None)):
            awaitable = make_inbox(module).__anext__()
            awaitable.send(None)
            with pytest.raises(ValueError, match=r"^(text)?$"):
                awaitable.throw(*thrown)
            with pytest.raises(RuntimeError, match="already awaited"):
                awaitable.send(None)

    asyncio.run(test())


def test_messages_keep_their_order_while_the_reader_lags(module: Any) -> None:
    async def test() -> None:
        source = Source()
        inbox = make_inbox(module, source, high_water=1 << 16)
        expected = 0
        for number in range(2000):
            inbox.put(f"{number}")
            if number % 4 == 3:
                for _ in range(3):
                    assert await inbox.__anext__() == f"{expected}"
                    expected += 1
        assert inbox.take_all() == [f"{number}" for number in range(expected, 2000)]
        assert not inbox.has_message

    asyncio.run(test())


def test_taken_messages_are_not_kept(module: Any) -> None:
    class Text(str):
        """A str that a weak reference can refer to."""

    async def test() -> None:
        inbox = make_inbox(module)
        inbox.put("first")
        taken = []
        for _ in range(100):  # the reader is always one message behind
            message = Text("message")
            taken.append(weakref.ref(message))
            inbox.put(message)
            del message
            await inbox.__anext__()
        assert await inbox.__anext__() == "message"
        assert [reference() for reference in taken] == [None] * 100

    asyncio.run(test())


def test_end_is_raised_after_the_queued_messages(module: Any) -> None:
    async def test() -> None:
        for code, error in ((1000, StopAsyncIteration), (1006, module.ConnectionClosed)):
            inbox = make_inbox(module)
            inbox.put("last")
            inbox.end(code, "")
            assert await inbox.__anext__() == "last"
            with pytest.raises(error):
                await inbox.__anext__()
        assert module.ConnectionClosed is ConnectionClosed

    asyncio.run(test())


def test_large_message_that_is_taken_at_once_does_not_pause_reading(module: Any) -> None:
    async def test() -> None:
        source = Source()
        inbox = make_inbox(module, source, high_water=1000)
        task = asyncio.ensure_future(inbox.__anext__())
        await asyncio.sleep(0)
        inbox.put("x" * 2000)
        assert source.pauses == 0
        inbox.end_read()
        assert await task == "x" * 2000
        assert source.pauses == 0

    asyncio.run(test())


def test_messages_that_are_left_after_a_read_pause_reading(module: Any) -> None:
    async def test() -> None:
        source = Source()
        inbox = make_inbox(module, source, high_water=1000)
        inbox.put("x" * 2000)
        inbox.end_read()
        assert source.pauses == 1
        inbox.end_read()
        assert source.pauses == 1
        assert await inbox.__anext__() == "x" * 2000
        assert source.pauses == 0

    asyncio.run(test())
