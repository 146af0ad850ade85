"""The SQLite database of the history: one connection, used by one thread at a time.

One transaction stores a batch of messages. Each room numbers its messages without a gap; an offset
is the room's epoch, a random number that identifies its history, and the number of the message.
`messages.id` is the order of all messages of all rooms: the first ones are removed when the
database is full.

The write-ahead log lets processes read while another one writes. With `synchronous = NORMAL`,
nothing is lost when a process is killed; after a power failure the last messages may be missing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..bus.settings import IDLE_EXPIRY_S, History
from .broker import Entry, Offset, Page, Tip

SCHEMA_VERSION = 1
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS rooms (
    id INTEGER PRIMARY KEY,
    channel TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    last INTEGER NOT NULL,
    updated REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS rooms_updated ON rooms (updated);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY,
    room INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS messages_of_room ON messages (room, number);
CREATE TABLE IF NOT EXISTS senders (
    node BLOB NOT NULL,
    room INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    last INTEGER NOT NULL,
    updated REAL NOT NULL,
    PRIMARY KEY (node, room)
) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
# rooms.last: number of the last message. senders: the last message of each process in each room:
# `sent` is its number among those of the process, `last` its number in the room.

REMEMBERED_S = 24 * 60 * 60
"""Seconds for which the last message of a process and an empty room are remembered."""

MAX_BYTES = 1 << 30
"""The size of the stored messages of all rooms from which the oldest ones are removed."""

CHECK_BYTES = 1 << 22
"""The bytes that this process stores between two comparisons with `MAX_BYTES`."""

EVICTED_PART = 64
"""If the database is full, one 64th of all messages is removed, until it is not."""

ROWS = (64, 16, 4, 1)
"""Numbers of rows that one statement inserts. Python releases its lock for each statement: fewer
statements let fewer threads delay a transaction."""


class DatabaseError(Exception):
    """The database cannot be used; the text is a readable reason."""


class Stored(NamedTuple):
    """A message that has been stored."""

    channel: str
    data: bytes
    offset: Offset
    previous: Offset
    """The offset of the previous message in the room."""


class Database:
    """A connection to the database. Every method raises `DatabaseError`."""

    def __init__(self, path: Path, limits: History, lock_timeout: float) -> None:
        self._path = path
        self._limits = limits
        self._unchecked = CHECK_BYTES
        self._epochs: dict[str, int] = {}
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=lock_timeout, isolation_level=None, check_same_thread=False
            )
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("PRAGMA synchronous = NORMAL")
            self._execute("PRAGMA journal_size_limit = 16777216")
            ((version,),) = self._execute("PRAGMA user_version")
            if version == 0:
                self._connection.executescript(SCHEMA)
            elif version != SCHEMA_VERSION:
                raise DatabaseError(f"another version of this library has made {path}")
            self._identity = path.stat()

    def set_lock_timeout(self, seconds: float) -> None:
        with self._errors():
            self._execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def is_in_place(self) -> bool:
        """Whether the path still names the open file."""
        try:
            return os.path.samestat(self._identity, self._path.stat())
        except OSError:
            return False

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            connection = getattr(self, "_connection", None)
            if connection is not None:
                self.close()
            raise DatabaseError(f"{self._path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._execute("ROLLBACK")
                raise
            self._execute("COMMIT")

    def _execute(self, statement: str, *arguments: Any) -> list[Any]:
        return self._connection.execute(statement, arguments).fetchall()

    # Storing

    def append(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store the entries that are not stored yet, in order, and return these."""
        of_channel: dict[str, list[Entry]] = {}
        for entry in entries:
            of_channel.setdefault(entry.channel, []).append(entry)
        now = time.time()
        stored: list[Stored] = []
        with self._transaction():
            for channel, some in of_channel.items():
                stored += self._append(channel, some, now)
            self._unchecked += sum(len(one.data) for one in stored)
            if self._unchecked > CHECK_BYTES:
                self._unchecked = 0
                self._evict()
        return stored

    def _append(self, channel: str, entries: Sequence[Entry], now: float) -> list[Stored]:
        """Store entries of one channel."""
        room, epoch, begin = self._room(channel, now)
        last = begin
        sent: dict[bytes, tuple[int, int]] = {}
        stored: list[Stored] = []
        rows: list[tuple[int, int, float, bytes]] = []
        for entry in entries:
            before = sent[entry.node][0] if entry.node in sent else self._sent(entry.node, room)
            if entry.number <= before:
                continue
            last += 1
            sent[entry.node] = entry.number, last
            stored.append(Stored(channel, entry.data, (epoch, last), (epoch, last - 1)))
            rows.append((room, last, now, entry.data))
        self._insert(rows)
        if stored:
            self._execute("UPDATE rooms SET last = ?, updated = ? WHERE id = ?", last, now, room)
            self._connection.executemany(
                "INSERT OR REPLACE INTO senders VALUES (?, ?, ?, ?, ?)",
                [(node, room, number, place, now) for node, (number, place) in sent.items()],
            )
            self._trim(room, last, now)
        return stored

    def _insert(self, rows: list[tuple[int, int, float, bytes]]) -> None:
        begin = 0
        for size in ROWS:
            statement = INSERT + ", ".join(["(?, ?, ?, ?)"] * size)
            while len(rows) - begin >= size:
                arguments = [value for row in rows[begin : begin + size] for value in row]
                self._execute(statement, *arguments)
                begin += size

    def _room(self, channel: str, now: float) -> tuple[int, int, int]:
        """Return the id, the epoch and the last number of a room, which is begun if necessary."""
        found = self._execute("SELECT id, epoch, last FROM rooms WHERE channel = ?", channel)
        if not found:
            epoch = secrets.randbelow(1 << 48) + 1
            self._execute(
                "INSERT INTO rooms (channel, epoch, last, updated) VALUES (?, ?, 0, ?)",
                *(channel, epoch, now),
            )
            return self._room(channel, now)
        room, epoch, last = found[0]
        return room, epoch, last

    def _sent(self, node: bytes, room: int) -> int:
        """Return the number of the last message of a process that is stored."""
        found = self._execute("SELECT sent FROM senders WHERE node = ? AND room = ?", node, room)
        return int(found[0][0]) if found else 0

    # Removing

    def _trim(self, room: int, last: int, now: float) -> None:
        """Remove the messages of a room that are over its limits."""
        length, age = self._limits.length, self._limits.age
        if length is not None:
            self._execute(
                "DELETE FROM messages WHERE room = ? AND number <= ?", room, last - length
            )
        if age is not None:
            self._execute(
                "DELETE FROM messages WHERE room = ? AND number < (SELECT number FROM messages "
                "WHERE room = ? AND at >= ? ORDER BY number LIMIT 1)",
                *(room, room, now - age),
            )

    def _evict(self) -> None:
        """Remove the oldest messages of all rooms while they are over `MAX_BYTES`."""
        while self._used_bytes() > MAX_BYTES:
            ((first, last),) = self._execute("SELECT min(id), max(id) FROM messages")
            if first is None:
                break
            border = first + (last - first) // EVICTED_PART
            self._execute("DELETE FROM messages WHERE id <= ?", border)

    def _used_bytes(self) -> int:
        ((pages,),) = self._execute("PRAGMA page_count")
        ((free,),) = self._execute("PRAGMA freelist_count")
        ((size,),) = self._execute("PRAGMA page_size")
        return int((pages - free) * size)

    def sweep(self) -> None:
        """Remove expired messages, and rooms that have had no message for a long time."""
        now, age = time.time(), self._limits.age
        kept = IDLE_EXPIRY_S if age is None else 2 * age + REMEMBERED_S
        with self._transaction():
            if age is not None:
                self._execute(
                    "DELETE FROM messages WHERE room IN (SELECT id FROM rooms WHERE updated < ?)",
                    now - age,
                )
            old = self._execute(
                "SELECT id FROM rooms WHERE updated < ? OR (updated < ? AND last = 0)",
                *(now - kept, now - REMEMBERED_S),
            )
            for statement in (
                "DELETE FROM messages WHERE room = ?",
                "DELETE FROM senders WHERE room = ?",
                "DELETE FROM rooms WHERE id = ?",
            ):
                self._connection.executemany(statement, old)
            self._execute("DELETE FROM senders WHERE updated < ?", now - REMEMBERED_S)

    # Reading

    def tips(self, channels: Sequence[str]) -> list[Tip]:
        """Return the end of each room's history, which is begun if necessary."""
        now = time.time()
        with self._errors():
            found = [self._execute(TIP, channel) for channel in channels]
        if not all(found):
            with self._transaction():
                for channel in channels:
                    self._room(channel, now)
                found = [self._execute(TIP, channel) for channel in channels]
        return [Tip(tuple(rows[0]), None) for rows in found]

    def read(self, channel: str, after: Offset, count: int) -> Page:
        """Return up to `count` messages after an offset of the room's history."""
        number = after[1] if after else 0
        since = 0.0 if self._limits.age is None else time.time() - self._limits.age
        with self._errors():
            rows = self._execute(READ, channel, number, since, count)
        entries: list[tuple[Offset, bytes]] = [((epoch, at), data) for epoch, at, data in rows]
        missing = entries[0][0][1] - number - 1 if entries else 0
        return Page(entries, missing)

    def last_of(self, node: bytes, channels: Collection[str]) -> list[Stored]:
        """Return the last message that a process has stored in each of the channels."""
        with self._errors():
            rows = self._execute(LAST, node)
        return [
            Stored(channel, data, (epoch, number), (epoch, number - 1))
            for channel, epoch, number, data in rows
            if channel in channels
        ]


INSERT = "INSERT INTO messages (room, number, at, data) VALUES "

TIP = "SELECT epoch, last FROM rooms WHERE channel = ?"

READ = """
SELECT rooms.epoch, messages.number, messages.data
FROM rooms JOIN messages ON messages.room = rooms.id
WHERE rooms.channel = ? AND messages.number > ? AND messages.at >= ?
ORDER BY messages.number LIMIT ?
"""

LAST = """
SELECT rooms.channel, rooms.epoch, messages.number, messages.data
FROM senders
JOIN rooms ON rooms.id = senders.room
JOIN messages ON messages.room = senders.room AND messages.number = senders.last
WHERE senders.node = ?
"""
