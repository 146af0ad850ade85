"""For any fault of the broker and its history, a process receives every message once and in order,
or a loss report in its place; so does a client that returns.

A hypothesis state machine over real brokers: some hundred steps here, thousands in `make soak`.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.programs import wait_for
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusSettings, BusState, History

from .admin import ADMINS, Admin
from .brokers import BrokerProcess
from .conftest import Start
from .link import Link
from .publishing import send
from .recorder import Recorder
from .replay import Replay

FULL = os.environ.get("ATTACKS") == "full"
EXAMPLES, STEPS = (150, 40) if FULL else (25, 16)

ROOM = "room"
LOST = object()
"""Represents a loss of unknown size in a log; an int is a loss of known size."""

_prefixes = (f"property-{os.getpid()}-{number}" for number in itertools.count())


class Log(Recorder):
    """The messages and losses, in the order of their callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []
        self.offsets: dict[str, str] = {}

    def deliver(
        self, room: str, message: str | bytes, key: str | None, offset: str | None, context: object
    ) -> None:
        super().deliver(room, message, key, offset, context)
        self.entries.append(str(message))
        if offset is not None:
            self.offsets[str(message)] = offset

    def lost(self, room: str, count: int | None) -> None:
        super().lost(room, count)
        self.entries.append(LOST if count is None else count)


class LoggedReplay(Replay):
    """The messages and losses of one member that returns."""

    def __init__(self, *arguments: Any) -> None:
        self.entries: list[Any] = []
        super().__init__(*arguments)

    def try_send(self, message: str | bytes, offset: str) -> bool:
        self.entries.append(str(message))
        return super().try_send(message, offset)

    def on_missed(self, count: int | None) -> None:
        super().on_missed(count)
        self.entries.append(LOST if count is None else count)


def check(entries: list[Any], published: list[str], owed: set[str]) -> None:
    """`published` are the messages of one process, in order; those in `owed` must be among
    `entries`, or a large enough loss must be in their place."""
    mine = [entry for entry in entries if isinstance(entry, str) and entry in set(published)]
    assert len(set(mine)) == len(mine), f"twice: {entries}"
    order = {message: place for place, message in enumerate(published)}
    assert mine == sorted(mine, key=order.__getitem__), f"out of order: {entries}"
    arrived = set(mine)
    for missing, before, after in holes(published, owed, arrived):
        begin = entries.index(before) + 1 if before is not None else 0
        end = entries.index(after) if after is not None else len(entries)
        losses = [entry for entry in entries[begin:end] if not isinstance(entry, str)]
        assert losses, f"{missing} missing, nothing told: {entries}"
        if LOST not in losses:
            assert sum(losses) >= len(missing), f"{missing} missing, {losses} told: {entries}"


def holes(
    published: list[str], owed: set[str], arrived: set[str]
) -> list[tuple[list[str], str | None, str | None]]:
    """Returns the missing messages, with the arrived ones before and after each."""
    found: list[tuple[list[str], str | None, str | None]] = []
    missing: list[str] = []
    before: str | None = None
    for message in published:
        if message in arrived:
            if missing:
                found.append((missing, before, message))
            missing, before = [], message
        elif message in owed:
            missing.append(message)
    if missing:
        found.append((missing, before, None))
    return found


