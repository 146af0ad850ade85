"""A client that reads nothing, among others: no emit waits for it."""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import pytest

from websocket_handler.protocol.frame import Opcode

from ..support.programs import TIMEOUT_S, Program
from ..support.raw_client import RawClient, masked, request, text
from .engineio_client import PATH
from .servers import BOTH, serving, wait_for_state

MEMBERS = 1000
BATCH = 50
EMITS = 15
MAX_ADDED_S = 0.05
"""Seconds that a client that reads nothing may add to an emit to the others."""
SIZE = 50_000
on_both = pytest.mark.parametrize("server", BOTH)


def hello(rooms: str) -> bytes:
    """Return the frames that connect to the main namespace and join rooms of one letter."""
    joins = (f'42{number}["join","{room}"]' for number, room in enumerate(rooms))
    return masked(text("40"), *map(text, joins))


def begin(program: Program, rooms: str, receive_buffer: int | None = None) -> RawClient:
    client = RawClient(program.address, receive_buffer)
    client.sock.sendall(client.handshake(f"{PATH}websocket") + hello(rooms))
    return client


def finish(client: RawClient, rooms: str) -> RawClient:
    """Read until the client is in its rooms."""
    client.expect_opened()
    missing = {f"43{number}[]".encode() for number in range(len(rooms))}
    while missing:
        missing.discard(client.read_frame().payload)
    return client


@contextlib.contextmanager
def members(program: Program, count: int, rooms: str) -> Iterator[list[RawClient]]:
    with contextlib.ExitStack() as stack:
        opened: list[RawClient] = []
        while len(opened) < count:
            batch = [stack.enter_context(begin(program, rooms)) for _ in range(BATCH)]
            opened += [finish(client, rooms) for client in batch]
        yield opened


class Emit(NamedTuple):
    """The seconds of an emit: until the call returned, and until the last member had it."""

    call: float
    delivery: float


def emit(program: Program, room: str, receivers: list[RawClient]) -> Emit:
    """Emit to a room, all but one of whose members read."""
    expected = len('42["news","x"]') + 2
    socks = {client.sock.fileno(): client.sock for client in receivers}
    missing = dict.fromkeys(socks, expected)  # bytes
    with RawClient(program.address) as http, contextlib.closing(select.epoll()) as poll:
        for descriptor in socks:
            poll.register(descriptor, select.EPOLLIN)
        start = time.perf_counter()
        http.sock.sendall(request(f"/emit?text=x&room={room}", {"Connection": "close"}))
        while missing:
            for descriptor, _ in poll.poll(TIMEOUT_S):
                missing[descriptor] -= len(socks[descriptor].recv(missing[descriptor]))
                if not missing[descriptor]:
                    del missing[descriptor]
                    poll.unregister(descriptor)
        delivery = time.perf_counter() - start
        body = http.read_body(http.read_response())
    return Emit(json.loads(body)[0], delivery)


@on_both
def test_client_that_reads_nothing_does_not_delay_an_emit_to_a_thousand(server: str) -> None:
    """The members are in the rooms "a" and "b", the client that reads nothing in "b" only."""
    with (
        serving(server, ping_interval=300) as program,
        members(program, MEMBERS, "ab") as receivers,
        finish(begin(program, "bc", 4096), "bc"),
    ):
        for _ in range(120):  # the buffers of its socket are full, and more is buffered
            program.get(f"/emit?text=x&times={SIZE}&room=c")
        rounds = [
            (emit(program, "a", receivers), emit(program, "b", receivers)) for _ in range(EMITS)
        ]
        alone, beside = zip(*rounds, strict=True)
        for part in (0, 1):
            added = median(each[part] for each in beside) - median(each[part] for each in alone)
            assert added <= MAX_ADDED_S, (alone, beside)


@on_both
def test_emits_return_before_a_client_reads_anything_and_it_is_closed(server: str) -> None:
    """The client reads only after the last emit has returned, so that none waited for it."""
    limits = {"max_buffered": 6 * SIZE, "close_timeout": 60}
    with (
        serving(server, serve=limits, ping_interval=300) as program,
        finish(begin(program, "a", 4096), "a") as client,
    ):
        texts = [f"{number:03}" for number in range(120)]
        for one in texts:
            program.get(f"/emit?text={one}&times={SIZE // 3}&room=a")
        received: list[str] = []
        while (frame := client.read_frame()).opcode == Opcode.TEXT:
            received.append(json.loads(frame.payload[2:])[1][:3])
        assert frame == (Opcode.CLOSE, b"\x03\xf5slow consumer", True)  # 1013
        assert received == texts[: len(received)]
        assert len(received) < len(texts)
        client.reset()
        wait_for_state(program, sockets=0)
