"""An emit never waits for a client."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..support.programs import Program
from .engineio_client import connected, receive
from .servers import BOTH, serving, state, wait_for_state

LIMITS = {"high_water": 20_000, "max_buffered": 300_000, "close_timeout": 1}
SIZE = 50_000
TEXT = SIZE * "x"


def emit_many(program: Program, count: int) -> None:
    for _ in range(count):
        program.get(f"/emit?text=x&times={SIZE}")


def read_news(clients: list[object], count: int) -> None:
    def read(client: object) -> None:
        for _ in range(count):
            assert receive(client) == f'42["news","{TEXT}"]'  # type: ignore[arg-type]

    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(read, clients))


def slow_socket(program: Program) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(program.address)
    return sock


@pytest.mark.parametrize("server", BOTH)
def test_client_that_reads_nothing_is_closed_and_delays_nobody(server: str) -> None:
    with (
        serving(server, serve=LIMITS) as program,
        connected(program) as one,
        connected(program) as two,
        connected(program, sock=slow_socket(program), max_queue=1),
        ThreadPoolExecutor(1) as other,
    ):
        emitting = other.submit(emit_many, program, 100)
        read_news([one, two], 100)
        emitting.result()
        wait_for_state(program, sockets=2)
        assert state(program)["journal"] == [["disconnect", "transport close"]]


@pytest.mark.parametrize("server", BOTH)
def test_slow_client_misses_volatile_events_and_stays(server: str) -> None:
    serve = {**LIMITS, "volatile": ["news"]}
    with (
        serving(server, serve=serve) as program,
        connected(program) as good,
        connected(program, sock=slow_socket(program), max_queue=1) as slow,
        ThreadPoolExecutor(1) as other,
    ):
        emitting = other.submit(emit_many, program, 100)
        read_news([good], 1)
        emitting.result()
        assert state(program)["sockets"] == 2
        slow.send('421["echo","alive"]')
        news = 0
        while (message := receive(slow)) != '431[["alive"]]':
            assert message.startswith('42["news"')
            news += 1
        assert news < 100
