"""Listeners of every kind that raise or end their connection: only that connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from websocket_handler import Engine, WebSocket
from websocket_handler.connection.listeners import EVENTS
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.rooms import Rooms

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .loops import LOOPS

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


def raise_exit(*_: object) -> None:
    raise SystemExit(1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_error_for_the_process_in_a_posted_call_leaves_the_engines_thread_serving(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    bystander = echoing(engine)

    def fail() -> None:
        raise error

    for post in (engine._post, lambda call: engine._call_later(0.01, call)):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "websocket_handler"):
            post(fail)
            wait_for(lambda: "call" in caplog.text, "the error in the log")
        assert_it_echoes(bystander)
    engine.stop(10)


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("event", ["open", "message", "close"])
def test_exit_in_a_listener_reaches_the_loop_and_its_peer_gets_the_close_frame(
    loop_name: str, event: str
) -> None:
    loop = LOOPS[loop_name]()
    engine = Engine(loop)
    websocket = make_websocket(engine)
    websocket.on("message", lambda _: None)
    websocket.on(event, raise_exit)  # type: ignore[call-overload]
    ours, theirs = socket.socketpair()
    peer = Peer(theirs)

    async def give() -> None:
        websocket.connect()
        websocket._take_over(ours)
        code = b"\x03\xe8" if event == "close" else b""
        theirs.sendall(write_frame(Opcode.CLOSE if code else Opcode.TEXT, code, key=KEY))
        await asyncio.sleep(20)

    giving = loop.create_task(give())
    with pytest.raises(SystemExit):
        loop.run_until_complete(giving)
    theirs.setblocking(False)
    received = loop.run_until_complete(loop.sock_recv(theirs, 1 << 16))
    while b"\x88" not in received.partition(b"\r\n\r\n")[2]:
        received += loop.run_until_complete(loop.sock_recv(theirs, 1 << 16))
    code = received.partition(b"\x88")[2][1:3]
    assert int.from_bytes(code, "big") == (1000 if event == "close" else 1011)
    giving.cancel()
    peer.sock.close()
    loop.run_until_complete(asyncio.gather(giving, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_room_that_cannot_be_left_keeps_no_other_part_of_the_end(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener of the rooms raises: the others are called, and `close` follows."""
    bystander = echoing(engine)
    errors: list[type[BaseException]] = [LookupError, GeneratorExit]
    if engine.event_loop is None:  # else it ends the loop
        errors.append(SystemExit)
    for error in errors:
        caplog.clear()
        with caplog.at_level(logging.ERROR, "websocket_handler"):
            leave_a_room_that_raises(engine, error)
        assert caplog.text.count("a listener of the rooms event 'presence' raised") == 1
        wait_for(lambda: engine.stats().open == 1, "the place to be free")
        assert_it_echoes(bystander)


def leave_a_room_that_raises(engine: Engine, error: type[BaseException]) -> None:
    rooms, websocket = Rooms(), make_websocket(engine)
    over, left = threading.Event(), threading.Event()
    websocket.on("close", lambda *_: over.set())
    peer = connect(websocket)
    rooms["room"].add(websocket, "someone")
    wait_for(lambda: websocket._memberships, "the membership")

    @rooms.on("presence")
    def fail(_: object) -> None:
        raise error("on purpose")

    rooms.on("presence", lambda _: left.set())
    peer.sock.close()
    assert over.wait(10)
    assert left.is_set()


def test_handler_of_logging_that_raises_leaves_the_end_complete(engine: Engine) -> None:
    class Failing(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise LookupError("on purpose")

    logger, failing = logging.getLogger("websocket_handler"), Failing()
    before = logger.level
    logger.addHandler(failing)
    logger.setLevel(logging.DEBUG)
    try:
        victim = Victim(engine, "message", raise_error, "plain")
        assert victim.read_close() == 1011
        victim.peer.sock.close()
        assert victim.over.wait(10)
        wait_for(lambda: engine.stats().open == 0, "the place to be free")
    finally:
        logger.setLevel(before)
        logger.removeHandler(failing)
