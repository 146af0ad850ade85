"""The engine itself: roles, memory, shutdown, forks, Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import (
    IS_NATIVE,
    ConnectionClosed,
    Engine,
    State,
    WebSocket,
)
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import by_name

from ..support.connections import Peer, client_role, connect, make_websocket

if IS_NATIVE:
    from websocket_handler.engine.engine import EpollEngine

KEY = b"\x01\x02\x03\x04"


def test_client_masks_and_reads_unmasked_frames(engine: Engine) -> None:
    websocket, peer = client_role(engine)
    websocket.on("message", websocket.send)
    for message in ("héllo", b"\x00\xff", "x" * 100_000):
        payload = message.encode() if isinstance(message, str) else message
        opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
        peer.sock.sendall(write_frame(opcode, payload))
        assert peer.read() == Message(message)  # decoded as by a server: the frame must be masked
    websocket.abort()
    assert peer.read_to_end() == []
    peer.sock.close()


def test_client_uses_each_masking_key_once(engine: Engine) -> None:
    websocket, peer = client_role(engine)
    for _ in range(1000):
        websocket.send(b"x")
    wire = b""
    while len(wire) < 7000:
        wire += peer.sock.recv(1 << 16)
    keys = {wire[at + 2 : at + 6] for at in range(0, 7000, 7)}
    assert len(keys) > 990
    peer.sock.close()


def test_close_by_another_thread_during_handover_is_sent_once(engine: Engine) -> None:
    for number in range(300):
        ours, theirs = socket.socketpair()
        websocket = make_websocket(engine)
        if number % 2:
            websocket.on("open", lambda: None)
        websocket.connect()
        go = threading.Barrier(2)

        def close(websocket: WebSocket = websocket, go: threading.Barrier = go) -> None:
            go.wait()
            websocket.close(4000, "now")

        closing = threading.Thread(target=close)
        closing.start()
        go.wait()
        websocket._take_over(ours)
        peer = Peer(theirs)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        assert peer.read() == Close(4000, "now")
        peer.sock.sendall(write_frame(Opcode.CLOSE, (4000).to_bytes(2, "big"), key=KEY))
        assert peer.read_to_end() == []
        assert websocket.wait_closed(10)
        closing.join()


@pytest.mark.skipif(not IS_NATIVE, reason="of the native engine")
@pytest.mark.parametrize("event", ["message", "open"])
def test_handover_waits_for_the_engines_thread_only_for_a_listener(event: str) -> None:
    engine: Any = EpollEngine()  # the test runs its iterations
    websocket = make_websocket(engine)
    heard: list[object] = []
    websocket.on(event, lambda *what: heard.append(what))  # type: ignore[call-overload]
    ours, theirs = socket.socketpair()
    with theirs:
        websocket.connect()
        websocket._take_over(ours)
        if event == "open":
            assert (websocket.state, heard) == (State.CONNECTING, [])
            engine.poll(0)
            assert heard == [()]
        assert websocket.state is State.OPEN
        peer = Peer(theirs)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        theirs.sendall(write_frame(Opcode.TEXT, b"hello", key=KEY))
        engine.poll(1)
        assert heard == [() if event == "open" else ("hello",)]
    engine.close()


def test_kept_messages_never_change(engine: Engine) -> None:
    """The memory of large messages is reused, but never while the application holds them."""
    websocket = make_websocket(engine, max_message_size=1 << 23)
    kept: list[bytes] = []
    done = threading.Event()

    @websocket.on("message")
    def keep_every_other(message: bytes) -> None:
        hash(message)  # bytes objects cache their hash, and reused memory must reset it
        if len(message) % 2:
            kept.append(message)
        if not message:
            done.set()

    peer = connect(websocket)
    rng = random.Random(7)
    sent = [rng.randbytes(rng.randrange(120_000, 600_000)) for _ in range(60)]
    for payload in sent:
        peer.sock.sendall(write_frame(Opcode.BINARY, payload, key=KEY))
    peer.sock.sendall(write_frame(Opcode.BINARY, b"", key=KEY))
    assert done.wait(30)
    expected = [payload for payload in sent if len(payload) % 2]
    assert kept == expected
    assert set(kept) == set(expected)  # found by their hashes
    peer.sock.close()


def test_close_all_without_connections_returns_at_once() -> None:
    engine = Engine()
    begin = time.monotonic()
    assert engine.close_all(timeout=5)
    assert time.monotonic() - begin < 4
    engine.stop()


def test_close_all_waits_for_the_close_answers(engine: Engine) -> None:
    websockets = [make_websocket(engine) for _ in range(20)]
    peers = [connect(websocket) for websocket in websockets]

    def answer() -> None:
        for peer in peers:
            assert peer.read() == Close(1012, "restart")
            peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xf4", key=KEY))

    answering = threading.Thread(target=answer)
    answering.start()
    assert engine.close_all(1012, "restart", timeout=10)
    answering.join()
    assert {websocket.state for websocket in websockets} == {State.CLOSED}
    for peer in peers:
        assert peer.read_to_end() == []
        peer.sock.close()


def test_stopped_engine_drops_connections_and_takes_no_more() -> None:
    engine = Engine()
    websocket = make_websocket(engine)
    ended: list[int] = []
    websocket.on("close", lambda code, _reason: ended.append(code))
    peer = connect(websocket)
    engine.stop()
    assert ended == [1006]
    with pytest.raises(ConnectionClosed, match="1006"):
        websocket.send("too late")
    late = make_websocket(engine)
    late.connect()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(RuntimeError, match="closed"):
        late._take_over(ours)
    peer.sock.close()


def test_abort_before_the_handover_closes_the_socket(engine: Engine) -> None:
    websocket = make_websocket(engine)
    websocket.connect()
    websocket.abort()
    ours, theirs = socket.socketpair()
    websocket._take_over(ours)
    assert theirs.recv(1) == b""
    assert websocket.state is State.CLOSED
    theirs.close()


def test_ctrl_c_in_a_listener_reaches_the_program() -> None:
    async def main() -> None:
        engine = Engine(asyncio.get_running_loop())
        websocket = make_websocket(engine)

        @websocket.on("message")
        def interrupt(_message: str) -> None:
            raise KeyboardInterrupt

        ours, theirs = socket.socketpair()
        websocket.connect()
        websocket._take_over(ours, early=write_frame(Opcode.TEXT, b"x", key=KEY))
        sockets.append(theirs)
        await asyncio.sleep(10)

    sockets: list[socket.socket] = []
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    sockets[0].close()


@pytest.mark.parametrize("delay", [0, 0.01])
def test_ctrl_c_in_a_call_of_the_engine_reaches_the_program(delay: float) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        engine = Engine(asyncio.get_running_loop())
        engine._post(interrupt) if delay == 0 else engine._call_later(delay, interrupt)
        await asyncio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


@pytest.mark.skipif(not IS_NATIVE, reason="asyncio polls for the engine in plain Python")
def test_foreign_event_loop_runs_the_engine_by_fileno_and_poll() -> None:
    import select

    from websocket_handler.engine.engine import EpollEngine

    engine = EpollEngine()
    websocket = make_websocket(engine)  # type: ignore[arg-type]
    websocket.on("message", websocket.send)
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours, early=write_frame(Opcode.TEXT, b"early", key=KEY))
    received = b""
    while not received.endswith(b"\x81\x05early"):
        ready, _, _ = select.select([engine.fileno(), theirs.fileno()], [], [], 10)
        assert ready
        if engine.fileno() in ready:
            engine.poll()
        if theirs.fileno() in ready:
            received += theirs.recv(4096)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.poll()
    theirs.close()


PROGRAM = """
import os, socket, sys, threading
from tests.support.connections import connect, make_websocket
from websocket_handler import WebSocket
from websocket_handler.engine import default_engine

