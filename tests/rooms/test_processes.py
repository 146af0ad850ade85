"""Processes of every kind: publishing only, forked, with gevent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.forks import echo_in, exit_code_of_child
from tests.support.programs import wait_for
from websocket_handler import Engine
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusState, History

from .brokers import BrokerProcess, SilentServer
from .conftest import Connect, Start
from .publishing import send
from .recorder import Recorder, new_room

PREPARE = """
import os, sys, time
from pathlib import Path
from tests.rooms.recorder import Recorder
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusSettings, BusState, History
recorder = Recorder()
def send(bus, *messages):
    for message in messages:
        bus.publish(bus.prepare(room, message))
"""

PURE_WARNING = re.compile("engine of websocket_handler|pure-Python engine")


def run(program: str, broker: BrokerProcess | str, room: str, **limits: float) -> str:
    """Returns the output; the process must exit without an error."""
    url = broker if isinstance(broker, str) else broker.url
    done = subprocess.run(
        [sys.executable, "-c", f"{program}", url, room],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limits.get("timeout", 60),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    return done.stdout + "\n".join(line for line in lines if not PURE_WARNING.search(line))


@pytest.mark.parametrize("history", [None, History(length=10_000)], ids=["plain", "history"])
def test_process_that_only_publishes_delivers_before_exit(
    shared: BrokerProcess, connect: Connect, history: History | None
) -> None:
    """Its message arrives although it exits at once."""
    room = new_room()
    _, receiver = connect(shared, room, history=history)
    run(
        PREPARE
        + f"""
url, room = sys.argv[1:]
send(Bus(url, recorder, history={history!r}), *map(str, range(5000)))
""",
        shared,
        room,
    )
    assert receiver.wait_for_messages(5000) == [str(number) for number in range(5000)]
    assert receiver.losses == []


def test_process_exit_has_a_time_limit() -> None:
    with SilentServer() as silent:
        began = time.monotonic()
        said = run(
            PREPARE
            + """
url, room = sys.argv[1:]
send(Bus(url, recorder, settings=BusSettings(exit_timeout=0.5)), "x")
""",
            f"redis://127.0.0.1:{silent.port}",
            "room",
        )
        assert time.monotonic() - began < 30
        assert "1 messages were not delivered to the broker before exit" in said


def test_process_with_an_unused_bus_exits_at_once(shared: BrokerProcess) -> None:
    run(PREPARE + "bus = Bus(sys.argv[1], recorder)", shared, "room")


def test_forked_child_opens_its_own_connection(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    other, receiver = connect(shared, room)
    said = run(
        PREPARE
        + """
url, room = sys.argv[1:]
bus = Bus(url, recorder)
bus.join(room)
while not bus.stats().rooms:
    time.sleep(0.01)
send(bus, "parent 1")
assert bus.flush(10)
for number in range(3):
    if os.fork() == 0:
        assert bus.state is BusState.CONNECTING
        assert bus.stats().published == 0
        recorder.delivered.clear()
        send(bus, f"child {number}")
        assert bus.flush(10)
        assert bus.stats().rooms == 0
        sys.exit()
for _ in range(3):
    assert os.wait()[1] == 0
send(bus, "parent 2")
assert bus.flush(10)
assert bus.state is BusState.UP and bus.stats().connects == 1
while len(recorder.messages()) < 3:
    time.sleep(0.01)
print(sorted(recorder.messages()))
""",
        shared,
        room,
    )
    assert "['child 0', 'child 1', 'child 2']" in said
    messages = receiver.wait_for_messages(5)
    assert messages[0] == "parent 1"
    assert messages[-1] == "parent 2"
    assert sorted(map(str, messages[1:-1])) == ["child 0", "child 1", "child 2"]
    assert receiver.losses == []
    assert other.stats().duplicates == 0


def test_forked_child_does_not_keep_the_brokers_connection(start: Start, kind: str) -> None:
    """The broker sees its client disconnect when the parent exits, even if children remain."""
    broker = start()
    program = (
        PREPARE
        + """
url, room = sys.argv[1:]
bus = Bus(url, recorder)
bus.join(room)
while not bus.stats().rooms:
    time.sleep(0.01)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, broker.url, "room"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        wait_for(lambda: connections_to(broker), "its connection")
        parent.kill()
        wait_for(lambda: not connections_to(broker), f"{kind} to lose its connection")


def connections_to(broker: BrokerProcess) -> int:
    """The established connections at the broker's port, as the kernel lists them."""
    port = f":{broker.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def test_closed_bus_is_not_reopened_by_a_fork(shared: BrokerProcess) -> None:
    bus = Bus(shared.url, Recorder())
    send(bus, "room", "x")
    assert bus.close(10)
    assert bus.state is BusState.CLOSED

    def check() -> None:
        bus.join("room")
        if bus.state is not BusState.CLOSED:
            raise AssertionError(bus.state)
        echo_in(engine)

    engine = Engine()
    echo_in(engine)
    assert exit_code_of_child(check) == 0
    engine.stop(10)


