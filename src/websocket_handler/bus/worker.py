"""The worker of the bus: keeps a connection to the broker, publishes and receives messages.

Everything here runs in the bus's thread; `Bus` posts calls to it. A session is one connection: it
subscribes, catches up, is UP, and ends at the first error. The worker then starts the next session,
until it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import traceback
from collections.abc import Callable, Container, Coroutine, Mapping
from typing import Any

from ..brokers.broker import Broker, BrokerError, ChannelsRefused, Entry, Offset, Refusals
from ..brokers.broker_url import BrokerURL
from .envelope import Envelope, EnvelopeKind, encode_content, open_envelope, seal
from .history import HistoryReader
from .listener import BusListener
from .names import ALL_PROCESSES, node_channel
from .outbox import Outbox, Outgoing
from .presence_sync import PresenceSync
from .refusals import BrokerRefusalLog
from .replay import BEGINNING, offset_text
from .settings import BusSettings, BusState, Counters, History
from .subscription import Subscription

logger: logging.Logger = logging.getLogger("websocket_handler")

MAX_BATCH, MAX_BATCH_BYTES = 1000, 1 << 20
"""The maximum numbers of messages and bytes that are sent to the broker before its answers are
awaited."""

MAX_BREAKS = 3
"""A message larger than a batch is given up after the connection was lost this many times while it
was being sent."""

MAX_CHANNELS = 1000
"""The maximum number of channels in one subscribe command."""

LINGER_S = 1.0
"""Seconds for which a room stays subscribed after its last member has left."""

MAX_LINGERING_ROOMS = 1000
"""The maximum number of rooms that stay subscribed without members."""


async def cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended; nats-py sometimes swallows a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        ended, tasks = await asyncio.wait(tasks, timeout=0.05)
        for task in ended:
            if not task.cancelled():
                task.exception()


def without_log(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run a coroutine in a task. asyncio does not log its exception if its awaiter is cancelled."""
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


