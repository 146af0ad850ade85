"""Publishing to rooms, through a bus or as another client of the broker."""

from __future__ import annotations

import socket

from websocket_handler.brokers.local_frames import MESSAGE, frame
from websocket_handler.bus.bus import Bus

from .brokers import BrokerProcess, LocalDirectory

NAMES = [
    *("", " ", "a b", "lobby", "lobby.1", "*", ">", "a.>", "room.*", "{x}", "%", "~", "ß", "日本"),
    *("a\r\nPUB x 1\r\n", "\x00", "x" * 5000, "é" * 5000, "?", "[a-z]", "$JS.API.INFO"),
]


def send(bus: Bus, room: str, *messages: str | bytes, key: str | None = None) -> None:
    for message in messages:
        bus.publish(bus.prepare(room, message, key))


def publish_to_all(directory: LocalDirectory, channel: str, messages: list[bytes]) -> None:
    """Send messages to all processes that use a local directory."""
    for name in directory.sockets():
        with directory.connect(name) as connection:
            for message in messages:
                connection.sendall(frame(MESSAGE, channel.encode(), message))


def publish_raw(broker: BrokerProcess, kind: str, channel: str, messages: list[bytes]) -> None:
    """Publish as another client would, in the broker's own protocol."""
    if kind == "local":
        assert isinstance(broker, LocalDirectory)
        publish_to_all(broker, channel.partition(".")[2], messages)
        return
    with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
        if kind == "redis":
            for message in messages:
                head = f"*3\r\n$7\r\nPUBLISH\r\n${len(channel)}\r\n{channel}\r\n${len(message)}\r\n"
                connection.sendall(head.encode() + message + b"\r\n")
                assert connection.recv(100)
        else:
            connection.sendall(b'CONNECT {"verbose":false}\r\n')
            for message in messages:
                connection.sendall(f"PUB {channel} {len(message)}\r\n".encode() + message + b"\r\n")
            connection.sendall(b"PING\r\n")
            answer = b""
            while b"PONG" not in answer:
                answer += connection.recv(10_000)