websocket = make_websocket(default_engine())
websocket.on("message", websocket.send)
ours = socket.socket(fileno=int(sys.argv[1]))
websocket.connect()
websocket._take_over(ours)
"""


def run_with_socket(program: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with ours:
        os.set_inheritable(ours.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(ours.fileno())],
            pass_fds=[ours.fileno()],
            cwd=Path(__file__).parent.parent.parent,
            stderr=subprocess.PIPE,
        )
    theirs.settimeout(20)
    return theirs, process


def written_errors(process: subprocess.Popen[bytes]) -> str:
    """Standard error, without the warning of the engine in plain Python."""
    lines = process.communicate(timeout=20)[1].decode().splitlines()
    return "\n".join(
        line for line in lines if not re.search("the one in plain Python|pure-Python engine", line)
    )


def read_until_the_end(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(4096):
        data += part
        if data.endswith(b"\x88\x02\x03\xe9"):  # the engine's close frame: answer it
            sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xe9", key=KEY))
    return data


def test_process_exit_closes_with_1001() -> None:
    sock, process = run_with_socket(PROGRAM)
    assert read_until_the_end(sock).endswith(b"\r\n\r\n\x88\x02\x03\xe9")
    assert written_errors(process) == ""
    assert process.returncode == 0
    sock.close()


FORKING_PROGRAM = (
    PROGRAM
    + """
