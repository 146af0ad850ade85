"""System faults: no descriptors, forks, signals, failing calls, exit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..conftest import ROOT, require
from ..support.compression import compressed
from ..support.gunicorn import wait_for_signal_handlers
from ..support.ports import free_port
from ..support.programs import EngineSetup, Program, echo_program, running, wait_for
from ..support.raw_client import RawClient, binary, close, text
from .peers import OFFER
from .rig import ResourceUse, at_scale, note

HELLO = text("hello")
MIB = 1 << 20
BROKEN = (AssertionError, EOFError, OSError)
"""Errors of a client whose connection was lost."""

SYS_TGKILL = {"x86_64": 234, "aarch64": 131}


# No descriptors


def test_no_descriptors_left_open_connections_continue(engine_setup: EngineSetup) -> None:
    """Open connections continue, no thread spins, and new ones work once descriptors are free."""
    with (
        echo_program(engine_setup, "--defaults", descriptors=64) as program,
        contextlib.ExitStack() as stack,
    ):
        canary = stack.enter_context(RawClient(program.address)).open()
        wait_for(lambda: program.descriptors() < 40, "a quiet start")
        waiting = [
            stack.enter_context(socket.create_connection(program.address)) for _ in range(200)
        ]
        wait_for(lambda: program.descriptors() >= 63, "them to be used up")
        costs, seconds = ResourceUse(program), at_scale(1, 10)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            canary.echo(HELLO)
            time.sleep(0.02)
        share = costs.cpu() / seconds
        assert share < 0.3
        note(
            "no descriptors left",
            f"no descriptors left, {engine_setup.name}: processor",
            share * 100,
            "%",
            "< 5",
        )
        for sock in waiting:
            sock.close()
        begun = time.monotonic()
        stack.enter_context(RawClient(program.address)).open().echo(HELLO)
        recovery = time.monotonic() - begun
        note(
            "no descriptors left",
            f"until connections are accepted again, {engine_setup.name}",
            recovery,
            "s",
            "≤ 1",
        )
        canary.echo(HELLO)


# Forks


def test_forks_during_traffic_leave_connections_intact(program: Program) -> None:
    """Forks in a handler's thread and in the engine's thread, while the canary keeps echoing."""
    count = at_scale(3, 100)
    for _ in range(count):
        assert program.get("/fork") == 0
    with RawClient(program.address) as client:
        client.open("/forks")
        for _ in range(count):
            client.send(text("fork"))
            client.expect(text("0"))
    note("forks", f"{2 * count} forks beside a running engine: children that failed", 0, "", "0")


def test_gunicorn_with_preload_serves_in_each_worker() -> None:
    """The engine runs in the master process before every fork."""
    port, requests = free_port(), at_scale(24, 600)
    command = ["-m", "gunicorn", "-k", "gthread", "--threads", "2", "--workers", "2", "--preload"]
    command += ["--max-requests", "3", "--bind", f"127.0.0.1:{port}", "tests.attacks.preloaded:app"]
    gunicorn = Program(command, r"Listening at: http://127\.0\.0\.1:(\d+)", not IS_NATIVE)
    with running(gunicorn) as server:
        pids = set()
        for _ in range(requests):
            with RawClient(server.address) as client:
                client.open("/").send(text("pid"))
                frame = client.read_frame()
                if frame.opcode == Opcode.TEXT:  # else the worker has served its maximum of three
                    pids.add(frame.payload)
                client.send(close())
        assert len(pids) > requests / 8
        assert "Traceback" not in server.log()
        assert "WORKER TIMEOUT" not in server.log()
        wait_for_signal_handlers(server)
        assert server.end(signal.SIGTERM) == 0
        note("forks", f"gunicorn --preload, {len(pids)} workers: that hung", 0, "", "0")


# Signals


def test_signals_in_every_thread_leave_connections_intact(program: Program) -> None:
    """Signals go to every thread, so that each kind of system call is interrupted at some point."""
    number = SYS_TGKILL.get(platform.machine())
    require(number, "the number of tgkill")
    syscall = ctypes.CDLL(None).syscall
    count = at_scale(1500, 10_000)
    with RawClient(program.address) as client:
        client.open()
        for round_ in range(count):
            for task in Path(f"/proc/{program.pid}/task").iterdir():
                syscall(number, program.pid, int(task.name), signal.SIGUSR1)
            if round_ % 50 == 0:
                client.echo(binary(bytes(200_000)))
        client.echo(HELLO)


def test_ctrl_c_while_listeners_block_ends_the_program(engine_setup: EngineSetup) -> None:
    """The main thread gets the signal, the other connections are closed, and the program ends."""
    arguments = ("--defaults", "--close-timeout", "1")
    with echo_program(engine_setup, *arguments) as program, contextlib.ExitStack() as stack:
        blocked, other = (stack.enter_context(RawClient(program.address)) for _ in range(2))
        blocked.open("/sleeps")
        other.open().echo(HELLO)
        blocked.send(text("0.4"))
        time.sleep(0.1)
        program.end_soon(signal.SIGINT)
        other.expect_closed(1001)
        if (frame := blocked.read_frame()).opcode == Opcode.TEXT:  # the loop handles it only now
            frame = blocked.read_frame()
        assert frame == close(1001)
        blocked.send(close(1001))
        assert program.wait() == 0
        raised = re.findall(r"^[\w.]+(?:Error|Closed|Interrupt)\b", program.log(), re.M)
        assert set(raised) <= {"websocket_handler.errors.ConnectionClosed"}  # the listener's output


# The end of the interpreter

ENDING = """
import asyncio, sys, threading, time
from tests.support.connections import connect, make_websocket
from websocket_handler import IS_NATIVE, Engine, default_engine
from websocket_handler.protocol.frame import Opcode, write_frame

