"""The broker dies under load and returns: the effects on three processes are limited to those
documented. ROOMS_OUTAGE_MESSAGES=100000 is the full scale (`make outage`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.programs import wait_for
from websocket_handler.bus.settings import BusState

from .brokers import BrokerProcess
from .conftest import Connect, Start
from .publishing import send

MESSAGES = int(os.environ.get("ROOMS_OUTAGE_MESSAGES", "12000"))
"""Of all processes together."""

PROCESSES = 3


class Member:
    """A running member.py."""

    def __init__(self, url: str, name: str, *options: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rooms.member", url, name, *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.name} has ended with {self._process.wait()}"
        return json.loads(line)

    def tell(self) -> None:
        """Tell it to begin, or to end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def read_until_sent(self, count: int) -> None:
        while self.read()["sent"] < count:
            pass

    def result(self) -> Any:
        while True:
            said = self.read()
            if "counts" in said:
                assert self._process.wait(20) == 0
                return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def members(url: str, *options: str) -> Iterator[list[Member]]:
    started = [Member(url, name, *options) for name in "abc"[:PROCESSES]]
    try:
        for member in started:
            assert member.read() == "ready"
        for member in started:
            member.tell()
        yield started
    finally:
        for member in started:
            member.close()


def restart(broker: BrokerProcess, away: float = 0.3) -> None:
    broker.kill()
    time.sleep(away)
    broker.start()


@pytest.mark.timeout(900)
def test_outage_with_history_duplicates_nothing_and_reports_losses(kind: str, start: Start) -> None:
    """Redis sends messages to a subscriber with a backlog before it writes them to disk. If it is
    killed in between, it loses the end of the history. The processes that were sent these messages
    cannot know whether the others were, and report a loss."""
    broker = start()
    each = MESSAGES // PROCESSES
    options = ("--history", str(MESSAGES * 2), "--messages", str(each), "--until")
    with members(broker.url, *options, str(each * PROCESSES)) as started:
        for fraction in (4, 2):
            started[0].read_until_sent(each // fraction)
            restart(broker)
        results = [member.result() for member in started]
    everything = {f"{name} {number}" for name in "abc"[:PROCESSES] for number in range(each)}
    for result in results:
        heard = {message.rpartition(" ")[0]: count for message, count in result["counts"].items()}
        lost = everything - set(heard)
        doubled = {message for message, count in heard.items() if count != 1}
        assert doubled == set(), result["stats"]
        is_reported = kind == "redis" and set(result["losses"]) == {None}
        assert is_reported or (lost, result["losses"]) == (set(), []), result["stats"]
        assert "down" in result["states"]


@pytest.mark.timeout(300)
def test_outage_without_history_reports_the_loss_and_recovers(start: Start) -> None:
    broker = start()
    with members(broker.url, "--messages", "1000000", "--pause", "0.005") as started:
        started[0].read_until_sent(500)
        broker.kill()
        time.sleep(2.0)
        broker.start()
        back = time.time()
        started[0].read_until_sent(1500)
        for member in started:
            member.tell()
        results = [member.result() for member in started]
    for result in results:
        others = {name for name in "abc"[:PROCESSES] if name != result["name"]}
        first: dict[str, float] = {}
        for heard, message in result["heard"]:
            name, _, sent = message.split()
            if float(sent) > back:
                first.setdefault(name, heard - back)
        assert set(first) == others, [(one["name"], one["states"], one["stats"]) for one in results]
        assert max(first.values()) < 2.0, first
        assert result["losses"] == [None]
        assert set(result["counts"].values()) == {1}, "doubled"
        states = [state for state, _ in groupby(result["states"])]
        assert states == ["up", "down", "up"]
        check_losses(result, others)


def check_losses(result: Any, others: set[str]) -> None:
    """The missing messages between the first and the last received one are reported."""
    missing = 0
    for name in others:
        numbers = {
            int(message.split()[1]) for message in result["counts"] if message.startswith(name)
        }
        missing += max(numbers) - min(numbers) + 1 - len(numbers)
    assert int(result["stats"]["lost"]) == missing


def test_silent_broker_is_noticed(start: Start, connect: Connect) -> None:
    broker = start()
    bus, recorder = connect(
        broker, "room", heartbeat_interval=0.2, silence_timeout=0.6, connect_timeout=0.5
    )
    _, receiver = connect(
        broker, "room", heartbeat_interval=0.2, silence_timeout=0.6, connect_timeout=0.5
    )
    with broker.held():
        assert "nothing received" in recorder.wait_for_state(BusState.DOWN, 5)
        receiver.wait_for_state(BusState.DOWN, 5)
        send(bus, "room", "waits")
        wait_for(lambda: "has not answered" in recorder.states[-1][1], "a try to connect")
    recorder.wait_for_state(BusState.UP)
    receiver.wait_for_state(BusState.UP)
    assert bus.flush(5)
    send(bus, "room", "after")
    wait_for(lambda: "after" in receiver.messages(), "the message after it")
    # If the sender reconnects first, the receiver misses the messages sent before it is back; the
    # loss is reported.
    assert receiver.messages() in (["waits", "after"], ["after"])
    assert set(receiver.losses) == {("room", None)}


def test_quiet_broker_is_not_taken_for_silent(start: Start, connect: Connect) -> None:
    bus, recorder = connect(start(), "room", heartbeat_interval=0.5, silence_timeout=3.0)
    time.sleep(4.0)
    assert [state for state, _ in recorder.states] == [BusState.UP]
    assert bus.stats().connects == 1


def test_message_stored_before_a_kill_is_not_sent_twice(start: Start, connect: Connect) -> None:
    """Its answers were lost: it was stopped before it could send them."""
    broker = start()
    bus, _ = connect(broker, heartbeat_interval=0.2, silence_timeout=0.6, connect_timeout=0.5)
    _, receiver = connect(broker, "room")
    send(bus, "room", "first")
    receiver.wait_for_messages(1)
    with broker.held():
        send(bus, "room", *map(str, range(100)))
        wait_for(lambda: bus.state is BusState.DOWN, "the silence to be noticed")
    assert bus.flush(10)
    assert receiver.wait_for_messages(101) == ["first", *map(str, range(100))]
    send(bus, "room", "last")
    wait_for(lambda: "last" in receiver.messages(), "the last message")
    assert len(receiver.delivered) == 102
    assert receiver.losses == []


def test_broker_shutdown_is_survived(start: Start, connect: Connect) -> None:
    broker = start()
    bus, recorder = connect(broker, "room")
    broker.signal(signal.SIGTERM)
    recorder.wait_for_state(BusState.DOWN)
    broker.kill()
    broker.start()
    recorder.wait_for_state(BusState.UP)
    send(bus, "room", "x")
    assert bus.flush(5)
    assert recorder.losses == [("room", None)]
