"""The request handler of `echo_program`, a journal, and its ordinary pages.

`?id=NAME` keeps a journal of a WebSocket's events; `GET /journal?id=NAME` returns it. Other query
parameters with names of `Settings` are passed to `connect()`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websocket_handler import (
    Compression,
    ConnectionClosed,
    Engine,
    WebSocket,
    configure_server,
    default_engine,
)
from websocket_handler.connection.listeners import EVENTS
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.versions import by_name
from websocket_handler.settings import SETTING_NAMES

from ..support.connections import connect, make_websocket

Query = dict[str, str]
JOURNAL: defaultdict[str, list[list[object]]] = defaultdict(list)
MEMBERS: list[WebSocket] = []
SERVERS: list[HTTPServer] = []

HTTP_ROUTES: dict[str, Callable[[Handler, Query], None]] = {}
WEBSOCKET_ROUTES: dict[str, Callable[[Handler, WebSocket, Query], None]] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    websocket: WebSocket | None
    websocket_engine: Engine | None
    timeout = 30

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        if parts.path in HTTP_ROUTES:
            HTTP_ROUTES[parts.path](self, query)
        elif parts.path not in WEBSOCKET_ROUTES:
            self.send_error(404)
        elif self.websocket is None:
            self.answer(426, b"WebSockets only\n", Upgrade="websocket")
        else:
            if "id" in query:
                keep_journal(self.websocket, query["id"])
            WEBSOCKET_ROUTES[parts.path](self, self.websocket, query)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def http(path: str) -> Callable[[Any], Any]:
    return lambda route: HTTP_ROUTES.setdefault(path, route)


def websocket(path: str) -> Callable[[Any], Any]:
    return lambda route: WEBSOCKET_ROUTES.setdefault(path, route)


def settings(query: Query) -> dict[str, Any]:
    chosen = {name: json.loads(value) for name, value in query.items() if name in SETTING_NAMES}
    if "versions" in chosen:
        chosen["versions"] = [by_name(name) for name in chosen["versions"]]
    if isinstance(chosen.get("compression"), dict):
        chosen["compression"] = Compression(**chosen["compression"])
    return chosen


def note(query: Query, *event: object) -> None:
    JOURNAL[query["id"]].append([as_json(item) for item in event])


def keep_journal(ws: WebSocket, name: str) -> None:
    for event in EVENTS:
        ws.on(event, partial(note, {"id": name}, event))  # type: ignore[call-overload]


def as_json(item: object) -> object:
    return item if isinstance(item, str | int) else repr(item)


# Ordinary requests


@http("/ordinary")
def ordinary(handler: Handler, _: Query) -> None:
    handler.answer(200, b"an ordinary page\n")


@http("/forbidden")
def forbidden(handler: Handler, _: Query) -> None:
    handler.answer(403, b"not you\n")


@http("/redirect")
def redirect(handler: Handler, _: Query) -> None:
    handler.answer(302, b"", Location="/ordinary")


@http("/keep-alive")
def keep_alive(handler: Handler, _: Query) -> None:
    handler.answer(200, b"stay\n", Connection="keep-alive")


@http("/second")
def second(handler: Handler, query: Query) -> None:
    """Start another server in this process with the same engine, or close it."""
    if "close" in query:
        server = SERVERS.pop()
        server.shutdown()
        server.server_close()
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        configure_server(server, engine=handler.websocket_engine)
        threading.Thread(target=server.serve_forever).start()
        SERVERS.append(server)
    handler.answer(200, str(server.server_port).encode())


@http("/journal")
def journal(handler: Handler, query: Query) -> None:
    handler.answer(200, json.dumps(JOURNAL[query["id"]]).encode())


@http("/threads")
def threads(handler: Handler, _: Query) -> None:
    handler.answer(200, json.dumps([thread.name for thread in threading.enumerate()]).encode())


@http("/fork")
def fork(handler: Handler, _: Query) -> None:
    """Responds with the exit code of a child that uses its own WebSockets."""
    handler.answer(200, json.dumps(in_a_child(echo_in_a_new_engine)).encode())


def in_a_child(check: Callable[[], object]) -> int:
    """Make the call in a forked child; its exit code is 0 if the call succeeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def echo_in_a_new_engine() -> None:
    websocket = make_websocket(default_engine())
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    websocket.send("from the child")
    received = peer.read()
    if received != Message("from the child"):
        raise ValueError(f"received {received!r}")


@http("/broadcast")
def broadcast(handler: Handler, query: Query) -> None:
    """Many threads send to all members at once; responds when they have finished."""
    count = int(query["count"])

    def send_all(thread: int) -> None:
        for number in range(count):
            size = (number * 37 + thread) % 2000 if number % 10 else 30_000
            for member in list(MEMBERS):
                with contextlib.suppress(ConnectionClosed):
                    member.send(f"{thread} {number} ".ljust(size, "."))

    senders = [threading.Thread(target=send_all, args=(n,)) for n in range(int(query["threads"]))]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    handler.answer(200, b"true")