def open_some(engine):
    for number in range(20):
        websocket = make_websocket(engine)
        blocked = {blocked} if IS_NATIVE or number == 19 else 0  # blocks others without threads
        websocket.on("message", lambda _, seconds=blocked: time.sleep(seconds))
        peer = connect(websocket)
        peer.sock.sendall(write_frame(Opcode.TEXT, b"x", key=b"1234"))
        websocket.send(bytes(500_000))  # more than the pair takes

async def in_loop():
    engine = Engine(asyncio.get_running_loop())
    await asyncio.to_thread(open_some, engine)
    {last}
"""
IN_THREAD = "\nopen_some(default_engine())\n{last}\n"
LAST = {"falls off its end": "pass", "sys.exit": "sys.exit(0)"}


@pytest.mark.parametrize(
    ("runs_in", "last", "blocked"),
    [
        ("thread", "falls off its end", 0),
        ("thread", "sys.exit", 60),
        ("loop", "falls off its end", 0),
        ("loop", "sys.exit", 0),
    ],
)
def test_interpreter_exit_with_open_sockets_is_clean_and_prompt(
    runs_in: str, last: str, blocked: int
) -> None:
    """No crash and no error output; exit waits neither for silent peers nor for listeners."""
    program = ENDING.format(last=LAST[last], blocked=blocked)
    program += (
        IN_THREAD.format(last=LAST[last]) if runs_in == "thread" else "\nasyncio.run(in_loop())\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", program],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    lines = done.stderr.decode().splitlines()
    expected = ("Executing <", "websocket_handler uses its pure-Python engine")  # first: slow steps
    errors = [line for line in lines if not line.startswith(expected)]
    assert (done.returncode, errors, done.stdout) == (0, [], b"")
    assert time.monotonic() - begun < 20


# Calls that fail


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled faults.c, to be preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    require(compiler, "a C compiler")
    assert compiler is not None
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).parent / "faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@contextlib.contextmanager
def preloaded(
    library: Path, engine_setup: EngineSetup, *arguments: str, **environment: str
) -> Iterator[Program]:
    """An echo program with that library preloaded."""
    added = {"LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(), **environment}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in added.items():
            patch.setenv(name, value)
        context = echo_program(engine_setup, *arguments, "--close-timeout", "1")
    with context as program:
        yield program


@pytest.mark.skipif(not IS_NATIVE, reason="asyncio makes the calls of the plain Python engine")
@pytest.mark.parametrize("every", [7, 101])
def test_failing_system_calls_end_only_some_connections(
    faults: Path, engine_setup: EngineSetup, every: int
) -> None:
    """Some connections end; none hangs, others are unaffected, and nothing leaks."""
    if engine_setup.pure:
        return
    with preloaded(faults, engine_setup, "--defaults", FAULTS_EVERY=str(every)) as program:
        whole = broken = 0
        for _ in range(at_scale(60, 5000)):
            with RawClient(program.address) as client, contextlib.suppress(*BROKEN):
                broken += 1
                client.open()
                for size in (0, 1, 100, 5000, 20_000, 200_000) * 3:
                    client.echo(binary(os.urandom(size)))
                client.send(close(1000))
                client.expect_closed(1000)
                broken -= 1
                whole += 1
        assert broken > 3
        assert whole + broken == at_scale(60, 5000)
        assert set(re.findall(r"^\w+(?:Error|Exception)\b", program.log(), re.M)) <= {"MemoryError"}
        wait_for(lambda: program.descriptors() < 14, "descriptors to be given back")


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it allocates memory itself")
@pytest.mark.parametrize("is_compressed", [False, True])
def test_message_without_memory_closes_only_its_connection(
    faults: Path, engine_setup: EngineSetup, is_compressed: bool
) -> None:
    """Close code 1011, one log line, and no processor time, even if the peer keeps sending."""
    with (
        preloaded(faults, engine_setup, FAULTS_LARGEST=str(4 * MIB)) as program,
        RawClient(program.address) as other,
        RawClient(program.address) as victim,
    ):
        other.open().echo(HELLO)
        begun = len(program.log())
        if is_compressed:
            victim.open("/echo?compression=true", OFFER)
            victim.send(compressed("x" * 24 * MIB))
        else:
            victim.open()
            victim.sock.sendall(b"\x82\xff" + (24 * MIB).to_bytes(8, "big") + bytes(4 + 6 * MIB))
        victim.expect_closed(1011)
        costs = ResourceUse(program)
        for _ in range(50):
            other.echo(HELLO)
            time.sleep(0.01)
        assert costs.cpu() < 0.4
        assert program.log()[begun:].count("MemoryError") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD")
def test_system_clock_jump_changes_no_timer(faults: Path, engine_setup: EngineSetup) -> None:
    """Only the monotonic clock is used: no peer is pinged, dropped or kept because of the jump."""
    with (
        preloaded(faults, engine_setup, "--defaults", FAULTS_CLOCK="1") as program,
        contextlib.ExitStack() as stack,
    ):
        client, silent = (stack.enter_context(RawClient(program.address)) for _ in range(2))
        client.open()
        silent.open("/echo?ping_interval=0.3&ping_timeout=0.2")
        for _ in range(100):
            client.echo(HELLO)
            time.sleep(0.005)
        assert silent.read_frame().payload == b"keepalive"
        silent.expect(close(1011, "keepalive ping timeout"))
        silent.expect_end()
        client.echo(HELLO)


BROADCAST = """
import socket
from websocket_handler import Engine, Rooms
from tests.support.connections import connect, make_websocket

engine, room = Engine(), Rooms()["all"]
members = [make_websocket(engine, high_water=16 << 20, max_buffered=64 << 20) for _ in range(3)]
peers = [connect(member) for member in members]
for _ in range(3):
    members[1].send(bytes(1 << 20))  # its peer does not read: these bytes fill a buffer
for member in members:
    room.add(member)
room.send(bytes(3 << 20))
for peer in (peers[0], peers[2]):
    assert len(peer.read().data) == 3 << 20
for _ in range(3):
    peers[1].read()
print("ended with", peers[1].read().code)
engine.stop()
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it allocates memory itself")
@pytest.mark.skipif(not IS_NATIVE, reason="the plain Python engine copies no payload into a buffer")
def test_broadcast_without_memory_for_one_member_reaches_the_others(faults: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(faults), "FAULTS_LARGEST": str(4 * MIB)}
    done = subprocess.run(
        [sys.executable, "-c", BROADCAST],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "ended with 1011\n", done.stderr