class BusWorker:
    """Subscribes, publishes and receives."""

    def __init__(
        self,
        url: BrokerURL,
        broker_class: type[Broker],
        node: bytes,
        rooms: BusListener,
        outbox: Outbox,
        history: History | None,
        settings: BusSettings,
        wanted: Container[str] = (),
    ) -> None:
        """`wanted` contains the rooms that have members now. The calls of `join` and `leave` arrive
        later."""
        self.url = url
        self.node = node
        self.rooms = rooms
        self.outbox = outbox
        self.history = history
        self.settings = settings
        self._wanted = wanted
        self.counters: Counters = Counters()
        self.state: BusState = BusState.CONNECTING
        self.limit: int | None = None
        self.ready_rooms: int = 0
        self.joined: dict[str, Subscription] = {}
        self.broker: Broker | None = None
        self.refusals: BrokerRefusalLog = BrokerRefusalLog(self)
        self.presence: PresenceSync = PresenceSync(self)
        self.history_reader: HistoryReader = HistoryReader(self)
        self._broker_class = broker_class
        self._by_channel: dict[str, Subscription] = {}
        self._subscribed: dict[str, str] = {}  # room -> channel, in this session
        self._leaving: dict[str, None] = {}  # rooms without members, oldest first
        self._changed: set[str] = set()
        self._control: list[tuple[str, bytes]] = []
        self._refused_rooms: set[str] = set()  # the broker refused the subscription
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._received_at = 0.0
        self._sending_since: float | None = None
        self._must_check = False
        self._receives_heartbeat = True
        """Whether the broker lets this process subscribe to its own channel."""
        self._newer_version_logged = False
        self._largest = sys.maxsize
        self._reason = ""
        self._random = random.Random()  # noqa: S311
        self._disconnected_at = 0.0
        self.downtime_s: float = 0.0
        """Seconds during which this process received nothing before this session."""

    # Posted by the bus

    def wake(self) -> None:
        """Start the publishing of queued messages."""
        self._wake.set()

    def deliver_early(self, item: Outgoing) -> None:
        """Deliver a message of this process here while the broker cannot send it back."""
        if self.state is not BusState.UP and not item.is_echoed:
            self.deliver_alone(item)

    def deliver_alone(self, item: Outgoing) -> None:
        """Deliver a message of this process here, once, although it may not be in the history."""
        if item.is_local and not item.is_early:
            item.is_early = True
            sent = item.prepared
            self.call(self.rooms.deliver, sent.room, sent.message, sent.key, None, item.context)

    def join(self, name: str) -> None:
        room = self.joined.get(name)
        if room is None:
            room = self.joined[name] = Subscription(name)
            self._by_channel[room.channel] = room
            self._change(name)
        elif room.leaving is not None:
            room.leaving.cancel()
            room.leaving = None
            del self._leaving[name]
            self.ready_rooms += room.is_ready

    def leave(self, name: str) -> None:
        """End the subscription of a room without members, after `LINGER_S` seconds.

        A member that is added again within that time misses nothing.
        """
        room = self.joined.get(name)
        if room is None or room.leaving is not None:
            return
        self.ready_rooms -= room.is_ready
        self.presence.left(room)
        room.notify_ready(False)
        room.notify_subscribed(False)
        room.leaving = asyncio.get_running_loop().call_later(LINGER_S, self._end_subscription, name)
        self._leaving[name] = None
        if len(self._leaving) > MAX_LINGERING_ROOMS:
            self._end_subscription(next(iter(self._leaving)))

    def _end_subscription(self, name: str) -> None:
        room = self.joined.pop(name)
        assert room.leaving is not None
        room.leaving.cancel()
        del self._leaving[name]
        del self._by_channel[room.channel]
        self._refused_rooms.discard(name)
        self.presence.forget(room)
        self.outbox.forget(name)
        self._change(name)

    def when_subscribed(self, name: str, call: Callable[[bool], object]) -> None:
        """Call `call(True)` once messages sent to a joined room are received here.

        Calls `call(False)` if that will not happen.
        """
        room = self.joined.get(name)
        if room is None or room.leaving is not None or self.state is BusState.CLOSED:
            call(False)
        elif room.is_ready:
            call(True)
        else:
            room.when_subscribed.append(call)

    def offset_of(self, name: str) -> str | None:
        """Return the offset of the last message that was delivered to a room; None if the room has
        not been ready yet."""
        room = self.joined.get(name)
        if room is None or not room.has_been_ready:
            return None
        return offset_text(room.cursor) or BEGINNING

    def announce(self, name: str, identities: Mapping[str, int]) -> None:
        if name in self.joined:
            self.presence.announce(self.joined[name], identities)

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(delay, self.call, function)

    def close(self) -> None:
        self._closing.set()

    # Called by the parts of the worker

    def send_control(self, channel: str, kind: EnvelopeKind, content: str) -> None:
        """Send a control message to other processes, if the broker is connected."""
        if self.state is BusState.UP:
            data = seal(kind, self.node, 0, True, encode_content(content, None))
            self._control.append((channel, data))
            self._wake.set()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function of the application, and log its exception. In the bus's thread, a
        `SystemExit` would end the loop."""
        try:
            function(*arguments)
        except BaseException:
            logger.exception("the rooms' %s() raised", getattr(function, "__name__", function))

    def report_loss(self, room: Subscription, count: int | None, is_news: bool = True) -> None:
        self.counters.lost += count or 0
        if is_news and (room.leaving is None or room.name in self._wanted):
            self.call(self.rooms.lost, room.name, count)

    def deliver(self, room: Subscription, envelope: Envelope, offset: Offset | None) -> None:
        """Deliver a message that the broker has sent."""
        arrived = room.sequences.arrived(envelope.node, envelope.number, envelope.starts)
        context = None
        if envelope.node == self.node:
            for lost in self.outbox.remove_overtaken(room.name, envelope.number):
                self.deliver_alone(lost)
            item = self.outbox.acknowledge_echo(room.name, envelope.number)
            self.counters.echoed += 1
            if item is not None:
                if item.is_early:
                    return
                context = item.context
        if arrived is None:
            self.counters.duplicates += 1
            return
        gap, is_news = arrived
        if gap and envelope.node != self.node and (offset is None or is_news):
            self.report_loss(room, gap, is_news)
        if room.leaving is not None and room.name not in self._wanted:
            return
        if envelope.node != self.node:
            self.counters.received += 1
        if envelope.kind is EnvelopeKind.NEWER:
            self._cannot_read(room)
            return
        text = None if offset is None else offset_text(offset)
        self.call(self.rooms.deliver, room.name, envelope.message, envelope.key, text, context)

    def _cannot_read(self, room: Subscription) -> None:
        """Report a message of a process with a newer version of this library."""
        if not self._newer_version_logged:
            self._newer_version_logged = True
            logger.warning(
                "a process with a newer version of this library sends messages that this process "
                "cannot read: they are reported as lost"
            )
        self.report_loss(room, 1)

    def touch(self) -> None:
        """Record that the broker has just answered or sent something."""
        self._received_at = self._loop.time()

    def open(self, channel: str, data: bytes) -> Envelope | None:
        """Parse an envelope. Returns None if it is malformed; the first one is logged."""
        try:
            return open_envelope(data)
        except ValueError as error:
            self.counters.malformed += 1
            if self.counters.malformed == 1:
                logger.warning(
                    "received a malformed message on %s: %s (further ones are only counted)",
                    channel,
                    error,
                )
            return None

    # Sessions

    async def run(self) -> None:
        """Run sessions until `close` is called."""
        self._loop = asyncio.get_running_loop()
        attempt = 0
        while not self._closing.is_set():
            began = self._loop.time()
            reason = await self._run_session()
            if self._closing.is_set():
                break
            if self.state is BusState.UP and self._loop.time() - began > self.settings.backoff_max:
                attempt = 0
            self._mark_down(reason)
            longest = self.settings.backoff_min * 2 ** min(attempt, 30)
            pause = min(longest, self.settings.backoff_max) * self._random.uniform(0.5, 1)
            attempt += 1
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
        self._set_state(BusState.CLOSED, "")
        for room in self.joined.values():
            room.notify_ready(False)
            room.notify_subscribed(False)
        for item in self.outbox.pending_echoes():
            self.deliver_early(item)

    async def _run_session(self) -> str:
        """Run one session. Returns the reason for its end."""
        self.counters.attempts += 1
        self.broker = broker = self._broker_class(
            self.url, self.settings, self.history, self._received
        )
        try:
            await self._session(broker)
        except BrokerError as error:
            return str(error)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            logger.error(
                "unexpected error on the bus to %s: %s", self.url, self.url.without_secrets(text)
            )
            return self.url.without_secrets(repr(error))
        finally:
            self.broker = None
            self._subscribed = {}
            self._control = []
            self._refused_rooms = set()
            self.ready_rooms = 0
            for room in self.joined.values():
                room.is_ready = room.is_catching_up = False
                room.held.clear()
                if self.history is None:
                    room.sequences.reconnected()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(broker.close(), 1)
        return "closed"

    async def _connect(self, broker: Broker) -> None:
        timeout = self.settings.connect_timeout
        try:
            await asyncio.wait_for(without_log(broker.connect()), timeout)
            broker.limit = self.limit = min(broker.limit, self._largest)
            self.downtime_s = self._loop.time() - self._disconnected_at
            self.touch()
            channels = [node_channel(self.node), ALL_PROCESSES]
            refused = await asyncio.wait_for(without_log(broker.subscribe(channels)), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise BrokerError(f"the broker has not answered within {timeout} s") from None
        self._receives_heartbeat = node_channel(self.node) not in refused
        for channel, why in refused.items():
            self.refusals.log("receive from", channel, why)
        self._changed = set(self.joined)

    async def _session(self, broker: Broker) -> None:
        self.touch()
        self._sending_since = None
        tasks = [
            asyncio.ensure_future(task)
            for task in (self._pump(broker), self._watch(), self._wait_for_close())
        ]
        try:
            await asyncio.wait([broker.broken, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set() and self.state is BusState.UP:
                self.presence.announce_exit()
                await asyncio.wait_for(broker.publish(self._control), 1)
            for future in (broker.broken, *tasks):
                if future.done():
                    future.result()
        except (asyncio.TimeoutError, TimeoutError):
            pass
        finally:
            await cancel_all({*tasks, *self.history_reader.tasks})

    async def _wait_for_close(self) -> None:
        await self._closing.wait()

    def _mark_up(self) -> None:
        self.counters.connects += 1
        self.downtime_s = 0.0
        self._set_state(BusState.UP, "")
        self.presence.begin()

    def _mark_down(self, reason: str) -> None:
        if self.state is BusState.UP:
            self._disconnected_at = self._received_at
        self._set_state(BusState.DOWN, reason)
        for room in self.joined.values():
            room.notify_ready(False)
        if self.history is not None:
            for item in self.outbox.pending_echoes():
                self.deliver_early(item)

    def _set_state(self, state: BusState, reason: str) -> None:
        if (state, reason) == (self.state, self._reason):
            return
        self.state, self._reason = state, reason
        where = self.url
        if state is BusState.DOWN:
            logger.warning("the bus to %s is down: %s", where, reason)
        else:
            logger.info("the bus to %s is %s", where, state.value)
        self.call(self.rooms.bus_changed, state, reason)

    # The tasks of a session

    async def _pump(self, broker: Broker) -> None:
        """Connect; then subscribe and publish whenever necessary."""
        await self._connect(broker)
        await self._sync_subscriptions(broker)
        self._mark_up()
        while True:
            self._wake.clear()
            if self._changed:
                await self._sync_subscriptions(broker)
            if self._must_check or self._control or len(self.outbox):
                self._sending_since = self._loop.time()
                if self._must_check:
                    self._must_check = False
                    await broker.check()
                if self._control or len(self.outbox):
                    await self._publish(broker)
                self._sending_since = None
                if not self._receives_heartbeat:
                    self.touch()
            else:
                await self._wake.wait()

    async def _watch(self) -> None:
        """Send heartbeats, to detect a broker that has stopped responding."""
        settings = self.settings
        pause = min(
            settings.heartbeat_interval,
            settings.silence_timeout - settings.heartbeat_interval,
            settings.presence_ttl / 6,
        )
        beats = 0.0
        before = self._loop.time()
        while True:
            await asyncio.sleep(pause)
            now = self._loop.time()
            if now - before > pause + settings.silence_timeout / 2:
                self._received_at = now  # this process did not run in the meantime
            before = now
            since = min(self._received_at, self._sending_since or now)
            if now - since > settings.silence_timeout:
                raise BrokerError(
                    f"nothing received from the broker for {settings.silence_timeout} s"
                )
            if now - beats >= settings.heartbeat_interval:
                beats = now
                self._must_check = True
                self._changed |= self._refused_rooms  # they may be allowed by now
                self.send_control(node_channel(self.node), EnvelopeKind.HEARTBEAT, "")
            self.presence.tick()

    def _change(self, name: str) -> None:
        self._changed.add(name)
        self._wake.set()

    async def _sync_subscriptions(self, broker: Broker) -> None:
        """Subscribe to rooms that were joined, unsubscribe from rooms that were left."""
        changed, self._changed = self._changed, set()
        left = [name for name in changed if name in self._subscribed and name not in self.joined]
        new = [self.joined[name] for name in changed if name in self.joined]
        new = [room for room in new if not room.is_ready]
        for begin in range(0, len(new), MAX_CHANNELS):
            some = new[begin : begin + MAX_CHANNELS]
            channels = {
                room.name: room.channel for room in some if room.name not in self._subscribed
            }
            refused = await self._with_timeout(broker.subscribe(list(channels.values())))
            self._subscribed.update(channels)
            for room in some:
                if room.channel in refused:
                    del self._subscribed[room.name]
                    self.refuse_room(room, refused[room.channel])
            permitted = [room for room in some if room.channel not in refused]
            await self._make_ready(broker, [room for room in permitted if self._is_joined(room)])
        if left:
            await self._with_timeout(
                broker.unsubscribe([self._subscribed.pop(name) for name in left])
            )

    def _is_joined(self, room: Subscription) -> bool:
        return self.joined.get(room.name) is room

    def refuse_room(self, room: Subscription, reason: str) -> None:
        """The broker refuses to let this process receive messages of the room."""
        if not self._is_joined(room):
            return
        self.ready_rooms -= room.is_ready and room.leaving is None
        room.is_ready = False
        room.notify_ready(False)
        room.notify_subscribed(False)
        if room.name not in self._refused_rooms:
            self._refused_rooms.add(room.name)
            self.refusals.room(room.name, reason)

    async def _find_cursors(self, broker: Broker, rooms: list[Subscription]) -> list[Subscription]:
        """With a history: set the rooms' cursors. Returns the rooms whose history may be read."""
        while rooms:
            try:
                await self.history_reader.find_cursors(broker, rooms, self._with_timeout)
            except ChannelsRefused as error:
                for room in rooms:
                    if room.channel in error.reasons:
                        self.refuse_room(room, error.reasons[room.channel])
                rooms = [room for room in rooms if room.channel not in error.reasons]
            else:
                break
        return rooms

    async def _make_ready(self, broker: Broker, rooms: list[Subscription]) -> None:
        if self.history is not None:
            rooms = await self._find_cursors(broker, rooms)
        for room in rooms:
            if not self._is_joined(room):
                continue
            room.is_ready = True
            self.ready_rooms += room.leaving is None
            self._refused_rooms.discard(room.name)
            if room.has_been_ready and self.history is None:
                self.report_loss(room, None)
            elif self.history is not None:
                self.history_reader.on_room_ready(room)
            room.has_been_ready = True
            room.notify_ready(True)
            self.presence.ask(room)

    async def _with_timeout(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await an answer of the broker. Raises `BrokerError` after `silence_timeout` seconds."""
        try:
            return await asyncio.wait_for(without_log(coroutine), self.settings.silence_timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise BrokerError(
                f"the broker has not answered within {self.settings.silence_timeout} s"
            ) from None

    async def _publish(self, broker: Broker) -> None:
        """Publish one batch."""
        control, self._control = self._control, []
        batch = self.outbox.head(MAX_BATCH, MAX_BATCH_BYTES)
        local = {item.prepared.room for item in batch if item.is_local}
        if local:
            await asyncio.sleep(0)  # `join` and `leave` were posted before the messages were queued
            while not all(map(self._can_receive, local)):
                await self._sync_subscriptions(broker)
        wanted = [item for item in batch if not item.is_echoed and not item.is_refused]
        for item in [item for item in wanted if len(item.data) > broker.limit]:
            wanted.remove(item)
            self._refuse(
                item, f"its {len(item.data)} bytes are over the limit of {broker.limit} bytes"
            )
        try:
            refused = await self._send(broker, control, wanted)
        except BrokerError:
            self._count_break(wanted)
            raise
        if refused or self._refused_rooms:
            for index, item in enumerate(wanted):
                if index in refused:
                    self._refuse(item, refused[index])
                elif item.prepared.room in self._refused_rooms:
                    self._deliver_here(item)
        self.counters.published += len(wanted) - len(refused)
        self.outbox.done(len(batch))
        if self.history is not None:
            for name in {item.prepared.room for item in batch} - self.joined.keys():
                self.outbox.forget(name)

    async def _send(
        self, broker: Broker, control: list[tuple[str, bytes]], wanted: list[Outgoing]
    ) -> Refusals:
        """Send control messages, then the wanted messages. Returns the refusals of the latter."""
        messages = [(item.prepared.channel, item.data) for item in wanted]
        if self.history is None:
            refused = await broker.publish([*control, *messages])
            self._log_refused_control(control, refused)
            return {index - len(control): why for index, why in refused.items()}
        if control:
            self._log_refused_control(control, await broker.publish(control))
        if not wanted:
            return {}
        return await broker.append(
            [
                Entry(channel, self.node, item.number, data)
                for (channel, data), item in zip(messages, wanted, strict=True)
            ]
        )

    def _log_refused_control(self, control: list[tuple[str, bytes]], refused: Refusals) -> None:
        for index, why in refused.items():
            if index < len(control):
                self.touch()  # a refused heartbeat does not come back
                self.refusals.log("send to", control[index][0], why)

    def _count_break(self, wanted: list[Outgoing]) -> None:
        """The connection was lost. A large message, which is sent alone, may be the cause.

        Redis closes the connection of a client whose message exceeds its limit, and may not let
        this user read the limit.
        """
        if len(wanted) == 1 and len(wanted[0].data) > MAX_BATCH_BYTES:
            item = wanted[0]
            item.breaks += 1
            if item.breaks == MAX_BREAKS:
                size = len(item.data)
                self._largest = min(self._largest, size - 1)
                self._refuse(item, f"its {size} bytes ended the connection {MAX_BREAKS} times")

    def _can_receive(self, name: str) -> bool:
        """Whether a message published to the room now will be sent back, if it is to be."""
        room = self.joined.get(name)
        return room is None or room.is_ready or name in self._refused_rooms

    def _refuse(self, item: Outgoing, reason: str) -> None:
        """The broker refused a message: only the members in this process receive it."""
        item.is_refused = True
        self.refusals.message(item.prepared.room, reason)
        self._deliver_here(item)

    def _deliver_here(self, item: Outgoing) -> None:
        """Deliver a message here that the broker will not send back; if it does, skip it."""
        name = item.prepared.room
        if self.outbox.acknowledge_echo(name, item.number) is None:
            return
        if name in self.joined:
            self.joined[name].sequences.arrived(self.node, item.number)
        self.deliver_alone(item)

    # Receiving

    def _received(
        self, channel: str, data: bytes, offset: Offset | None, previous: Offset | None
    ) -> None:
        self.touch()
        room = self._by_channel.get(channel)
        if room is None and not channel.startswith("node"):
            return  # the room has just been left
        envelope = self.open(channel, data)
        if envelope is None:
            return
        kind = envelope.kind
        if kind is not EnvelopeKind.MESSAGE and kind is not EnvelopeKind.NEWER:
            if envelope.node != self.node:
                self.presence.received(room, envelope)
        elif room is None:
            return
        elif offset is not None and previous is not None and self.history is not None:
            self.history_reader.received(room, envelope, offset, previous)
        elif envelope.node == self.node:
            self.counters.echoed += 1  # delivered when it was sent
        else:
            self.deliver(room, envelope, None)
