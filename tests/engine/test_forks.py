"""Forks: in the child every WebSocket of the parent is closed, and every engine starts anew."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, Engine, State, WebSocket
from websocket_handler.engine import default_engine, forks, loop_engine
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..conftest import ROOT
from ..support.connections import Peer, client_role, connect, make_websocket
from ..support.forks import CHILD_SECONDS, echo_in, echo_once, exit_code_of_child
from .carriers import EngineRunner, new_websocket, running_engine


@pytest.fixture(autouse=True)
def _no_warnings_of_forks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
        yield


def check_closed(websocket: WebSocket) -> None:
    """Assert that every call reports a closed connection."""
    if websocket.state is not State.CLOSED or not websocket.wait_closed(5):
        raise AssertionError(websocket)
    calls: list[Callable[[], object]] = [
        lambda: websocket.send("a message"),
        lambda: websocket.send(["a", "message"]),
        lambda: websocket.ping(),
        lambda: websocket.receive(5),
        lambda: websocket.drain(5),
    ]
    for call in calls:
        with pytest.raises(ConnectionClosed):
            call()
    websocket.close()
    websocket.abort()


def make_engine_of_its_own() -> Engine:
    return Engine()


@pytest.mark.parametrize("make", [make_engine_of_its_own, default_engine])
def test_child_has_closed_websockets_and_a_new_engine(
    make: Callable[[], Engine],
) -> None:
    engine = make()
    websocket = make_websocket(engine)
    called: list[object] = []
    websocket.on("message", websocket.send)
    websocket.on("close", lambda *_: called.append("close"))
    peer = connect(websocket)
    client, server = client_role(engine)
    receiving = make_websocket(engine)
    other = connect(receiving)
    other.sock.sendall(write_frame(Opcode.TEXT, b"for the parent", key=bytes(4)))
    assert receiving.receive(10) == "for the parent"

    def check() -> None:
        for inherited in (websocket, client, receiving):
            check_closed(inherited)
        echo_in(engine)
        if called or engine.stats().open != 1:
            raise AssertionError(engine.stats())

    for _ in range(3):
        assert exit_code_of_child(check) == 0
        echo_once(peer, "the parent goes on")
    client.send("to the server")
    assert server.read() == Message("to the server")
    for inherited in (websocket, client, receiving):
        inherited.abort()
        assert inherited.wait_closed(10)
    assert called == ["close"]
    if make is make_engine_of_its_own:
        engine.stop(10)


def test_renewal_that_raises_in_a_child_does_not_prevent_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(forks, "_renewals", [fail, *forks._renewals])
    engine = Engine()
    websocket = make_websocket(engine)
    peer = connect(websocket)

    def check() -> None:
        check_closed(websocket)
        echo_in(engine)
        if "remains in a forked child" not in caplog.text:
            raise AssertionError(caplog.text)

    assert exit_code_of_child(check) == 0
    websocket.send("the parent goes on")
    assert peer.read() == Message("the parent goes on")
    engine.stop(10)


def test_coroutines_of_a_child_see_closed_websockets() -> None:
    with running_engine("asyncio") as runner:
        assert runner.thread is not None
        websocket, _ = new_websocket(runner)
        peer = runner.connect(websocket, "socket")

        async def see() -> None:
            await asyncio.wait_for(websocket.await_closed(), 5)
            for call in (websocket.areceive, websocket.adrain):
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(call(), 5)
            echo = make_websocket(loop_engine())
            echo.on("message", echo.send)
            other = connect_soon(echo)
            await asyncio.to_thread(other.read_head)
            await asyncio.to_thread(echo_once, other, "in a loop of the child")

        assert exit_code_of_child(lambda: asyncio.run(see())) == 0
        assert exit_code_of_child(lambda: check_over(runner.engine)) == 0
        websocket.send("the parent goes on")
        assert peer.recv(100) == b"\x81\x12the parent goes on"


def check_over(engine: Engine) -> None:
    """Assert that the engine accepts no connection, because its loop runs in the parent."""
    with pytest.raises(RuntimeError, match="closed"):
        connect(make_websocket(engine))


def connect_soon(websocket: WebSocket) -> Peer:
    """Like `connect`, in the engine's own thread, which cannot wait for the 101."""
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours)
    return Peer(theirs)