GEVENT = (
    """
from gevent import monkey
monkey.patch_all()
import gevent
"""
    + PREPARE
    + """
url, room = sys.argv[1:]
bus = Bus(url, recorder, history=eval(os.environ["HISTORY"]))
bus.join(room)
while not bus.stats().rooms:
    gevent.sleep(0.01)
turns = 0
def turn():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.001)
gevent.spawn(turn)
jobs = [gevent.spawn(send, bus, *(f"{name} {number}" for number in range(100))) for name in "abc"]
gevent.joinall(jobs)
assert bus.flush(10)
before = turns
def hold():
    time.sleep(0.2)
    os.kill(int(os.environ["BROKER"]), 18)
os.kill(int(os.environ["BROKER"]), 19)
threads = [*Path("/proc", os.environ["BROKER"], "task").glob("*/stat")]
while any(") T " not in thread.read_text() for thread in threads):
    pass  # it could still answer
gevent.spawn(hold)
send(bus, "held")
assert bus.flush(10)
assert turns > before + 20, "flush stopped the other greenlets"
end = time.time() + 0.5
while time.time() < end:  # compute: the bus is heard all the same
    pass
while "from outside" not in recorder.messages():
    gevent.sleep(0.01)
print("well")
assert bus.close(5)
"""
)


@pytest.mark.parametrize("history", [None, History(length=10_000)], ids=["plain", "history"])
def test_greenlets_run_while_the_bus_works(
    start: Start, connect: Connect, history: History | None
) -> None:
    pytest.importorskip("gevent")
    broker = start()
    url = broker.url.replace("127.0.0.1", "localhost")
    sender, receiver = connect(broker, "room", history=history)
    assert broker._process is not None
    with subprocess.Popen(
        [sys.executable, "-c", GEVENT, url, "room"],
        cwd=ROOT,
        env={**os.environ, "BROKER": str(broker._process.pid), "HISTORY": repr(history)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            receiver.wait_for_messages(301, 30)
            send(sender, "room", "from outside")
            said, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (said, process.returncode) == ("well\n", 0), errors
    assert len(receiver.messages()) == 301 + (history is not None)


GREENLETS_AND_MEMBERS = """
from gevent import monkey
monkey.patch_all()
import faulthandler, os, socket, sys
import gevent
from tests.support.connections import HANDSHAKE
from websocket_handler import Engine, Headers, History, Request, Rooms, Settings, WebSocket
from websocket_handler.protocol.versions import rfc6455

sys.setswitchinterval(1e-5)  # so that a lock is often found taken
url, name = sys.argv[1:]
history = eval(os.environ["HISTORY"])
both = [Rooms(url, history=history) for _ in range(2)]
engine = Engine()

def read(sock):
    while sock.recv(65536):
        pass

def join(room, number):
    request = Request("GET", "/", Headers(HANDSHAKE.items()), remote_address="a pair")
    websocket = WebSocket(request, Settings(), engine=engine)
    ours, theirs = socket.socketpair()
    if number % 2:
        websocket.connect()
    else:  # with its codec in Python
        websocket._begin_as_client(rfc6455.VERSION, b"", None)
    websocket._take_over(ours)
    gevent.spawn(read, theirs)
    room.add(websocket, f"user {number}")

def send(rooms, number):
    room = rooms[name]
    for count in range(int(os.environ["COUNT"])):
        room.send(f"{number} {count}")
        room.presence()
        if count % 100 == number:
            join(room, number)
        gevent.sleep(0)

for rooms in both:
    for number in range(4):
        join(rooms[name], number)
    assert rooms[name].ready(20)
jobs = [gevent.spawn(send, both[number % 2], number) for number in range(8)]
gevent.joinall(jobs, timeout=60)
if not all(job.successful() for job in jobs):
    faulthandler.dump_traceback()
    os._exit(1)
print("well", flush=True)
for rooms in both:
    rooms.close(5)
os._exit(0)
"""


@pytest.mark.parametrize("pure", [False, True], ids=["native", "pure"])
@pytest.mark.parametrize("history", [None, History(length=1000)], ids=["plain", "history"])
def test_greenlets_and_bus_share_rooms_without_deadlock(
    shared: BrokerProcess,
    history: History | None,
    pure: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither waits for ever for a lock that the other holds."""
    pytest.importorskip("gevent")
    monkeypatch.setenv("HISTORY", repr(history))
    monkeypatch.setenv("COUNT", "150" if pure else "500")
    if pure:
        monkeypatch.setenv("WEBSOCKET_HANDLER_PURE_PYTHON", "1")
    assert "well" in run(GREENLETS_AND_MEMBERS, shared, new_room(), timeout=90).splitlines()
