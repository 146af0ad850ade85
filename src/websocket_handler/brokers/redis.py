"""Redis: pub/sub, and one stream per room for the history.

There are two connections: one receives, the other one sends pipelined commands. `append` is a
script that stores a message once, numbers the messages of its room, and publishes the message with
its offset. An offset is the id of a stream entry: the server's time in milliseconds, and the number
of the message in its room. The numbers of a history begin at a random multiple of `EPOCH`. This
multiple identifies the history: it is another one after the server has lost its data.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)

from ..bus.settings import IDLE_EXPIRY_S
from .broker import Broker, BrokerError, ChannelsRefused, Entry, Offset, Page, Refusals, Tip
from .broker_url import BrokerURL, checks_certificate, checks_host_name

NUMBER_EXPIRY_S = 24 * 60 * 60
"""Seconds for which the last number of a process is stored: a later retry stores a message
twice."""

MAX_MESSAGE_BYTES = 1 << 24
"""The maximum size of a message in bytes.

A larger message, or one over half of the output buffer limit for subscribers, might make Redis
disconnect all subscribers.
"""

EPOCH = 1 << 33
"""The distance between the first numbers of two histories; 2 ** 20 multiples are below 2 ** 53, the
limit of exact integers in Lua."""

BEGIN = """
local tip = redis.call('GET', KEYS[2])
if not tip then
    local now = redis.call('TIME')
    local hash = redis.sha1hex(KEYS[2] .. now[1] .. '.' .. now[2])
    local epoch = tonumber(string.sub(hash, 1, 5), 16) % 1048574 + 1
    tip = string.format('%.0f-%.0f', now[1] * 1000 + math.floor(now[2] / 1000),
                        epoch * 8589934592)
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[2], tip, 'EX', ARGV[5])
end
"""
# KEYS: stream, tip. ARGV[5]: seconds for which an empty history is remembered.

TIP = BEGIN + "return tip"

APPEND = (
    """
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
if last < tonumber(ARGV[1]) then return redis.error_reply('OUT OF ORDER') end
"""
    + BEGIN
    + """
local dash = string.find(tip, '-', 1, true)
local time, count = tonumber(string.sub(tip, 1, dash - 1)), tonumber(string.sub(tip, dash + 1))
local now = redis.call('TIME')
time = math.max(now[1] * 1000 + math.floor(now[2] / 1000), time)
local stored, refused = 0, nil
for i = 6, #ARGV, 2 do
    local number, envelope = tonumber(ARGV[i]), ARGV[i + 1]
    if number > last then
        count = count + 1
        local id = string.format('%.0f-%.0f', time, count)
        if ARGV[2] ~= '' then
            redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'e', envelope)
        else
            redis.call('XADD', KEYS[1], id, 'e', envelope)
        end
        local sent = redis.pcall(ARGV[4], KEYS[4], '@' .. tip .. ',' .. id .. ';' .. envelope)
        if type(sent) == 'table' and sent.err then
            redis.call('XDEL', KEYS[1], id)
            refused = sent
            break
        end
        tip, last, stored = id, number, stored + 1
    end
end
if stored > 0 then
    redis.call('SET', KEYS[3], string.format('%.0f', last), 'EX', ARGV[5])
    if ARGV[3] == '' then
        redis.call('EXPIRE', KEYS[1], IDLE_EXPIRY_S)
        redis.call('SET', KEYS[2], tip, 'EX', 2 * IDLE_EXPIRY_S)
    else
        local age = tonumber(ARGV[3])
        redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', time - age))
        redis.call('PEXPIRE', KEYS[1], string.format('%.0f', age + 1000))
        redis.call('SET', KEYS[2], tip, 'PX', string.format('%.0f', 2 * age + 86400000))
    end
