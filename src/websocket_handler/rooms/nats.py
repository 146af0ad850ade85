"""NATS: core subjects, and for the history one JetStream stream for all rooms.

What is sent to a room with a history goes to a subject of the stream. That stores it and
republishes it to the room's ordinary subject, with its number in the stream and that of the
message before it in the same room; so what is heard live is what was stored. An offset is the
time at which the stream was made, in milliseconds, and a number of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from .broker import Broker, BrokerError, Entry, Offset, Page, Tip, each_host
from .bus_settings import History
from .envelope import open_envelope

HEADERS = 200
"""Bytes that are left for the headers of a stored message."""

DUPLICATES = 600.0
"""Seconds for which JetStream knows what it has stored: a retry after them stores twice, unless
this process has heard its message before."""

FEWER = 1
"""Seconds after which messages that were to be read but have grown too old are given up."""

AT_ONCE = 200
"""Requests under way at a time."""


class NatsBroker(Broker):
    """One NATS server, or a cluster, of which one server is enough."""

    _client: Client | None = None
    _noticing: asyncio.Task[None] | None = None
    _acknowledged: dict[str, asyncio.Future[None]]
    _made = 0
    """When the stream was made: that of before is another history."""

    # The connection

    async def connect(self) -> None:
        prefix = self.settings.prefix
        self._subscriptions: dict[str, Subscription] = {}
        self._acknowledged = {}
        self._tokens = itertools.count()
        self._stream = f"{prefix}-rooms"
        self._first_error: Exception | None = None
        with _broker_errors():
            try:
                self._client = Client()
                await self._client.connect(
                    each_host(self.url),
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=int(self.settings.connect_timeout) + 1,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    pending_size=16 << 20,
                )
            except (NatsError, OSError, asyncio.TimeoutError) as error:
                raise BrokerError(explain(self._first_error or error)) from error
            self._noticing = asyncio.create_task(self._notice())
            self.limit = self._client.max_payload
            if self.history is not None:
                self.limit -= HEADERS
                self._inbox = self._client.new_inbox()
                await self._client.subscribe(f"{self._inbox}.*", cb=self._on_acknowledgement)
                await self._have_stream()

    async def _on_error(self, error: Exception) -> None:
        self._first_error = self._first_error or error
        if isinstance(error, OSError):
            self.has_broken(explain(error))

    async def _notice(self) -> None:
        """The end of the connection, also where nats-py fails before it calls `closed_cb`."""
        while not self.client.is_closed:
            await asyncio.sleep(0.1)
        await self._on_closed()

    async def _on_closed(self) -> None:
        client = self._client
        error = client.last_error if client is not None else None
        self.has_broken(explain(error) if error is not None else "the broker has disconnected")

    async def close(self) -> None:
        if self._noticing is not None:
            self._noticing.cancel()
        if self._client is not None:
            await self._client.close()
        for future in self._acknowledged.values():
            future.cancel()

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    # Channels

    def _subject(self, channel: str) -> str:
        return f"{self.settings.prefix}.{channel}"

    def _kept_subject(self, channel: str) -> str:
        return f"{self.settings.prefix}-kept.{channel}"

    async def subscribe(self, channels: Sequence[str]) -> None:
        with _broker_errors():
            for channel in channels:
                self._subscriptions[channel] = await self.client.subscribe(
                    self._subject(channel),
                    cb=self._listener(channel),
                    pending_bytes_limit=self.settings.queue_bytes * 2,
                )
            await self.client.flush(int(self.settings.silence) + 1)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        with _broker_errors():
            for channel in channels:
                await self._subscriptions.pop(channel).unsubscribe()

    def _listener(self, channel: str) -> Callable[[Msg], Awaitable[None]]:
        receive = self.receive

        async def listen(message: Msg) -> None:
            offset: Offset | None = None
            previous: Offset | None = None
            headers = message.headers
            if headers and self.history is not None:
                with contextlib.suppress(KeyError, ValueError):
                    offset = self._made, int(headers["Nats-Sequence"])
                    previous = self._made, int(headers["Nats-Last-Sequence"])
            try:
                receive(channel, message.data, offset, previous)
            except Exception as error:
                self.has_broken(repr(error))
                raise

        return listen

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        client = self.client
        with _broker_errors():
            for channel, data in messages:
                await client.publish(self._subject(channel), data)
            await client.flush(int(self.settings.silence) + 1)

    # The history

    async def _have_stream(self) -> None:
        assert self.history is not None
        prefix = self.settings.prefix
        config = stream_config(self._stream, prefix, self.history)
        manager = self.client.jsm()
        try:
            info = await manager.add_stream(config)
        except ServiceUnavailableError as error:
            raise BrokerError("the broker has no JetStream, which a history needs") from error
        except APIError as error:
            if error.err_code != 10058:  # the name is in use, with other settings
                raise
            info = await manager.update_stream(config)
        self._made = _milliseconds(info)

    async def append(self, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        client = self.client
        waiting = []
        try:
            with _broker_errors():
                for channel, node, number, data in entries:
                    token = str(next(self._tokens))
                    future = self._acknowledged[token] = loop.create_future()
                    waiting.append(future)
                    await client.publish(
                        self._kept_subject(channel),
                        data,
                        reply=f"{self._inbox}.{token}",
                        headers={"Nats-Msg-Id": f"{node.hex()}-{number}-{channel}"},
                    )
                await asyncio.gather(*waiting)
        finally:
            for future in waiting:
                future.cancel()

    async def _on_acknowledgement(self, message: Msg) -> None:
        future = self._acknowledged.pop(message.subject.rpartition(".")[2], None)
        if future is None or future.done():
            return
        if message.headers and message.headers.get("Status") == "503":
            future.set_exception(BrokerError("the broker's JetStream does not answer"))
            return
        try:
            answer = json.loads(message.data)
            error = answer.get("error")
        except (ValueError, AttributeError):
            error = {"description": "an answer that is none"}
        if error:
            text = f"the broker's JetStream refuses: {error.get('description')}"
            future.set_exception(BrokerError(text))
        else:
            future.set_result(None)

    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        found: list[Tip] = []
        with _broker_errors():
            try:
                self._made = _milliseconds(await self.client.jsm().stream_info(self._stream))
            except NotFoundError:
                await self._have_stream()
            for begin in range(0, len(channels), AT_ONCE):
                some = channels[begin : begin + AT_ONCE]
                found += await asyncio.gather(*map(self._tip, some))
        return found

    async def _tip(self, channel: str) -> Tip:
        subject = self._kept_subject(channel)
        try:
            message = await self.client.jsm().get_msg(self._stream, subject=subject, direct=True)
        except NotFoundError:
            return Tip((self._made, 0), None)
        return Tip((self._made, message.seq or 0), message.data)

    async def read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        with _broker_errors():
            return await self._read(channel, after, count, identity)

    async def _read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        begin = after[1] + 1 if after else 1
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=begin,
            ack_policy=AckPolicy.NONE,
            filter_subject=self._kept_subject(channel),
            inactive_threshold=30,
            mem_storage=True,
        )
        info = await self.client.jsm().add_consumer(self._stream, config)
        pending = info.num_pending or 0
        entries = await self._fetch(info.name, min(count, pending)) if pending else []
        await self.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{info.name}")
        if not pending:
            return Page(entries, 0)
        return Page(entries, await self._missing(channel, after, pending, identity))

    async def _fetch(self, consumer: str, count: int) -> list[tuple[Offset, bytes]]:
        """The next messages of a consumer, all by one request."""
        entries: list[tuple[Offset, bytes]] = []
        done = asyncio.get_running_loop().create_future()

        async def take(message: Msg) -> None:
            if message.headers and "Status" in message.headers:
                count_is_reached = True  # or there are fewer now
            else:
                about = message.metadata
                entries.append(((self._made, about.sequence.stream), message.data))
                count_is_reached = len(entries) == count or not about.num_pending
            if count_is_reached and not done.done():
                done.set_result(None)

        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox, cb=take)
        ask = {"batch": count, "no_wait": True, "expires": FEWER * 10**9}
        request = json.dumps(ask).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        try:
            await self.client.publish(subject, request, reply=inbox)
            await asyncio.wait_for(done, self.settings.silence)
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()
        return entries

    async def _missing(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> int | None:
        """None unless it is sure that nothing between `after` and the first of `count` messages
        has gone: the message `after` is still there, or it is the beginning and the room never
        had as many as are kept."""
        assert self.history is not None
        if after and after[1]:
            with contextlib.suppress(NotFoundError):
                found = await self.client.jsm().get_msg(self._stream, seq=after[1], direct=True)
                is_here = found.subject == self._kept_subject(channel)
                return 0 if is_here and _is(found.data, identity) else None
            return None
        length, age = self.history.length, self.history.age
        return 0 if age is None and length is not None and count < length else None

    def is_same_history(self, one: Offset, other: Offset) -> bool:
        return one[:1] == other[:1]

    def beginning(self, offset: Offset) -> Offset:
        return (offset[0] if offset else self._made), 0

    def parse_offset(self, text: str) -> Offset:
        """Without the time at which the stream was made, it is one of the stream there is."""
        made, _, number = text.rpartition("-")
        if not re.fullmatch(r"([0-9]{1,20}-)?[0-9]{1,20}", text) or int(number) >= 1 << 64:
            raise ValueError(f"not an offset of a room's history: {text!r}")
        return (int(made) if made else self._made), int(number)


def stream_config(name: str, prefix: str, history: History) -> StreamConfig:
    """One stream for all rooms that share a prefix."""
    age = history.age or 0.0
    return StreamConfig(
        name=name,
        subjects=[f"{prefix}-kept.>"],
        storage=StorageType.FILE,
        max_msgs_per_subject=history.length if history.length is not None else -1,
        max_age=age,
        duplicate_window=min(DUPLICATES, age) if age else DUPLICATES,
        discard=DiscardPolicy.OLD,
        allow_direct=True,
        republish=RePublish(src=f"{prefix}-kept.>", dest=f"{prefix}.>"),
    )


def _milliseconds(info: StreamInfo) -> int:
    """When a stream was made."""
    return int(info.created.timestamp() * 1000) if info.created else 0


def _is(data: bytes | None, identity: tuple[bytes, int] | None) -> bool:
    """Whether a stored message is this one, as far as that is known."""
    if identity is None:
        return True
    try:
        envelope = open_envelope(data or b"")
    except ValueError:
        return False
    return (envelope.node, envelope.number) == identity


@contextlib.contextmanager
def _broker_errors() -> Iterator[None]:
    """What goes wrong with the connection, in words."""
    try:
        yield
    except (NatsError, OSError, asyncio.TimeoutError) as error:
        raise BrokerError(explain(error)) from error


def explain(error: BaseException) -> str:
    text = str(error) or repr(error)
    if "Authorization Violation" in text:
        return f"the broker refuses this user or password: {text}"
    if "INFO" in text:
        return f"this does not answer like a NATS server: {text}"
    return text
