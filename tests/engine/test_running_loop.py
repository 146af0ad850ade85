"""Detecting that a caller runs in an event loop, where it must not block; and errors that are
thrown into an engine's thread or greenlet from outside."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import subprocess
import sys
import threading

import pytest

from websocket_handler import IS_NATIVE, Engine
from websocket_handler.engine.running_loop import is_in_event_loop
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..conftest import ROOT
from ..support.connections import connect, make_websocket
from ..support.programs import wait_for

BESIDE_A_LOOP_IN_A_GREENLET = """
from gevent import monkey
monkey.patch_all()
import asyncio, threading
from websocket_handler.engine.running_loop import is_in_event_loop

started, seen = threading.Event(), []

async def main():
    seen.append(is_in_event_loop())
    started.set()
    while len(seen) < 2:
        await asyncio.sleep(0.01)

thread = threading.Thread(target=asyncio.run, args=[main()])
thread.start()
started.wait(10)
seen.append(is_in_event_loop())
thread.join(10)
print(seen)
"""


def test_running_loop_is_found_only_within_a_coroutine() -> None:
    async def ask() -> bool:
        return is_in_event_loop()

    assert asyncio.run(ask())
    assert not is_in_event_loop()


def test_greenlet_outside_of_the_event_loop_has_no_running_loop() -> None:
    command = [sys.executable, "-c", BESIDE_A_LOOP_IN_A_GREENLET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[True, False]\n", done.stderr


THROWN_INTO_A_GREENLET = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from tests.support.connections import connect, make_websocket
from websocket_handler import IS_NATIVE, Engine
from websocket_handler.protocol.frame import Opcode, write_frame

HELLO = write_frame(Opcode.TEXT, b"hello", key=bytes(4))
engine, thrown = Engine(), gevent.event.Event()

def start_timeout(_):
    gevent.Timeout(0.01).start()
    gevent.spawn_later(0.1, thrown.set)

def kill(_):
    engine_greenlet = gevent.getcurrent()
    gevent.spawn(lambda: (engine_greenlet.kill(), thrown.set()))

echo, other = make_websocket(engine), make_websocket(engine)
echo.on("message", echo.send)
other.on("message", {"timeout": start_timeout, "kill": kill}[sys.argv[1]])
peer = connect(echo)
connect(other).sock.sendall(HELLO)
assert thrown.wait(10)
later = make_websocket(engine)
later.on("message", later.send)
for one in (peer, connect(later)):
    one.sock.sendall(HELLO)
    print(one.read().data)
engine.stop(10)
"""


@pytest.mark.parametrize("what", ["timeout", "kill"])
def test_engine_serves_on_after_an_error_was_thrown_into_its_greenlet(what: str) -> None:
    command = [sys.executable, "-c", THROWN_INTO_A_GREENLET, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "hello\nhello\n", done.stderr
    assert done.returncode == 0


def test_engine_serves_on_after_an_error_was_thrown_into_its_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Thrown(BaseException):
        pass

    engine, identifiers = Engine(), []
    echo = make_websocket(engine)
    echo.on("message", echo.send)
    peer = connect(echo)
    engine._post(lambda: identifiers.append(threading.get_ident()))
    wait_for(lambda: identifiers, "the engine's thread")
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    with caplog.at_level(logging.ERROR, "websocket_handler"):
        throw(ctypes.c_ulong(identifiers[0]), ctypes.py_object(Thrown))
        if IS_NATIVE:
            engine.wake()  # without a call, in which the error would be raised
        else:
            engine._post(lambda: None)
        wait_for(lambda: "an error was thrown into the engine" in caplog.text, "the log line")
    peer.sock.sendall(write_frame(Opcode.TEXT, b"hello", key=bytes(4)))
    assert peer.read() == Message("hello")
    engine.stop(10)
