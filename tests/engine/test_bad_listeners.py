"""Listeners of every kind that raise or end their connection: only that connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from websocket_handler import Engine, WebSocket
from websocket_handler.connection.listeners import EVENTS
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for

KEY = b"\x01\x02\x03\x04"


@pytest.fixture(params=["thread", "loop"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in its own thread, and one in an event loop in a thread."""
    if request.param == "thread":
        engine = Engine()
        yield engine
        engine.stop()
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = Engine(loop)
    yield engine
    engine.stop()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


class Victim:
    """A connection whose listener of one event misbehaves."""

    def __init__(self, engine: Engine, event: str, act: Callable[[WebSocket], object], kind: str):
        self.event = event
        self.called = threading.Event()
        self.ends: list[int] = []
        self.over = threading.Event()
        self.websocket = make_websocket(engine, close_timeout=1)
        if event == "drain":
            self.websocket.on("message", lambda _: self.websocket.send(bytes(1 << 20)))
        else:
            self.websocket.on("message", lambda _: None)

        def listen(*_: object) -> None:
            self.called.set()
            act(self.websocket)

        async def listen_async(*_: object) -> None:
            await asyncio.sleep(0)
            listen()

        self.websocket.on(event, listen if kind == "plain" else listen_async)  # type: ignore[call-overload]
        self.websocket.on("close", self._end)
        self.peer = connect(self.websocket, is_aborted=event == "open")
        self._provoke()
        assert self.called.wait(10)

    def _end(self, code: int, _: str) -> None:
        self.ends.append(code)
        self.over.set()

    def _provoke(self) -> None:
        frames = {
            "message": write_frame(Opcode.TEXT, b"x", key=KEY),
            "ping": write_frame(Opcode.PING, b"x", key=KEY),
            "pong": write_frame(Opcode.PONG, b"x", key=KEY),
            "drain": write_frame(Opcode.TEXT, b"x", key=KEY),
            "error": b"\xff\xff",
            "close": write_frame(Opcode.CLOSE, b"\x03\xe8", key=KEY),
        }
        if self.event != "open":
            self.peer.sock.sendall(frames[self.event])
        if self.event == "drain":
            assert self.peer.read() == Message(bytes(1 << 20))

    def read_close(self) -> int | None:
        """Returns the code of the close frame and answers it; None if the connection ended without
        one."""
        for event in self.peer.read_to_end_or_close():
            if isinstance(event, Close):
                with contextlib.suppress(BrokenPipeError):
                    self.peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xe8", key=KEY))
                return event.code
        return None


def kinds_of(engine: Engine) -> list[str]:
    return ["plain"] if engine.event_loop is None else ["plain", "async"]


def echoing(engine: Engine) -> Peer:
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    return connect(websocket)


def assert_it_echoes(peer: Peer) -> None:
    peer.sock.sendall(write_frame(Opcode.TEXT, b"well?", key=KEY))
    assert peer.read() == Message("well?")


def raise_error(_: WebSocket) -> None:
    raise LookupError("on purpose")


def raise_cancelled(_: WebSocket) -> None:
    raise asyncio.CancelledError


def raise_generator_exit(_: WebSocket) -> None:
    raise GeneratorExit


@pytest.mark.parametrize("act", [raise_error, raise_cancelled, raise_generator_exit])
@pytest.mark.parametrize("event", EVENTS)
def test_raising_listener_of_every_kind_ends_its_connection(
    engine: Engine, event: str, act: Callable[[WebSocket], object], caplog: pytest.LogCaptureFixture
) -> None:
    bystander = echoing(engine)
    for kind in kinds_of(engine):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "websocket_handler"):
            victim = Victim(engine, event, act, kind)
            code = victim.read_close()
            assert code == {"error": 1002, "close": 1000}.get(event, 1011)
            victim.peer.sock.close()
            assert victim.over.wait(10)
        assert len(victim.ends) == 1
        wait_for(lambda: "raised" in caplog.text, "the log to tell")
        assert_it_echoes(bystander)


def close(websocket: WebSocket) -> None:
    websocket.close(4001)


def abort(websocket: WebSocket) -> None:
    websocket.abort()


def close_and_abort(websocket: WebSocket) -> None:
    websocket.close(4001)
    websocket.abort()
    websocket.close(4002)


@pytest.mark.parametrize("act", [close, abort, close_and_abort])
@pytest.mark.parametrize("event", EVENTS)
def test_listener_that_ends_its_own_connection_emits_close_once(
    engine: Engine, event: str, act: Callable[[WebSocket], object]
) -> None:
    bystander = echoing(engine)
    for kind in kinds_of(engine):
        victim = Victim(engine, event, act, kind)
        code = victim.read_close()
        if event not in ("error", "close"):
            assert code == 4001 if act is close else code in (4001, None)
        victim.peer.sock.close()
        assert victim.over.wait(10)
        assert len(victim.ends) == 1
        assert_it_echoes(bystander)


def pause(websocket: WebSocket) -> None:
    websocket.pause()


def pause_and_resume(websocket: WebSocket) -> None:
    websocket.pause()
    websocket.resume()


@pytest.mark.parametrize("act", [pause, pause_and_resume])
@pytest.mark.parametrize("event", EVENTS)
def test_paused_connection_can_still_be_closed(
    engine: Engine, event: str, act: Callable[[WebSocket], object]
) -> None:
    """A paused connection can be closed all the same."""
    bystander = echoing(engine)
    for kind in kinds_of(engine):
        victim = Victim(engine, event, act, kind)
        victim.websocket.close(4001)
        assert victim.read_close() == {"error": 1002, "close": 1000}.get(event, 4001)
        victim.peer.sock.close()
        assert victim.over.wait(10)
        assert len(victim.ends) == 1
        assert_it_echoes(bystander)


def test_many_raising_listeners_leave_nothing(engine: Engine) -> None:
    """Repeated exceptions leak nothing, and other connections are unaffected."""
    logging.getLogger("websocket_handler").setLevel(logging.CRITICAL)
    try:
        bystander = echoing(engine)
        for _ in range(100):
            victim = Victim(engine, "message", raise_error, kinds_of(engine)[-1])
            assert victim.read_close() == 1011
            victim.peer.sock.close()
            assert victim.over.wait(10)
        assert_it_echoes(bystander)
    finally:
        logging.getLogger("websocket_handler").setLevel(logging.NOTSET)
    assert engine.stats().closed == {1000: 100}  # the peer answers 1011 with this code
    wait_for(
        lambda: [type(channel) for channel in engine._channels()] == [WebSocket], "the sockets"
    )
