"""Both engines have the same interface, and the one in plain Python warns of its limits."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Engine, State, WebSocket
from websocket_handler.engine import Channel
from websocket_handler.engine import pure as fallback
from websocket_handler.engine.interface import ChannelEvents, ChannelInterface, EngineInterface
from websocket_handler.engine.send_state import SendState

from ..support.connections import connect, make_websocket

ENGINES: list[Any] = [fallback.Engine]
CHANNELS: list[Any] = [fallback.Channel]
if IS_NATIVE:
    ENGINES.append(Engine)
    CHANNELS.append(Channel)


def members(protocol: type) -> list[str]:
    """Returns the names of the methods and attributes that a protocol declares."""
    own = {**vars(protocol), **protocol.__annotations__}
    names = [name for name in own if not name.startswith(("__", "_abc", "_is_protocol"))]
    return [name for name in names if name != "_is_runtime_protocol"]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        *((EngineInterface, engine) for engine in ENGINES),
        *((ChannelInterface, channel) for channel in CHANNELS),
        (ChannelEvents, WebSocket),
    ],
)
def test_interface_members_exist_at_run_time(protocol: type, implementation: type) -> None:
    made = implementation() if implementation in ENGINES else implementation
    for name in members(protocol):
        assert hasattr(made, name), name
        declared = getattr(protocol, name, None)
        if inspect.isfunction(declared):
            found = parameters(getattr(implementation, name))
            assert found[: len(parameters(declared))] == parameters(declared), name


@pytest.mark.parametrize("engine_class", ENGINES)
def test_engine_takes_the_same_arguments(engine_class: Any) -> None:
    assert parameters(engine_class.__init__) == ["loop", "threads"]
    assert engine_class(threads=4).listener_takeovers == 0


WARNS = """
import socket
from tests.support.connections import connect, make_websocket
from websocket_handler import Engine
for _ in range(2):
    engine = Engine()
    connect(make_websocket(engine))
    engine.stop()
"""


@pytest.mark.parametrize("pure", ["0", "1"])
def test_engine_in_plain_python_warns_once(pure: str) -> None:
    if pure == "0" and not IS_NATIVE:
        pytest.skip("there is no native engine")
    environment = {**os.environ, "WEBSOCKET_HANDLER_PURE_PYTHON": pure}
    command = [sys.executable, "-c", WARNS]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.count("uses its pure-Python engine") == int(pure)


ENDS_DURING_THE_FIRST_HAND_OVER = """
import socket, sys, threading
from tests.support.connections import make_websocket
from websocket_handler import Engine
for _ in range(40):
    engine = Engine()
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    websocket = make_websocket(engine)
    websocket.connect()
    together = threading.Barrier(2)
    def end():
        together.wait()
        websocket.abort() if sys.argv[1] == "abort" else websocket.close(4000)
    thread = threading.Thread(target=end)
    thread.start()
    together.wait()
    websocket._take_over(ours)
    received = b""
    while not received.endswith(b"\\x88\\x02\\x0f\\xa0"):
        data = theirs.recv(4096)
        if not data:
            break
        received += data
    else:
        theirs.close()
    thread.join()
    if not websocket.wait_closed(10):
        sys.exit("a connection was not closed")
    engine.stop()
"""


@pytest.mark.parametrize("pure", ["0", "1"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_end_during_the_first_handover_is_noticed(how: str, pure: str) -> None:
    environment = {**os.environ, "WEBSOCKET_HANDLER_PURE_PYTHON": pure}
    command = [sys.executable, "-c", ENDS_DURING_THE_FIRST_HAND_OVER, how]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_connection_aborted_before_attach_is_released(engine: Engine) -> None:
    connect(make_websocket(engine))  # it runs
    websocket = make_websocket(engine)
    websocket.connect()
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    websocket._taken_over = True  # the state that another thread finds when it aborts meanwhile
    aborted = threading.Event()
    engine._post(websocket.abort)
    engine._post(aborted.set)
    assert aborted.wait(10)
    assert websocket.state is State.CLOSED
    engine._attach(websocket, ours)
    with theirs:
        while theirs.recv(4096):  # until the end
            pass


def test_stop_in_the_engines_own_thread_closes_its_connections(engine: Engine) -> None:
    websocket, over = make_websocket(engine), threading.Event()
    websocket.on("close", lambda *_: over.set())
    peer = connect(websocket)
    engine._post(engine.stop)
    assert peer.sock.recv(1) == b""
    assert over.wait(10)


@pytest.mark.skipif(not IS_NATIVE, reason="the values are those of the native channel")
def test_send_states_of_both_channels_agree() -> None:
    declared = Path(fallback.__file__).with_name("channel.pxd").read_text()
    for state in SendState:
        assert f"SEND_{state.name} = {state.value}\n" in declared
