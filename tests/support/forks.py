"""Calls in a forked child."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

from websocket_handler import Engine
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame

from .connections import Peer, connect, make_websocket

CHILD_SECONDS = 20


def exit_code_of_child(check: Callable[[], object]) -> int:
    """Call `check` in a forked child; returns its exit code, which is 0 unless `check` raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(CHILD_SECONDS)  # ends a child that hangs
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def echo_in(engine: Engine) -> None:
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    echo_once(peer, "anew")


def echo_once(peer: Peer, message: str) -> None:
    peer.sock.sendall(write_frame(Opcode.TEXT, message.encode(), key=bytes(4)))
    if peer.read() != Message(message):
        raise AssertionError(message)
