"""Clients that vanish in every phase of their session leave nothing behind.

SOCKETIO_CLIENTS is the number of clients for each phase.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

import socketio

from ..support.programs import TIMEOUT_S, Program, wait_for
from .engineio_client import PollingClient, connected, finish, receive, vanish, websocket
from .servers import BOTH, serving, state, wait_for_state

CLIENTS = int(os.environ.get("SOCKETIO_CLIENTS", "6"))
MAX_THREADS = 20
"""Threads of a server without those for handlers: 8 are workers, the others the engine's."""
HANDLER_THREADS = 4
LIBRARY_LEAVES_PACKETS = (
    inspect.getsource(socketio.Server).count("del self._binary_packet[eio_sid]") < 2
)
"""Old versions of python-socketio keep a packet whose attachments did not arrive."""
OPTIONS: Any = {"ping_interval": 1, "ping_timeout": 1, "max_http_buffer_size": 100_000}


def opened(program: Program) -> None:
    """Never sends another request."""
    PollingClient(program)


def polling(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    client.begin("GET").close()


def posting(program: Program) -> None:
    """Leaves in the middle of a body."""
    client = PollingClient(program)
    client.connect()
    head = (
        f"POST /socket.io/?EIO=4&transport=polling&sid={client.sid} HTTP/1.1\r\n"
        "Host: localhost\r\nContent-Length: 1000\r\n\r\n42["
    )
    with socket.create_connection(program.address) as sock:
        sock.sendall(head.encode())


def probing(program: Program) -> None:
    client = PollingClient(program)
    with websocket(program, client.sid) as upgrade:
        vanish(upgrade)


def upgrading(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        vanish(upgrade)


def upgraded(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        upgrade.send("5")
        upgrade.send('421["echo"]')
        assert receive(upgrade) == "431[[]]"
        vanish(upgrade)


def unconnected(program: Program) -> None:
    """Opens a WebSocket, and connects to no namespace."""
    with websocket(program) as client:
        vanish(client)


def attaching(program: Program) -> None:
    """Leaves before the attachment of a binary event."""
    with connected(program) as client:
        client.send('451-["echo",{"_placeholder":true,"num":0}]')
        vanish(client)


def flooding(program: Program) -> None:
    with connected(program) as client:
        for _ in range(20):
            client.send('42["fail"]')
            client.send('42["sleep",0.01]')
            client.send('42["garbage')
        vanish(client)


def oversized(program: Program) -> None:
    with connected(program) as client, contextlib.suppress(ConnectionClosed):
        client.send("42" + 200_000 * "x")
        wait_for_end(client)


def oversized_post(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with contextlib.suppress(OSError):  # the server does not read the body
        finish(client.begin("POST", 200_000 * "x"))


def wait_for_end(client: ClientConnection) -> None:
    while True:
        client.recv(TIMEOUT_S)


PHASES: tuple[Callable[[Program], None], ...] = (
    opened,
    polling,
    posting,
    probing,
    upgrading,
    upgraded,
    unconnected,
    attaching,
    flooding,
    oversized,
    oversized_post,
)


@pytest.mark.parametrize("server", BOTH)
def test_clients_that_vanish_in_any_phase_leave_nothing(server: str) -> None:
    serve = {"threads": HANDLER_THREADS} if server == "flask-gunicorn" else {}
    with serving(server, serve=serve, **OPTIONS) as program:
        upgraded(program)
        before = wait_for_state(program, sockets=0, open=0)
        with ThreadPoolExecutor(8) as threads:
            for _ in threads.map(lambda phase: phase(program), CLIENTS * PHASES):
                pass
        wait_for_state(program, sockets=0, environs=0, rooms=0, open=0)
        if not LIBRARY_LEAVES_PACKETS:
            wait_for_state(program, others=0)
        limits = {
            "descriptors": before["descriptors"],
            "tasks": before["tasks"],
            "threads": MAX_THREADS + HANDLER_THREADS,
        }
        for name, limit in limits.items():
            wait_for(partial(is_within, program, name, limit), f"at most {limit} {name}", 20)


def is_within(program: Program, name: str, limit: int) -> bool:
    return bool(state(program)[name] <= limit)