end
return refused or stored
""".replace("IDLE_EXPIRY_S", str(IDLE_EXPIRY_S))
)
# KEYS: stream, tip, last number of the process, channel. ARGV: the number that must already be
# stored, length, age in ms, publish command, seconds; then pairs of number and envelope.

MAX_ENTRIES_PER_CALL = 100
"""Messages that one call of the script stores; Redis serves no other client meanwhile."""


class ConnectionPair:
    """Two connections to one server."""

    def __init__(self, make: Callable[[], AbstractConnection], broker: RedisBroker) -> None:
        self.commands: Any = make()
        self.subscriber: Any = make()
        self._broker = broker
        self._pending: deque[PendingSubscription] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        for connection in (self.commands, self.subscriber):
            await connection.connect()
        await self.call(["PING"])
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        for connection in (self.commands, self.subscriber):
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)

    async def call(self, command: Sequence[Any]) -> Any:
        (reply,) = await self.call_many([command])
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def call_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send all commands, then read one reply for each. Error replies are returned, not
        raised."""
        async with self._lock:
            await self._send(self.commands, self.commands.pack_commands(commands))
            replies = []
            for _ in commands:
                try:
                    replies.append(await self.commands.read_response())
                except ResponseError as error:
                    replies.append(error)
            return replies

    async def _send(self, connection: AbstractConnection, packed: Iterable[bytes]) -> None:
        if not connection.is_connected:  # redis-py would reconnect, without the subscriptions
            raise RedisConnectionError("the connection has been lost")
        await connection.send_packed_command(packed, check_health=False)

    async def subscribe(
        self, command: bytes, groups: Sequence[Sequence[bytes]]
    ) -> dict[bytes, ResponseError]:
        """Send (S)SUBSCRIBE or (S)UNSUBSCRIBE for each group of channels.

        Returns when all are answered: the channels that were refused, with the errors.
        """
        waiting = [PendingSubscription(command.lower(), group) for group in groups]
        self._pending.extend(waiting)
        commands = [(command, *group) for group in groups]
        await self._send(self.subscriber, self.subscriber.pack_commands(commands))
        await asyncio.wait([one.answered for one in waiting])
        refused: dict[bytes, ResponseError] = {}
        for group, error in zip(groups, [one.answered.exception() for one in waiting], strict=True):
            if error is None:
                continue
            if not isinstance(error, ResponseError) or not is_refusal(error):
                raise error
            if len(group) == 1:
                refused[group[0]] = error
            else:
                refused |= await self.subscribe(command, [[name] for name in group])
        return refused

    async def _read(self) -> None:
        """Receive until the connection fails. Yields to other tasks every 256 messages."""
        read = self.subscriber.read_response
        count = 0
        try:
            while True:
                try:
                    kind, channel, data = await read()
                except ResponseError as error:
                    self._on_refusal(error)
                    continue
                if kind in (b"message", b"smessage"):
                    self._broker.received(channel, data)
                else:
                    self._on_confirmation(kind, channel)
                count = (count + 1) % 256
                if not count:
                    await asyncio.sleep(0)
        except Exception as error:
            self._broker.fail(self._broker.explain(error))
            for one in self._pending:
                one.answered.set_exception(RedisConnectionError("the connection has been lost"))
                one.answered.exception()
            self._pending.clear()

    def _on_refusal(self, error: ResponseError) -> None:
        """Process an error: the answer to the first unanswered command."""
        if not self._pending:
            raise error
        self._pending.popleft().answered.set_exception(error)

    def _on_confirmation(self, kind: bytes, channel: bytes) -> None:
        first = self._pending[0] if self._pending else None
        if first is None or not first.record(kind, channel):
            # the slot has moved to another server of the cluster
            self._broker.fail(f"the broker ended a subscription to {channel!r}")
        elif first.answered.done():
            self._pending.popleft()


class PendingSubscription:
    """A command of a subscriber that has not been answered for all its channels."""

    __slots__ = ("_channels", "_kind", "answered")

    def __init__(self, kind: bytes, channels: Iterable[bytes]) -> None:
        self._kind = kind
        self._channels = set(channels)
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def record(self, kind: bytes, channel: bytes) -> bool:
        """Record an answer. Returns whether it belongs to this command."""
        if kind != self._kind or channel not in self._channels:
            return False
        self._channels.remove(channel)
        if not self._channels:
            self.answered.set_result(None)
        return True


