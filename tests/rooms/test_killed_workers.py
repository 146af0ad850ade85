"""Members of local:// rooms on gunicorn, whose workers are killed under load.

Each message is numbered in its room. Members of a worker that stays receive every message once and
in order. With a history, that includes members whose worker was killed: they return with the offset
of their last message. KILLED_WORKERS=full is the full scale (`make killed-workers`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.ports import free_port
from tests.support.programs import Program, running
from websocket_handler import History, Rooms

WORKERS = 4
MASKED_QUESTION = b"\x81\x81\x00\x00\x00\x00?"
HANDSHAKE = (
    "GET /?room={room}&name={name}{since} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Scale(NamedTuple):
    members: int
    rooms: int
    rate: int
    """Messages per second."""
    kills: int
    between_kills: float
    """Seconds."""


SCALE = (
    Scale(members=1000, rooms=100, rate=2000, kills=30, between_kills=2.0)
    if os.environ.get("KILLED_WORKERS") == "full"
    else Scale(members=40, rooms=8, rate=200, kills=3, between_kills=1.0)
)


class Member(asyncio.Protocol):
    """A client that connects again whenever its worker is killed."""

    def __init__(self, port: int, name: str, room: str, has_history: bool) -> None:
        self.name = name
        self.room = room
        self.last = 0
        """The number of the last message."""
        self.is_open = False
        self.connections = 0
        self.errors: list[str] = []
        self.worker = 0
        """The process id of its worker; 0: unknown."""
        self.present: dict[str, int] | None = None
        self._port = port
        self._has_history = has_history
        self._since = ""
        self._is_first = True
        self._has_ended = False
        self._task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._buffer = b""
        self.is_open = False
        since = f"&since={self._since}" if self._since else ""
        head = HANDSHAKE.format(room=self.room, name=self.name, since=since)
        transport.write(head.encode())

    def connection_lost(self, _: object) -> None:
        self.is_open, self.worker = False, 0
        self._is_first = not self._since  # messages were missed unless it returns with an offset
        if not self._has_ended:
            self.connect()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self.errors.append(head.decode())
                self._transport.close()
                return
            self.is_open = True
            self.connections += 1
            self._buffer = rest
            self.ask()
        self._read_frames()

    def _read_frames(self) -> None:
        buffer, begin = self._buffer, 0
        while len(buffer) - begin >= 2:
            size, head = buffer[begin + 1], 2
            if size == 126:
                size, head = int.from_bytes(buffer[begin + 2 : begin + 4], "big"), 4
            end = begin + head + size
            if end > len(buffer):
                break
            self._receive(buffer[begin], buffer[begin + head : end])
            begin = end
        self._buffer = buffer[begin:]

    def _receive(self, head: int, payload: bytes) -> None:
        if head == 0x88:
            self.errors.append(f"closed: {payload[2:].decode()}")
        elif head == 0x81 and payload.startswith(b"{"):
            answer = json.loads(payload)
            self.worker, self.present = answer["worker"], answer["present"]
        elif head == 0x81:
            self._check(payload.decode())
        elif head == 0x89:
            self._transport.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def _check(self, message: str) -> None:
        offset, _, number = message.rpartition(" ")
        if self._has_history and offset:
            self._since = offset
        if not self._is_first and int(number) != self.last + 1:
            self.errors.append(f"{number} after {self.last}")
        self._is_first = False
        self.last = int(number)

    def ask(self) -> None:
        self.present = None
        if self.is_open:
            self._transport.write(MASKED_QUESTION)

    def end(self) -> None:
        self._has_ended = True
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()


class Run:
    """One run with its members and its publisher, which is a process without WebSockets."""

    def __init__(self, program: Program, rooms: Rooms, has_history: bool) -> None:
        self._program = program
        self._rooms = rooms
        self.sent = dict.fromkeys([f"room-{number}" for number in range(SCALE.rooms)], 0)
        self.hit = 0
        """Members whose worker was killed; a member counts each time."""
        self.killed: set[int] = set()
        self.members = [
            Member(program.port, f"m{number}", f"room-{number % SCALE.rooms}", has_history)
            for number in range(SCALE.members)
        ]

    async def run(self) -> None:
        for begin in range(0, len(self.members), 50):
            group = self.members[begin : begin + 50]
            for member in group:
                member.connect()
            await until(lambda group=group: all(one.is_open for one in group))
        killing = asyncio.ensure_future(self._kill())
        await self._publish_until(killing)
        await until(lambda: all(member.is_open for member in self.members))
        await self._expect_presence()  # all workers have joined the rooms of their members
        for room in self.sent:
            self._send(room)
        await until(lambda: all(one.last == self.sent[one.room] for one in self.members))
        await asyncio.sleep(0.3)  # for messages that would arrive twice
        for member in self.members:
            member.end()

    async def _publish_until(self, killing: asyncio.Future[None]) -> None:
        """Send messages at a steady rate until all kills are done. On a machine that is too slow
        for the rate, the members are served first: time that has passed is not made up for."""
        loop, names = asyncio.get_running_loop(), itertools.cycle(self.sent)
        due, before = 0.0, loop.time()
        while not killing.done():
            now = loop.time()
            due, before = min(due + (now - before) * SCALE.rate, SCALE.rate / 10), now
            while due >= 1:
                self._send(next(names))
                due -= 1
            await asyncio.sleep(0.005)
        killing.result()

    def _send(self, room: str) -> None:
        self.sent[room] += 1
        self._rooms[room].send(str(self.sent[room]))

    async def _kill(self) -> None:
        """Kill the workers of random members."""
        for _ in range(SCALE.kills):
            await asyncio.sleep(SCALE.between_kills)
            await until(self._members_of_living_workers)
            worker = random.choice(self._members_of_living_workers()).worker
            os.kill(worker, signal.SIGKILL)
            self.killed.add(worker)
            self.hit += sum(member.worker == worker for member in self.members)

    def _members_of_living_workers(self) -> list[Member]:
        """The members with a known worker. A busy machine may read the answer of a worker, or the
        end of its connection, only after the next kill."""
        return [one for one in self.members if one.worker and one.worker not in self.killed]

    async def _expect_presence(self) -> None:
        expected: dict[str, dict[str, int]] = {}
        for member in self.members:
            expected.setdefault(member.room, {})[member.name] = 1

        def is_right() -> bool:
            wrong = [one for one in self.members if one.present != expected[one.room]]
            for member in wrong:
                member.ask()
            return not wrong

        await until(is_right, 0.2)


async def until(condition: Any, pause: float = 0.02) -> None:
    for _ in range(int(60 / pause)):
        if condition():
            return
        await asyncio.sleep(pause)
    raise AssertionError("waited 60 s in vain")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("history", [None, History(length=100_000)], ids=["plain", "history"])
def test_killed_workers_cost_other_members_nothing(
    tmp_path: Path, history: History | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ROOMS_URL", f"local://{tmp_path}")
    monkeypatch.setenv("HISTORY", str(history.length) if history is not None else "")
    options = ["-w", str(WORKERS), "-k", "gthread", "--threads", "4"]
    port = free_port()
    command = ["-m", "gunicorn", *options, "-b", f"127.0.0.1:{port}", "--log-level", "info"]
    program = Program([*command, "tests.rooms.killed_program:wsgi"], r"Listening at: .*:(\d+)")
    with running(program), Rooms(f"local://{tmp_path}", history=history) as rooms:
        run = Run(program, rooms, history is not None)
        asyncio.run(run.run())
        log = program.log()
    errors = [(one.name, one.connections, one.errors) for one in run.members if one.errors]
    assert errors == [], log[-2000:]
    reconnects = sum(member.connections - 1 for member in run.members)
    sys.stdout.write(
        f"{sum(run.sent.values())} messages, {SCALE.kills} kills, {run.hit} members hit, "
        f"{reconnects} reconnects\n"
    )
    assert reconnects >= run.hit > 0
    assert "Traceback" not in log