def test_loop_that_runs_only_in_the_child_serves_there() -> None:
    """As with servers that load an application and then fork."""
    loop = asyncio.new_event_loop()
    engine = Engine(loop)

    def check() -> None:
        websocket = make_websocket(engine)
        websocket.on("message", websocket.send)
        peer = connect_soon(websocket)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        peer.read_head()
        echo_once(peer, "in the loop of the child")

    assert exit_code_of_child(check) == 0
    loop.close()


def test_child_of_a_handler_does_not_take_the_connection_over(engine: Engine) -> None:
    ours, theirs = socket.socketpair()
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    websocket.connect()

    def check() -> None:
        websocket._take_over(ours)
        check_closed(websocket)

    assert exit_code_of_child(check) == 0
    websocket._take_over(ours)
    peer = Peer(theirs)
    peer.read_head()
    echo_once(peer, "in the parent")


def fork_in_a_listener(engine: Engine, fork: Callable[[], int]) -> None:
    websocket = make_websocket(engine)
    websocket.on("message", lambda _: websocket.send(str(fork())))
    peer = connect(websocket)
    for _ in range(3):
        peer.sock.sendall(write_frame(Opcode.TEXT, b"fork", key=bytes(4)))
        assert peer.read() == Message("0")


def test_listener_that_forks_continues_to_echo(engine: Engine) -> None:
    bystander = make_websocket(engine)
    connect(bystander)

    def check() -> None:
        check_closed(bystander)
        echo_in(engine)

    fork_in_a_listener(engine, lambda: exit_code_of_child(check))
    bystander.send("still here")


def return_in_a_child(engine: Engine) -> None:
    bystander = make_websocket(engine)
    connect(bystander)

    def fork() -> int:
        child = os.fork()
        if child == 0:
            signal.alarm(CHILD_SECONDS)
            return -1
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    fork_in_a_listener(engine, fork)


def test_child_of_a_listener_ends_when_the_listener_returns() -> None:
    """Its only thread was the engine's, which is not needed in the child. The end of that thread
    ends the process and calls the exit functions of every library in it: here only ours."""
    program = "import tests.engine.test_forks as t; t.return_in_a_child(t.Engine())"
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_multiprocessing_fork_child_serves_its_own_engine(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)

    def check() -> None:
        check_closed(websocket)
        echo_in(engine)

    process = multiprocessing.get_context("fork").Process(target=check)
    process.start()
    process.join(CHILD_SECONDS)
    assert process.exitcode == 0
    websocket.send("the parent goes on")
    assert peer.read() == Message("the parent goes on")


@pytest.mark.parametrize("carrier", ["socket", "TLS"] if IS_NATIVE else ["socket"])
def test_end_in_the_parent_reaches_the_peer_although_a_child_lives(carrier: str) -> None:
    with running_engine("threads") as runner:
        websocket, _ = new_websocket(runner)
        peer = runner.connect(websocket, carrier)
        is_over, end = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(CHILD_SECONDS)
            os.close(end)
            os.read(is_over, 1)
            os._exit(0)
        websocket.send("the child has not touched it")
        assert b"not touched" in peer.recv(100)
        websocket.abort()
        assert peer.recv(100) == b""
        os.close(end)
        os.close(is_over)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")
def test_fork_while_openssl_is_at_work_does_not_hang() -> None:
    with running_engine("threads") as runner:
        websocket, _ = new_websocket(runner)
        websocket.on("message", lambda _: None)
        peer = runner.connect(websocket, "TLS")
        pumping = pump(peer)
        for _ in range(10):
            assert exit_code_of_child(lambda: check_closed_and_echo(websocket, runner)) == 0
        pumping.set()


def check_closed_and_echo(websocket: WebSocket, runner: EngineRunner) -> None:
    check_closed(websocket)
    echo_in(runner.engine)


def pump(peer: socket.socket) -> threading.Event:
    """Send without pause until the event is set."""
    frame = write_frame(Opcode.BINARY, bytes(500_000), key=bytes(4))
    is_over = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):  # the end of the connection
            while not is_over.is_set():
                peer.sendall(frame)

    threading.Thread(target=send, daemon=True).start()
    return is_over
