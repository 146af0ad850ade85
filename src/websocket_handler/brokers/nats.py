"""NATS: core subjects, and one JetStream stream for the history of all rooms.

A message to a room with a history is published on a subject of the stream. JetStream stores it and
republishes it on the room's ordinary subject, with its sequence number and that of the previous
message of the same room. Messages received live are therefore the stored ones. An offset is the
creation time of the stream in milliseconds, and a sequence number.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

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

from ..bus.envelope import open_envelope
from ..bus.settings import IDLE_EXPIRY_S, History
from .broker import Broker, BrokerError, Entry, Offset, Page, Refusals, Tip
from .broker_url import BrokerURL, tls_context

MAX_HEADER_BYTES = 300
"""Bytes reserved for the headers of a stored message; the longest headers have 270."""

VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
"""nats-py converts the text of an error to lower case, including the subject."""

TOO_LARGE_ERROR_CODE = 10054

DUPLICATE_WINDOW_S = 600.0
"""Seconds for which JetStream detects duplicates. A later retry stores a message twice; this
process still skips it if it has received the message before."""

FETCH_EXPIRES_S = 1
"""Seconds to wait for messages that may have expired since they were counted."""

MAX_CONCURRENT_REQUESTS = 200
"""The maximum number of concurrent requests."""


class NatsConnection(Client):
    """A client that uses TLS if the URL requires it, even if the server does not, and that connects
    only to the servers of the URL."""

    def __init__(self, requires_tls: bool) -> None:
        super().__init__()
        self._requires_tls = requires_tls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Process INFO. The first one arrives before TLS, so that an attacker may have written
        it."""
        info.pop("connect_urls", None)
        if self._requires_tls and initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NatsError("the URL requires TLS, but the server does not offer it")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection=initial_connection)

    def _connect_command(self) -> bytes:
        """Return CONNECT, which contains the password."""
        writer = getattr(self._transport, "_io_writer", None)
        if self._requires_tls and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise NatsError("the URL requires TLS, but the connection does not use it")
        return super()._connect_command()

    async def _process_pong(self) -> None:
        """Process PONG. nats-py closes the connection if the wait for it was cancelled."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def confirm(self, timeout: float) -> None:
        """Wait until the server has read everything that was sent.

        The PING of `flush` alone overtakes data that is still pending.
        """
        await self._flush_pending(force_flush=True)
        await self.flush(int(timeout) + 1)


class NatsBroker(Broker):
    """One NATS server, or a cluster, of which one server suffices."""

    limit: int

    _client: NatsConnection | None = None
    _watch_task: asyncio.Task[None] | None = None
    _acknowledged: dict[str, tuple[asyncio.Future[str | None], str]]
    _created_ms = 0
    """The creation time of the stream. A stream with another one is another history."""

    # The connection

    async def connect(self) -> None:
        prefix = self.settings.prefix
        self._subscriptions: dict[str, Subscription] = {}
        self._acknowledged = {}
        self._tokens = itertools.count()
        self._stream = f"{prefix}-rooms"
        self._first_error: Exception | None = None
        self._refused: set[tuple[str, str]] = set()
        self._collecting_count = 0
        user, password, token = credentials(self.url)
        with self.errors():
            try:
                self._client = NatsConnection(self.url.is_tls)
                await self._client.connect(
                    [f"nats://{host}" for host in self.url.hosts],
                    user=user,
                    password=password,
                    token=token,
                    tls=tls_context(self.url) if self.url.is_tls else None,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=int(self.settings.connect_timeout) + 1,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    pending_size=16 << 20,
                )
            except (NatsError, OSError, asyncio.TimeoutError) as error:
                raise BrokerError(self.explain(self._first_error or error)) from error
            self._watch_task = asyncio.create_task(self._watch_connection())
            self.limit = self._client.max_payload
            if self.history is not None:
                self.limit -= MAX_HEADER_BYTES
                self._inbox = self._client.new_inbox()
                await self._client.subscribe(f"{self._inbox}.*", cb=self._on_acknowledgement)
                await self._ensure_stream()

    async def _on_error(self, error: Exception) -> None:
        violation = VIOLATION.search(str(error).lower())
        if violation and self._collecting_count and self._is_of_room(violation[2]):
            self._record_refusal(violation[1], violation[2])
            return
        self._first_error = self._first_error or error
        if violation or isinstance(error, OSError):
            self.fail(self.explain(error))

    def _is_of_room(self, subject: str) -> bool:
        begins = (self._subject(""), self._stored_subject(""))
        return subject.startswith(tuple(begin.lower() for begin in begins))

    def _record_refusal(self, operation: str, subject: str) -> None:
        self._refused.add((operation, subject))
        for future, kept in self._acknowledged.values():
            if kept.lower() == subject and not future.done():
                future.set_result("permission denied")

    @contextlib.contextmanager
    def _collecting_refusals(self) -> Iterator[set[tuple[str, str]]]:
        """Collect the server's refusals during the block: ("publish" or "subscription",
        subject)."""
        self._refused.clear()
        self._collecting_count += 1
        try:
            yield self._refused
        finally:
            self._collecting_count -= 1

    async def _watch_connection(self) -> None:
        """Detect the end of the connection, even if nats-py fails before it calls `closed_cb`."""
        while not self.client.is_closed:
            await asyncio.sleep(0.1)
        await self._on_closed()

    async def _on_closed(self) -> None:
        client = self._client
        error = client.last_error if client is not None else None
        self.fail(self.explain(error) if error is not None else "the broker has disconnected")

    async def close(self) -> None:
        if self._watch_task is not None:
            self._watch_task.cancel()
        if self._client is not None:
            await self._client.close()
        for future, _ in self._acknowledged.values():
            future.cancel()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Convert connection errors to `BrokerError` with a readable text."""
        try:
            yield
        except (NatsError, OSError, asyncio.TimeoutError) as error:
            raise BrokerError(self.explain(error)) from error

    def explain(self, error: BaseException) -> str:
        text = self.url.without_secrets(str(error) or repr(error))
        if "authorization violation" in text.lower():
            return f"the broker refuses this user or password: {text}"
        if "permissions violation" in text.lower():
            return f"the user lacks a permission: {text}"
        if "INFO" in text:
            return f"the server does not answer like a NATS server: {text}"
        return text

    @property
    def client(self) -> NatsConnection:
        assert self._client is not None
        return self._client

    # Channels

    def _subject(self, channel: str) -> str:
        return f"{self.settings.prefix}.{channel}"

    def _stored_subject(self, channel: str) -> str:
        return f"{stored_prefix(self.settings.prefix)}.{channel}"

    async def subscribe(self, channels: Sequence[str]) -> dict[str, str]:
        with self.errors(), self._collecting_refusals() as refused:
            await self._subscribe(channels)
            suspected = [
                channel
                for channel in channels
                if ("subscription", self._subject(channel).lower()) in refused
            ]
            if len(suspected) > 1:
                suspected = [one for one in suspected if not await self._subscribe_alone(one)]
            for channel in suspected:
                await self._subscriptions.pop(channel).unsubscribe()
        return dict.fromkeys(suspected, "no permission to subscribe")

    async def _subscribe(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._subscriptions[channel] = await self.client.subscribe(
                self._subject(channel),
                cb=self._listener(channel),
                pending_bytes_limit=self.settings.queue_bytes * 2,
            )
        await self._flush()

    async def _subscribe_alone(self, channel: str) -> bool:
        """Subscribe again, to one channel. Returns False if the server refuses it.

        The refusal may have been about another channel whose name differs in case only.
        """
        await self._subscriptions.pop(channel).unsubscribe()
        self._refused.clear()
        await self._subscribe([channel])
        return not self._refused

    async def _flush(self) -> None:
        """Wait until the server has read everything that was sent."""
        await self.client.confirm(self.settings.silence_timeout)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        with self.errors():
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
                    offset = self._created_ms, int(headers["Nats-Sequence"])
                    previous = self._created_ms, int(headers["Nats-Last-Sequence"])
            try:
                receive(channel, message.data, offset, previous)
            except Exception as error:
                self.fail(repr(error))
                raise

        return listen

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Refusals:
        with self.errors(), self._collecting_refusals() as refused:
            await self._publish(messages)
            suspected = [
                index
                for index, (channel, _) in enumerate(messages)
                if ("publish", self._subject(channel).lower()) in refused
            ]
            if len({messages[index][0] for index in suspected}) > 1:
                suspected = [
                    index for index in suspected if not await self._publish_alone(messages[index])
                ]
        return dict.fromkeys(suspected, "no permission to publish")

    async def _publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for channel, data in messages:
            await self.client.publish(self._subject(channel), data)
        await self._flush()

    async def _publish_alone(self, message: tuple[str, bytes]) -> bool:
        """Publish one message again. Returns False if the server refuses it.

        The refusal may have been about a message to a channel whose name differs in case only. A
        process that has received the message already skips the copy.
        """
        self._refused.clear()
        await self._publish([message])
        return not self._refused

    # The history

    async def _ensure_stream(self) -> None:
        assert self.history is not None
        prefix = self.settings.prefix
        config = stream_config(self._stream, prefix, self.history)
        manager = self.client.jsm()
        try:
            info = await manager.add_stream(config)
        except ServiceUnavailableError as error:
            raise BrokerError("the broker has no JetStream, which a history needs") from error
        except APIError as error:
            if error.err_code != 10058:  # the name is in use with other settings
                raise
            info = await manager.update_stream(config)
        self._created_ms = _milliseconds(info)

    async def append(self, entries: Sequence[Entry]) -> Refusals:
        with self.errors(), self._collecting_refusals():
            refused = await self._append(entries)
            suspected = {entries[index].channel for index in refused}
            if len({channel.lower() for channel in suspected}) < len(suspected):
                # The server's error was about one of several channels that differ in case only.
                alone = {}
                for index in refused:
                    alone[index] = (await self._append([entries[index]])).get(0)
                refused = {index: why for index, why in alone.items() if why}
        return refused

    async def _append(self, entries: Sequence[Entry]) -> dict[int, str]:
        loop = asyncio.get_running_loop()
        waiting: dict[str, asyncio.Future[str | None]] = {}
        try:
            for channel, node, number, data in entries:
                token = str(next(self._tokens))
                waiting[token] = loop.create_future()
                subject = self._stored_subject(channel)
                self._acknowledged[token] = waiting[token], subject
                await self.client.publish(
                    subject,
                    data,
                    reply=f"{self._inbox}.{token}",
                    headers={"Nats-Msg-Id": f"{node.hex()}-{number}-{channel}"},
                )
            answers = await asyncio.gather(*waiting.values())
        finally:
            for token, future in waiting.items():
                future.cancel()
                self._acknowledged.pop(token, None)
        refused = {index: answer for index, answer in enumerate(answers) if answer}
        if refused:
            await self._flush()  # each refusal has its own error, which may still arrive
        return refused

    async def _on_acknowledgement(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        future, _ = self._acknowledged.pop(token, (None, ""))
        if future is None or future.done():
            return
        if message.headers and message.headers.get("Status") == "503":
            future.set_exception(BrokerError("the broker's JetStream does not answer"))
            return
        try:
            answer = json.loads(message.data)
            error = answer.get("error")
        except (ValueError, AttributeError):
            error = {"description": "a malformed answer"}
        if not error:
            future.set_result(None)
        elif error.get("err_code") == TOO_LARGE_ERROR_CODE:
            future.set_result(str(error.get("description")))
        else:
            text = f"the broker's JetStream refuses: {error.get('description')}"
            future.set_exception(BrokerError(text))

    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        found: list[Tip] = []
        with self.errors():
            try:
                self._created_ms = _milliseconds(await self.client.jsm().stream_info(self._stream))
            except NotFoundError:
                await self._ensure_stream()
            for begin in range(0, len(channels), MAX_CONCURRENT_REQUESTS):
                some = channels[begin : begin + MAX_CONCURRENT_REQUESTS]
                found += await asyncio.gather(*map(self._tip, some))
        return found

    async def _tip(self, channel: str) -> Tip:
        subject = self._stored_subject(channel)
        try:
            message = await self.client.jsm().get_msg(self._stream, subject=subject, direct=True)
        except NotFoundError:
            return Tip((self._created_ms, 0), None)
        return Tip((self._created_ms, message.seq or 0), message.data)

    async def read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        with self.errors():
            return await self._read(channel, after, count, identity)

    async def _read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        begin = after[1] + 1 if after else 1
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=begin,
            ack_policy=AckPolicy.NONE,
            filter_subject=self._stored_subject(channel),
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
        """Fetch the next messages of a consumer, with one request."""
        entries: list[tuple[Offset, bytes]] = []
        done = asyncio.get_running_loop().create_future()

        async def take(message: Msg) -> None:
            if message.headers and "Status" in message.headers:
                count_is_reached = True  # or there are fewer messages now
            else:
                about = message.metadata
                entries.append(((self._created_ms, about.sequence.stream), message.data))
                count_is_reached = len(entries) == count or not about.num_pending
            if count_is_reached and not done.done():
                done.set_result(None)

        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox, cb=take)
        ask = {"batch": count, "no_wait": True, "expires": FETCH_EXPIRES_S * 10**9}
        request = json.dumps(ask).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        try:
            await self.client.publish(subject, request, reply=inbox)
            await asyncio.wait_for(done, self.settings.silence_timeout)
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()
        return entries

    async def _missing(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> int | None:
        """Return 0 if no message is missing after `after`, None if that is not certain.

        `count` messages are stored after it. None is missing if the message at `after` is still
        stored. At the beginning, none is missing if the room never had as many messages as are
        kept, and none can have expired.
        """
        assert self.history is not None
        if after and after[1]:
            with contextlib.suppress(NotFoundError):
                found = await self.client.jsm().get_msg(self._stream, seq=after[1], direct=True)
                is_here = found.subject == self._stored_subject(channel)
                return 0 if is_here and _matches(found.data, identity) else None
            return None
        length, age = self.history.length, self.history.age
        is_young = time.time() - self._created_ms / 1000 < IDLE_EXPIRY_S
        is_whole = age is None and is_young and length is not None and count < length
        return 0 if is_whole else None

    def is_same_history(self, one: Offset, other: Offset) -> bool:
        return one[:1] == other[:1]

    def beginning(self, offset: Offset) -> Offset:
        return (offset[0] if offset else self._created_ms), 0

    def parse_offset(self, text: str) -> Offset:
        """Parse "time-number", or "number" alone for the current stream."""
        made, _, number = text.rpartition("-")
        if not re.fullmatch(r"([0-9]{1,20}-)?[0-9]{1,20}", text) or int(number) >= 1 << 64:
            raise ValueError(f"not an offset of a room's history: {text!r}")
        return (int(made) if made else self._created_ms), int(number)


def stream_config(name: str, prefix: str, history: History) -> StreamConfig:
    """Return the settings of the stream for all rooms that share a prefix."""
    age = history.age or float(IDLE_EXPIRY_S)
    return StreamConfig(
        name=name,
        subjects=[f"{stored_prefix(prefix)}.>"],
        storage=StorageType.FILE,
        max_msgs_per_subject=history.length if history.length is not None else -1,
        max_age=age,
        duplicate_window=min(DUPLICATE_WINDOW_S, age),
        discard=DiscardPolicy.OLD,
        allow_direct=True,
        republish=RePublish(src=f"{stored_prefix(prefix)}.>", dest=f"{prefix}.>"),
    )


def _milliseconds(info: StreamInfo) -> int:
    """Return the creation time of a stream in milliseconds."""
    return int(info.created.timestamp() * 1000) if info.created else 0


def _matches(data: bytes | None, identity: tuple[bytes, int] | None) -> bool:
    """Whether a stored message has this identity, or the identity is unknown."""
    if identity is None:
        return True
    try:
        envelope = open_envelope(data or b"")
    except ValueError:
        return False
    return (envelope.node, envelope.number) == identity


def stored_prefix(prefix: str) -> str:
    """Return the beginning of the subjects of stored messages. No other prefix can equal it."""
    return f"{prefix}:kept"


def credentials(url: BrokerURL) -> tuple[str | None, str | None, str | None]:
    """Return user, password and token; a user without a password is a token."""
    if url.password is None:
        return None, None, url.user
    return url.user or "", url.password, None
