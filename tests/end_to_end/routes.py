"""The WebSocket routes of `echo_program`: one use or misuse of the library each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from websocket_handler import ConnectionClosed, WebSocket, WebSocketError

from .handler import (
    MEMBERS,
    Handler,
    Query,
    echo_in_a_new_engine,
    in_a_child,
    note,
    settings,
    websocket,
)


@websocket("/echo")
def echo(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("message", ws.send)
    ws.connect(**settings(query))


@websocket("/compress")
def compress(_: Handler, ws: WebSocket, query: Query) -> None:
    """Sends each message back three times: by default, compressed, and uncompressed."""

    def send_back(message: str | bytes) -> None:
        for choice in (None, True, False):
            ws.send(message, compress=choice)
        ws.send(bytearray(b"x" * 2000))
        ws.send(["fra", "gments" * 500], compress=True)

    ws.on("message", send_back)
    ws.connect(**settings(query))
    ws.on("open", lambda: note(query, "extensions", ws.extensions))


@websocket("/silent")
def silent(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.connect(**settings(query))


@websocket("/members")
def members(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("open", lambda: MEMBERS.append(ws))
    ws.on("close", lambda *_: MEMBERS.remove(ws))
    ws.connect(**settings(query))


@websocket("/subprotocol")
def subprotocol(_: Handler, ws: WebSocket, __: Query) -> None:
    ws.on("message", lambda _: ws.send(str(ws.subprotocol)))
    ws.connect(ws.subprotocols[-1])


@websocket("/headers")
def headers(_: Handler, ws: WebSocket, __: Query) -> None:
    ws.response_headers.add("Set-Cookie", "a=1")
    ws.response_headers.add("Set-Cookie", "b=2")
    ws.on("message", lambda _: ws.send(json.dumps(ws.request.cookies)))
    ws.connect()


@websocket("/refuses")
def refuses(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.reject(int(query["code"]), query["reason"])


@websocket("/ignored")
def ignored(handler: Handler, _: WebSocket, __: Query) -> None:
    handler.answer(200, b"no WebSocket for you\n")


@websocket("/connects-twice")
def connects_twice(_: Handler, ws: WebSocket, __: Query) -> None:
    ws.connect()
    try:
        ws.connect()
    except WebSocketError as error:
        ws.send(str(error))


@websocket("/raises-after-connect")
def raises_after_connect(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.connect(**settings(query))
    raise RuntimeError("the handler's own fault")


@websocket("/writes-after-connect")
def writes_after_connect(handler: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("message", ws.send)
    ws.connect()
    handler.answer(200, b"x" * int(query["size"]))


@websocket("/uses-its-socket-after-connect")
def uses_its_socket_after_connect(handler: Handler, ws: WebSocket, _: Query) -> None:
    """Uses its socket in every way a handler can, and then sends the results."""
    ws.connect()
    sock = handler.connection
    sock.settimeout(1)
    sock.setblocking(False)
    readable = select.select([sock], [], [], 1)[0]
    with tempfile.TemporaryFile() as file:
        file.write(b"nobody sees this")
        sock.sendfile(file)
    sent = sock.send(b"nor this")
    sock.sendall(b"nor this")
    seen = [handler.rfile.read(), handler.rfile.readline(), sock.recv(10)]
    sock.shutdown(socket.SHUT_WR)
    ws.send(repr((readable == [sock], sent, seen)))


@websocket("/sends-early")
def sends_early(_: Handler, ws: WebSocket, query: Query) -> None:
    """Sends before the handover, from the handler and from other threads."""
    try:
        ws.send("too early")
    except WebSocketError:
        note(query, "not connected")
    ws.connect()
    ws.send("first")
    ws.send(b"second")
    sender = threading.Thread(target=ws.send, args=("third",))
    sender.start()
    sender.join()
    ws.send(["fou", "rth"])


@websocket("/raises")
def raises(_: Handler, ws: WebSocket, query: Query) -> None:
    kinds: dict[str, type[BaseException]] = {"SystemExit": SystemExit, "ValueError": ValueError}

    def listener(*_: object) -> None:
        raise kinds[query.get("kind", "ValueError")](f"on purpose: {query['event']}")

    ws.on(query["event"], listener)  # type: ignore[call-overload]
    ws.connect(**settings(query))


@websocket("/listeners")
def listeners(_: Handler, ws: WebSocket, query: Query) -> None:
    @ws.on("message")
    def first(message: str) -> None:
        ws.send(f"first {message}")
        if message == "off":
            ws.off("message", first)

    @ws.once("message")
    def once(message: str) -> None:
        ws.send(f"once {message}")

    def last(message: str) -> None:
        ws.send(f"last {message}")

    returned = ws.on("message", last)
    if returned is not last:
        raise ValueError("on() did not return its listener")
    ws.once("message", never := lambda _: ws.send("never"))
    ws.off("message", never)
    ws.off("message", print)
    try:
        ws.on("massage", last)  # type: ignore[call-overload]
    except ValueError as error:
        note(query, "ValueError", str(error))
    ws.connect()


@websocket("/fragments")
def fragments(_: Handler, ws: WebSocket, __: Query) -> None:
    def pieces() -> Iterator[str]:
        yield "one "
        ws.send("meanwhile")
        sender = threading.Thread(target=ws.send, args=(b"from a thread",))
        sender.start()
        sender.join()
        yield "two "
        yield "thr\u00e9e"

    ws.on("message", lambda _: ws.send(pieces()))
    ws.connect()


@websocket("/broken-fragments")
def broken_fragments(_: Handler, ws: WebSocket, __: Query) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise LookupError("nothing more to be found")

    ws.on("message", lambda _: ws.send(pieces()))
    ws.connect()


@websocket("/pings")
def pings(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("message", ws.ping)
    ws.connect(**settings(query))


@websocket("/closes")
def closes(_: Handler, ws: WebSocket, query: Query) -> None:
    """Closes with the code and reason of the message, and tries to send afterwards."""

    def close(message: str) -> None:
        code, _, reason = message.partition(" ")
        ws.send("before")
        ws.close(int(code), reason)
        for call in (partial(ws.send, "after"), partial(ws.send, ["after"]), ws.ping):
            try:
                call()
            except ConnectionClosed as error:
                note(query, "ConnectionClosed", error.code, error.reason)

    ws.on("message", close)
    ws.connect(**settings(query))


@websocket("/closes-from-threads")
def closes_from_threads(_: Handler, ws: WebSocket, query: Query) -> None:
    """Eight threads send and close at once, each with its own close code, repeatedly."""
    sys.setswitchinterval(1e-6)

    def send_and_close(thread: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            for number in range(100):
                pieces = f"{thread} ", f"{number}"
                ws.send(pieces if "fragments" in query else "".join(pieces))
        ws.close(4000 + thread)

    def start(_: object) -> None:
        for thread in range(8):
            threading.Thread(target=send_and_close, args=(thread,)).start()

    ws.on("message", start)
    ws.connect(**settings(query))


@websocket("/closes-at-once")
def closes_at_once(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.connect(**settings(query))
    ws.send("last words")
    ws.close(4002, "at once")


@websocket("/aborts")
def aborts(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("message", lambda _: ws.abort())
    ws.connect(**settings(query))
    if "early" in query:
        ws.abort()


@websocket("/floods")
def floods(_: Handler, ws: WebSocket, query: Query) -> None:
    """Sends without end, whether the peer reads or not."""

    def flood(_: object) -> None:
        data = b"x" * int(query["size"])
        for number in range(int(query["count"])):
            try:
                ws.send(data)
            except ConnectionClosed as error:
                note(query, "ConnectionClosed", error.code, error.reason, number)
                return
        note(query, "buffered", ws.buffered_amount)

    ws.on("message", flood)
    ws.on("drain", lambda: note(query, "left", ws.buffered_amount))
    ws.connect(**settings(query))


@websocket("/types")
def types(_: Handler, ws: WebSocket, query: Query) -> None:
    def send_each(_: object) -> None:
        ws.send(bytearray(b"bytearray"))
        ws.send(memoryview(b"memoryview")[:6])
        ws.send_text_message("text")
        ws.send_binary_message(bytearray(b"binary"))
        ws.send([])
        ws.send([b"one", bytearray(b"two"), memoryview(b"three")])
        mistakes: list[tuple[Callable[[Any], None], Any]] = [
            (ws.send, 5),
            (ws.send, None),
            (ws.send, {"a": "mapping"}),
            (ws.send_text_message, b"bytes"),
            (ws.send_binary_message, "text"),
        ]
        for send, wrong in mistakes:
            try:
                send(wrong)
            except TypeError:
                note(query, "TypeError")
        ws.send("end")

    ws.on("message", send_each)
    ws.connect()


@websocket("/keeps")
def keeps(_: Handler, ws: WebSocket, query: Query) -> None:
    """Keeps every message, and reports at the end whether they are unchanged."""
    kept: list[bytes] = []

    def keep(message: str | bytes) -> None:
        if isinstance(message, bytes):
            kept.append(message)
        else:
            ws.send(json.dumps([hashlib.sha256(each).hexdigest() for each in kept]))

    ws.on("message", keep)
    ws.connect(**settings(query))


@websocket("/receive")
def receive(_: Handler, ws: WebSocket, query: Query) -> None:
    """The handler's thread stays and echoes until a message ends it."""
    ws.connect(**settings(query))
    for message in ws:
        if message == "raise":
            raise RuntimeError("as the test wants it")
        if message == "return":
            return
        ws.send(message)


@websocket("/greet")
def greet(_: Handler, ws: WebSocket, query: Query) -> None:
    ws.on("message", ws.send)
    ws.connect(**settings(query))
    ws.send("hello")


@websocket("/forks")
def forks(_: Handler, ws: WebSocket, query: Query) -> None:
    """Forks in a listener, and sends the child's exit status."""
    ws.on("message", lambda _: ws.send(str(in_a_child(echo_in_a_new_engine))))
    ws.connect(**settings(query))


@websocket("/sleeps")
def sleeps(_: Handler, ws: WebSocket, query: Query) -> None:
    """Sleeps for the number of seconds in the message, then answers."""

    def sleep(message: str) -> None:
        time.sleep(float(message))
        ws.send(message)

    ws.on("message", sleep)
    ws.connect(**settings(query))


@websocket("/sends-all")
def sends_all(_: Handler, ws: WebSocket, query: Query) -> None:
    """Sends a message of every supported type right after `connect()`."""
    ws.connect(**settings(query))
    ws.send("text")
    ws.send(b"bytes", compress=True)
    ws.send(["frag", "ments"])
    ws.ping()
    ws.close()