class RedisBroker(Broker):
    """One Redis server. Base class of the brokers for Redis Cluster and Redis Sentinel."""

    limit: int

    publish_command = b"PUBLISH"
    subscribe_command = b"SUBSCRIBE"
    unsubscribe_command = b"UNSUBSCRIBE"

    _script = _tip_script = b""
    _pair: ConnectionPair | None = None

    # Overridden for a cluster

    async def _connect_pairs(self) -> None:
        self._pair = ConnectionPair(self._pool(self.url).make_connection, self)
        await self._pair.connect()

    def pairs(self) -> Iterable[ConnectionPair]:
        return [] if self._pair is None else [self._pair]

    def pair_of(self, name: bytes) -> ConnectionPair:  # noqa: ARG002
        """Return the connections to the server of a key or channel."""
        assert self._pair is not None
        return self._pair

    def groups(self, names: list[bytes]) -> list[list[bytes]]:
        """Group channels by the commands that may name them together."""
        return [names]

    def _pool(self, url: BrokerURL) -> ConnectionPool:
        # RESP2 works with every Redis, and costs less than RESP3. The bus does its own retries, and
        # a subscriber without messages must not time out.
        return ConnectionPool(
            **_address(url),
            db=url.database,
            username=url.user,
            password=url.password,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self.settings.connect_timeout / max(1, len(self.url.hosts)),
            health_check_interval=0,
        )

    # The connection

    async def connect(self) -> None:
        with self.errors():
            await self._connect_pairs()
            self.limit = MAX_MESSAGE_BYTES
            for pair in self.pairs():
                await self._check_pair(pair)
                self.limit = min(self.limit, await self._limit_of(pair))
                if self.history is not None:
                    self._script = await pair.call(["SCRIPT", "LOAD", APPEND])
                    self._tip_script = await pair.call(["SCRIPT", "LOAD", TIP])

    async def _limit_of(self, pair: ConnectionPair) -> int:
        """Return the maximum size of a message, if this user may read the server's
        configuration."""
        limit = MAX_MESSAGE_BYTES
        with contextlib.suppress(ResponseError, NoPermissionError):
            _, bulk = await pair.call(["CONFIG", "GET", "proto-max-bulk-len"])
            limit = min(limit, int(bulk) - 1024)
            _, buffers = await pair.call(["CONFIG", "GET", "client-output-buffer-limit"])
            fields = buffers.split()
            hard = int(fields[fields.index(b"pubsub") + 1])
            limit = min(limit, hard // 2) if hard else limit
        return limit

    async def check(self) -> None:
        with self.errors():
            for pair in self.pairs():
                await self._check_pair(pair)

    async def _check_pair(self, pair: ConnectionPair) -> None:
        """Raise `BrokerError` if the server is a replica.

        A primary that becomes a replica keeps its connections, but messages published to it do not
        reach the other processes. A server that does not allow ROLE passes the check.
        """
        with contextlib.suppress(ResponseError):
            role, *_ = await pair.call([b"ROLE"])
            if role == b"slave":
                raise BrokerError(
                    "this Redis server is a replica: other processes receive nothing from it"
                )

    async def close(self) -> None:
        for pair in self.pairs():
            await pair.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Convert connection errors to `BrokerError` with a readable text."""
        try:
            yield
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise BrokerError(self.explain(error)) from error

    def explain(self, error: BaseException) -> str:
        """Return a readable reason without secrets. Redis repeats the command if it does not know
        AUTH."""
        text = (str(error) or repr(error)).partition(", with args beginning with")[0]
        text = self.url.without_secrets(text)
        if isinstance(error, AuthenticationError):
            return f"the broker refuses this user or password: {text}"
        if isinstance(error, NoPermissionError):
            return f"the user lacks a permission: {text}"
        if isinstance(error, InvalidResponse):
            return f"the server does not answer like a Redis server: {text}"
        return text

    # Channels

    @functools.cached_property
    def _begin(self) -> str:
        """Channels are not separated by database: for databases other than 0 their names contain
        it."""
        database = self.url.database
        return f"{self.settings.prefix}@{database}:" if database else f"{self.settings.prefix}:"

    def name(self, channel: str) -> bytes:
        return f"{self._begin}{channel}".encode()

    def received(self, name: bytes, data: bytes) -> None:
        channel = name[len(self._begin) :].decode()
        if not data.startswith(b"@"):
            self.receive(channel, data, None, None)
            return
        head, _, envelope = data.partition(b";")
        try:
            previous, offset = head[1:].decode().split(",")
            offsets = self.parse_offset(offset), self.parse_offset(previous)
        except ValueError:
            self.receive(channel, b"", None, None)  # malformed: counted by the bus
            return
        self.receive(channel, envelope, *offsets)

    async def subscribe(self, channels: Sequence[str]) -> dict[str, str]:
        return await self._change_subscriptions(self.subscribe_command, channels)

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        await self._change_subscriptions(self.unsubscribe_command, channels)

    async def _change_subscriptions(
        self, command: bytes, channels: Sequence[str]
    ) -> dict[str, str]:
        of_pair: dict[ConnectionPair, list[bytes]] = {}
        for channel in channels:
            name = self.name(channel)
            of_pair.setdefault(self.pair_of(name), []).append(name)
        with self.errors():
            answers = await asyncio.gather(
                *(pair.subscribe(command, self.groups(names)) for pair, names in of_pair.items())
            )
        return {
            name[len(self._begin) :].decode(): self.explain(error)
            for refused in answers
            for name, error in refused.items()
        }

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Refusals:
        commands = []
        for channel, data in messages:
            name = self.name(channel)
            commands.append((name, (self.publish_command, name, data)))
        return self._refusals(await self._run(commands))

    def _refusals(self, replies: Sequence[Any]) -> dict[int, str]:
        """Return index -> reason for the replies that are errors."""
        return {
            index: self.explain(reply)
            for index, reply in enumerate(replies)
            if isinstance(reply, ResponseError)
        }

    async def _run(self, commands: Sequence[tuple[bytes, Sequence[Any]]]) -> list[Any]:
        """Run (name, command) pairs, each on the server of its name. Returns the replies in order.

        Refusals are among the replies. Raises `BrokerError` for any other error.
        """
        of_pair: dict[ConnectionPair, list[int]] = {}
        for index, (name, _) in enumerate(commands):
            of_pair.setdefault(self.pair_of(name), []).append(index)
        replies: list[Any] = [None] * len(commands)
        with self.errors():
            results = await asyncio.gather(
                *(
                    pair.call_many([commands[index][1] for index in indices])
                    for pair, indices in of_pair.items()
                )
            )
        for indices, some in zip(of_pair.values(), results, strict=True):
            for index, reply in zip(indices, some, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, ResponseError) and not is_refusal(reply):
                raise BrokerError(f"the broker refuses: {self.explain(reply)}") from reply
        return replies

    # The history

    def _keys(self, channel: str) -> tuple[bytes, bytes, bytes]:
        """Return the channel, its stream and its tip: all in one slot of a cluster."""
        name = self.name(channel)
        return name, b"{%b}:stream" % name, b"{%b}:tip" % name

    async def append(self, entries: Sequence[Entry]) -> Refusals:
        assert self.history is not None
        length, age = self.history.length, self.history.age
        limits = (
            b"" if length is None else b"%d" % length,
            b"" if age is None else b"%d" % (age * 1000),
        )
        together: dict[tuple[str, bytes], list[int]] = {}
        for index, entry in enumerate(entries):
            together.setdefault((entry.channel, entry.node), []).append(index)
        commands = []
        indices: list[list[int]] = []
        for (channel, node), some in together.items():
            name, stream, tip = self._keys(channel)
            last = b"{%b}:last:%b" % (name, node.hex().encode())
            # Everything before this batch is stored. If one call is refused, the calls after it
            # must not store anything.
            required = 0
            for begin in range(0, len(some), MAX_ENTRIES_PER_CALL):
                indices.append(some[begin : begin + MAX_ENTRIES_PER_CALL])
                piece = [entries[index] for index in indices[-1]]
                pairs = [value for entry in piece for value in (entry.number, entry.data)]
                call = (b"EVALSHA", self._script, 4, stream, tip, last, name, required, *limits)
                commands.append((name, (*call, self.publish_command, NUMBER_EXPIRY_S, *pairs)))
                required = piece[-1].number
        refusals = self._refusals(await self._run(commands))
        return {index: why for call, why in refusals.items() for index in indices[call]}

    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        names = [self._keys(channel) for channel in channels]
        tips = await self._run([(name, (b"GET", tip)) for name, _, tip in names])
        self._raise_refusals(channels, tips)
        unknown = [index for index, tip in enumerate(tips) if tip is None]
        begun = await self._begin_histories([names[index] for index in unknown])
        for index, tip in zip(unknown, begun, strict=True):
            tips[index] = tip
        return [Tip(self.parse_offset(tip.decode()), None) for tip in tips]

    async def _begin_histories(self, names: Sequence[tuple[bytes, bytes, bytes]]) -> list[bytes]:
        """Begin histories that do not exist, and return their tips.

        A user without write permission cannot begin a history, and gets "0-0".
        """
        arguments = (b"", b"", b"", b"", NUMBER_EXPIRY_S)
        tips = await self._run(
            [
                (name, (b"EVALSHA", self._tip_script, 2, stream, tip, *arguments))
                for name, stream, tip in names
            ]
        )
        return [b"0-0" if isinstance(tip, ResponseError) else tip for tip in tips]

    def _raise_refusals(self, channels: Sequence[str], replies: Sequence[Any]) -> None:
        refusals = self._refusals(replies)
        if refusals:
            raise ChannelsRefused({channels[index]: why for index, why in refusals.items()})

    def is_same_history(self, one: Offset, other: Offset) -> bool:
        return self.beginning(one)[1] == self.beginning(other)[1]

    def beginning(self, offset: Offset) -> Offset:
        time, count = offset or (0, 0)
        return (time if count % EPOCH == 0 else 0), count - count % EPOCH

    def count_between(self, after: Offset, last: Offset) -> int | None:
        """None also if the server has lost the end of the history and continues to count from
        there."""
        is_known = self.is_same_history(after, last) and last[1] > after[1]
        return last[1] - after[1] if is_known else None

    async def read(
        self,
        channel: str,
        after: Offset,
        count: int,
        identity: tuple[bytes, int] | None,  # noqa: ARG002  (an offset is of one message)
    ) -> Page:
        name, stream, _ = self._keys(channel)
        begin = b"(%b" % self.format_offset(after).encode() if after else b"-"
        replies = await self._run([(name, (b"XRANGE", stream, begin, b"+", b"COUNT", count))])
        self._raise_refusals([channel], replies)
        (found,) = replies
        entries = [(self.parse_offset(id_.decode()), fields[1]) for id_, fields in found]
        if not entries:
            return Page(entries, 0)
        first = entries[0][0]
        distance = self.count_between(after or self.beginning(first), first)
        return Page(entries, distance - 1 if distance else None)

    @staticmethod
    def format_offset(offset: Offset) -> str:
        return "-".join(map(str, offset))

    def parse_offset(self, text: str) -> Offset:
        time, _, count = text.partition("-")
        if not (time.isascii() and time.isdigit() and count.isascii() and count.isdigit()):
            raise ValueError(f"not an offset of a room's history: {text!r}")
        offset = int(time), int(count)
        if max(offset) >= 1 << 64:
            raise ValueError(f"not an offset of a room's history: {text!r}")
        return offset if offset != (0, 0) else ()


def _address(url: BrokerURL) -> dict[str, Any]:
    """Return the connection's arguments for redis-py."""
    if url.scheme == "unix":
        return {"connection_class": UnixDomainSocketConnection, "path": url.path}
    (host,) = url.hosts
    address = {"connection_class": Connection, "host": host.name, "port": host.port}
    if not url.is_tls:
        return address
    files = ("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile")
    return {
        **address,
        "connection_class": SSLConnection,
        "ssl_cert_reqs": "required" if checks_certificate(url) else "none",
        "ssl_check_hostname": checks_host_name(url),
        **{name: url.options[name] for name in files if name in url.options},
    }


TEMPORARY_ERRORS: tuple[type[Exception], ...] = (
    AskError,  # and MovedError
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

TEMPORARY_CODES = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|NOAUTH|NOSCRIPT"
    r"|EXECABORT|OUT OF ORDER)\b"
)


def is_refusal(error: ResponseError) -> bool:
    """Whether the error is permanent for this command.

    It is not if the server is in a temporary state, or the channel has moved to another server.
    """
    text = str(error)
    if isinstance(error, NoPermissionError) or text.startswith("unknown command"):
        return True
    return not isinstance(error, TEMPORARY_ERRORS) and not TEMPORARY_CODES.search(text)