class Machine(RuleBasedStateMachine):
    """`near` publishes over its own connection; `far` is in the room over a link that is cut now
    and then, and publishes too."""

    broker: BrokerProcess
    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.link = Link(self.broker.port)
        self.numbers = itertools.count()
        self.by_near: list[str] = []
        self.by_far: list[str] = []
        self.owed: set[str] = set()
        self.is_in = self.is_cut = self.may_lose = False

    @initialize(length=st.sampled_from([5, 1000]))
    def begin(self, length: int) -> None:
        prefix = next(_prefixes)
        self.history = History(length=length)
        self.admin: Admin = ADMINS[self.kind](self.broker, prefix, self.history)
        self.log = Log()
        self.near = self._bus(self.broker.port, prefix, Recorder())
        self.far = self._bus(self.link.port, prefix, self.log)
        self.near.start()
        wait_for(lambda: self.near.state is BusState.UP, "the broker", 20)
        self.join()

    def _bus(self, port: int, prefix: str, recorder: Recorder) -> Bus:
        scheme = self.broker.url.partition(":")[0]
        bus_settings = BusSettings(
            prefix=prefix,
            heartbeat_interval=1.0,
            silence_timeout=10.0,
            backoff_min=0.01,
            backoff_max=0.05,
        )
        url = f"{scheme}://127.0.0.1:{port}"
        return Bus(url, recorder, history=self.history, settings=bus_settings)

    def teardown(self) -> None:
        if hasattr(self, "far"):
            self.settle()
            self.far.close(1)
            self.near.close(1)
            self.admin.flush()
        self.link.close()

    # Actions

    @rule(count=st.integers(1, 9))
    def publish(self, count: int) -> None:
        messages = [f"near {next(self.numbers)}" for _ in range(count)]
        if self.is_in:
            self.owed.update(messages)
        self.may_lose |= self.is_cut and self.history.length == 5
        self.by_near += messages
        send(self.near, ROOM, *messages)
        assert self.near.flush(20)

    @precondition(lambda self: self.is_in)
    @rule(count=st.integers(1, 3))
    def publish_from_far(self, count: int) -> None:
        """While the link is cut, they are queued for the broker, and are delivered here at once."""
        messages = [f"far {next(self.numbers)}" for _ in range(count)]
        self.owed.update(messages)
        self.by_far += messages
        send(self.far, ROOM, *messages)
        assert self.is_cut or self.far.flush(20)

    @precondition(lambda self: not self.is_cut)
    @rule()
    def cut(self) -> None:
        self.link.cut()
        self.is_cut = True
        wait_for(lambda: self.far.state is BusState.DOWN, "the cut to be noticed", 20)

    @precondition(lambda self: self.is_cut)
    @rule()
    def restore(self) -> None:
        self.link.restore()
        self.is_cut = False
        wait_for(lambda: self.far.state is BusState.UP, "the link", 20)

    @precondition(lambda self: not self.is_in and not self.is_cut)
    @rule()
    def join(self) -> None:
        self.far.join(ROOM)
        assert self.far.wait_until_subscribed(ROOM, 20)
        self.is_in = True

    @precondition(lambda self: self.is_in)
    @rule()
    def leave(self) -> None:
        """Messages that have not arrived yet are not owed any more."""
        self.far.leave(ROOM)
        self.is_in = False
        self.owed.clear()

    # Changes of the history

    @rule()
    def flush(self) -> None:
        self.may_lose = True
        self.admin.flush()

    @rule()
    def recreate(self) -> None:
        self.may_lose = True
        self.admin.recreate(ROOM)

    @rule(count=st.integers(0, 3))
    def trim(self, count: int) -> None:
        self.may_lose = True
        self.admin.trim(ROOM, count)

    @precondition(lambda _: FULL)
    @rule()
    def crash(self) -> None:
        self.may_lose = True
        self.admin.crash()
        wait_for(lambda: self.near.state is BusState.UP, "the broker", 20)
        wait_for(lambda: self.is_cut or self.far.state is BusState.UP, "the broker", 20)

    @rule(
        before=st.integers(0, 4),
        disturbance=st.sampled_from(["nothing", "flush", "recreate", "trim"]),
        after=st.integers(0, 9),
    )
    def outage(self, before: int, disturbance: str, after: int) -> None:
        """The combination most likely to be overlooked, in one step."""
        if not self.is_cut:
            self.cut()
        if before:
            self.publish(before)
        if disturbance == "trim":
            self.trim(1)
        elif disturbance != "nothing":
            getattr(self, disturbance)()
        if after:
            self.publish(after)
        self.restore()

    # Invariants

    @rule(back=st.integers(0, 30))
    def come_back(self, back: int) -> None:
        """A client passes an offset that it received once."""
        self.settle()
        known = [text for text in self.log.offsets if text in self.by_near]
        last = known[-1 - min(back, len(known) - 1)]
        replay = LoggedReplay(self.far, self.log, ROOM, self.log.offsets[last])
        replay.wait()
        assert replay.error is None
        later = self.by_near[self.by_near.index(last) + 1 :]
        check(replay.entries, later, set(later))
        assert not set(replay.entries) & set(self.by_near[: self.by_near.index(last) + 1])

    @rule()
    def settle(self) -> None:
        """Every message has arrived or is reported lost once a later message has arrived."""
        if self.is_cut:
            self.restore()
        if not self.is_in:
            self.join()
        for number in itertools.count():
            mark = f"near {next(self.numbers)} mark {number}"
            losses = len(self.log.losses)
            self.by_near.append(mark)
            send(self.near, ROOM, mark)
            assert self.near.flush(20)
            wait_for(lambda: mark in self.log.entries or len(self.log.losses) > losses, mark, 20)  # noqa: B023
            if mark in self.log.entries:
                break
        assert self.far.flush(20)
        self.look()

    @invariant()
    def look(self) -> None:
        if not hasattr(self, "far"):
            return
        entries = list(self.log.entries)
        for published in (self.by_near, self.by_far):
            known = set(entries)
            owed = {text for text in self.owed if text in published[: last_of(published, known)]}
            check(entries, published, owed)
        if not self.may_lose:
            assert all(isinstance(entry, str) for entry in entries), f"no loss: {entries}"


def last_of(published: list[str], arrived: set[Any]) -> int:
    """Returns the number of messages published up to the last one that arrived."""
    return max((place for place, text in enumerate(published) if text in arrived), default=0)


@pytest.mark.timeout(0 if FULL else 240)
def test_every_message_arrives_once_or_a_loss_is_reported(start: Start, kind: str) -> None:
    options = ["--stream-node-max-entries", "1"] if kind == "redis" else []
    broker = start(*options)
    machine = type("BrokerMachine", (Machine,), {"broker": broker, "kind": kind})
    limits = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=[Phase.generate],  # shrinking an example takes minutes with real brokers
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=False,
    )
    run_state_machine_as_test(machine, settings=limits)