import time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
while websocket.state.value != "open":
    time.sleep(0.01)
child = os.fork()
if child == 0:
    # The child has an engine of its own, and lets go of the parent's connection.
    mine, theirs = socket.socketpair()
    own = make_websocket(default_engine())
    own.on("message", own.send)
    peer = connect(own)
    own.send("from the child")
    assert peer.read().data == "from the child"
    websocket.abort()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
websocket.send("the parent goes on")
ended = threading.Event()
websocket.on("close", lambda code, reason: ended.set())
assert ended.wait(20)
"""
)


def test_forked_child_leaves_the_parents_connections_alone() -> None:
    sock, process = run_with_socket(FORKING_PROGRAM)
    data = b""
    while not data.endswith(b"the parent goes on"):
        part = sock.recv(4096)
        assert part, process.communicate(timeout=20)[1].decode()
        data += part
    sock.close()
    assert written_errors(process) == ""
    assert process.returncode == 0


def test_settings_of_closed_connections_are_not_kept(engine: Engine) -> None:
    def connect_many(first: int) -> None:
        for number in range(first, first + 5000):
            make_websocket(engine, ping_interval=20 + number / 1e6).connect()

    connect_many(0)
    gc.collect()
    tracemalloc.start()
    connect_many(5000)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_collected_engine_closes_only_its_own_descriptors() -> None:
    for _ in range(20):
        cycle: list[object] = [Engine()]
        cycle.append(cycle)
        del cycle
    gc.collect()
    before = open_descriptors()
    for _ in range(20):
        cycle = [Engine()]
        cycle.append(cycle)
        cycle[0].itself = cycle  # type: ignore[attr-defined]
        del cycle
    gc.collect()
    assert open_descriptors() == before
    for descriptor in (0, 1, 2):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("version", "by_tcp"), [("hixie-75", True), ("hixie-76", True), ("hybi-01", False)]
)
def test_kernel_finds_dead_peers_without_pings(engine: Engine, version: str, by_tcp: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    looked_at = ours.dup()
    websocket = make_websocket(engine, ping_interval=30, ping_timeout=20)
    websocket._begin_as_client(by_name(version), b"", None)
    websocket._take_over(ours)
    assert bool(looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == by_tcp
    if by_tcp:
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        found = [looked_at.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        assert found == [30, 5, 4]
    websocket.abort()
    looked_at.close()
    theirs.close()
