"""local:// rooms: the private directory, processes that end or stop, and a history that fails."""

from __future__ import annotations

import gc
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.programs import Program, running, wait_for
from websocket_handler import WebSocket
from websocket_handler import connect as connect_client
from websocket_handler.brokers import local_database, local_directory, local_history
from websocket_handler.brokers.broker_url import parse_broker_url
from websocket_handler.brokers.local_frames import HEAD, MAX_FRAME_BYTES
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusState, History
from websocket_handler.errors import BusUnavailable

from .brokers import LocalDirectory
from .conftest import Connect
from .publishing import send
from .recorder import Recorder, offsets
from .replay import Replay

KEPT = History(length=10_000)


@pytest.fixture
def directory(tmp_path: Path) -> LocalDirectory:
    return LocalDirectory(tmp_path)


@contextmanager
def process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in another process, which says "ready"."""
    head = """
import os, sys, time
from tests.rooms.recorder import Recorder
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusSettings, BusState, History
recorder = Recorder()
def wait_for(look):
    while not look():
        time.sleep(0.005)
def up(bus, *rooms):
    for room in rooms:
        bus.join(room)
    bus.start()
    wait_for(lambda: bus.state is BusState.UP and bus.stats().rooms == len(rooms))
    return bus
"""
    with subprocess.Popen(
        [sys.executable, "-c", head + program, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()
            started.communicate()


MEMBER = """
bus = up(Bus(sys.argv[1], recorder), "room")
bus.announce("room", {"ann": 1})
print("ready", flush=True)
time.sleep(60)
"""


# The directory


@pytest.mark.parametrize(
    "url",
    ["local://", "local://a/b", "local://.x", "local://a?b=1", "local://é", "local://" + "x" * 65],
)
def test_url_without_a_valid_name_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="local://…"):
        parse_broker_url(url)


def test_name_is_a_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    connect("local://shop")
    path = tmp_path / "websocket-handler" / "shop"
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert local_directory._base_directory() == Path(f"/tmp/websocket-handler-{os.geteuid()}")


def test_long_path_and_prefix_connect_processes(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / ("x" * 200)
    _, receiver = connect(f"local://{path}", "room", prefix="p" * 150, history=KEPT)
    sender, _ = connect(f"local://{path}", prefix="p" * 150, history=KEPT)
    send(sender, "room", "x")
    assert receiver.wait_for_messages(1) == ["x"]


def test_directory_with_open_rights_is_refused(directory: LocalDirectory, connect: Connect) -> None:
    directory.folder.chmod(0o750)
    bus, recorder = connect(directory, wait=False)
    reason = recorder.wait_for_state(BusState.DOWN)
    assert "is not private" in reason
    assert f"chmod 700 {directory.folder}" in reason
    directory.folder.chmod(0o700)
    recorder.wait_for_state(BusState.UP)
    assert bus.stats().connects == 1


def test_directory_of_another_user_is_refused(
    directory: LocalDirectory, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(directory.folder, 12345, -1)
    else:  # only root can give a directory away
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    _, recorder = connect(directory, wait=False)
    reason = recorder.wait_for_state(BusState.DOWN)
    assert "is not private: it belongs to user" in reason


@pytest.mark.parametrize("case", ["link", "file", "nowhere"])
def test_unusable_directory_is_reported(tmp_path: Path, connect: Connect, case: str) -> None:
    path = tmp_path / "shop"
    expected = "symbolic link"
    if case == "link":
        path.symlink_to(tmp_path)
    elif case == "file":
        path.touch()
        expected = "Not a directory"
    else:
        path = path / "rooms"
        expected = f"{path.parent} does not exist, or this process cannot see it"
    _, recorder = connect(f"local://{path}", wait=False)
    assert expected in recorder.wait_for_state(BusState.DOWN)


def test_removed_directory_is_made_again(tmp_path: Path, connect: Connect) -> None:
    url = f"local://{tmp_path / 'shop'}"
    settings = {"heartbeat_interval": 0.1, "silence_timeout": 5.0}
    first, ears = connect(url, "room", history=KEPT, **settings)
    second, _ = connect(url, history=KEPT, **settings)
    for path in (tmp_path / "shop").iterdir():
        path.unlink()
    (tmp_path / "shop").rmdir()
    wait_for(lambda: first.stats().connects > 1 and second.stats().connects > 1, "new connections")
    wait_for(lambda: first.stats().rooms == 1, "the room to be subscribed")
    send(second, "room", "x")
    assert ears.wait_for_messages(1) == ["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs processes as another user")
def test_process_of_another_user_is_refused(directory: LocalDirectory, connect: Connect) -> None:
    """Even if the rights of the directory have been opened after its check."""
    _, receiver = connect(directory, "room")
    (name,) = directory.sockets()
    directory.folder.chmod(0o711)
    (directory.folder / name).chmod(0o777)
    fd = os.open(directory.folder, os.O_RDONLY)
    program = f"""
import os, socket
os.setuid(12345)
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(20)
    connection.connect("/proc/self/fd/{fd}/{name}")
    assert connection.recv(1) == b""
"""
    python = [sys.executable, "-I", "-c", program]
    subprocess.run(python, pass_fds=[fd], check=True, timeout=60)
    os.close(fd)
    directory.folder.chmod(0o700)
    sender, _ = connect(directory)
    send(sender, "room", "x")
    assert receiver.wait_for_messages(1) == ["x"]


# Processes


def test_killed_process_is_absent_at_once_and_leaves_no_socket(
    directory: LocalDirectory, connect: Connect
) -> None:
    bus, _ = connect(directory, "room", presence_ttl=1000.0)
    with process(MEMBER, directory.url) as member:
        wait_for(lambda: bus.present("room") == {"ann": 1}, "ann")
        assert len(directory.sockets()) == 2
        member.kill()
        killed_at = time.monotonic()
        wait_for(lambda: bus.present("room") == {}, "ann to be absent", pause=0.001)
        assert time.monotonic() - killed_at < 5
        wait_for(lambda: len(directory.sockets()) == 1, "the socket to be removed")


def test_sockets_of_killed_processes_are_removed(
    directory: LocalDirectory, connect: Connect
) -> None:
    for _ in range(2):
        with process(MEMBER, directory.url):
            pass
    connect(directory)
    assert len(directory.sockets()) == 1


def test_closed_process_leaves_no_socket(directory: LocalDirectory) -> None:
    bus = Bus(directory.url, Recorder())
    send(bus, "room", "x")
    assert bus.close(5)
    assert directory.sockets() == []


def test_stopped_process_delays_no_other_and_its_queue_is_bounded(
    directory: LocalDirectory, connect: Connect
) -> None:
    """When it continues, it reports a loss and receives new messages."""
    _, ears = connect(directory, "room")
    sender, _ = connect(directory, "room", queue_bytes=1 << 20)
    program = """
bus = up(Bus(sys.argv[1], recorder), "room")
print("ready", flush=True)
sys.stdin.readline()
wait_for(lambda: recorder.losses == [("room", None)])
wait_for(lambda: bus.stats().rooms == 1)
print("restarted", flush=True)
wait_for(lambda: "the last" in recorder.messages())
print("heard", flush=True)
"""
    with process(program, directory.url) as member:
        assert member.stdin is not None
        assert member.stdout is not None
        member.send_signal(signal.SIGSTOP)
        for number in range(300):
            send(sender, "room", f"{number:010000}")
            assert sender.flush(5)
        assert len(ears.wait_for_messages(300)) == 300
        assert ears.losses == []
        broker: Any = sender._worker.broker
        assert sum(link.queued for link in broker._siblings._links.values()) <= 1 << 20
        member.send_signal(signal.SIGCONT)
        member.stdin.write("\n")
        member.stdin.flush()
        assert member.stdout.readline() == "restarted\n"
        send(sender, "room", "the last")
        assert member.stdout.readline() == "heard\n"


def test_sixty_four_processes_receive_each_message_once(
    directory: LocalDirectory, connect: Connect
) -> None:
    """Here 64 buses, each with its own connections, as in 64 processes."""
    ends = [connect(directory, "room", wait=False) for _ in range(64)]
    for bus, _ in ends:
        wait_for(lambda bus=bus: bus.stats().rooms == 1, "the room")  # type: ignore[misc]
    for number, (bus, _) in enumerate(ends):
        send(bus, "room", str(number))
    for number, (_, recorder) in enumerate(ends):
        messages = recorder.wait_for_messages(63, 30)
        assert sorted(map(int, messages)) == [one for one in range(64) if one != number]


def test_newcomer_reaches_a_stopped_process_later(
    directory: LocalDirectory, connect: Connect
) -> None:
    program = """
bus = up(Bus(sys.argv[1], recorder), "room")
print("ready", flush=True)
wait_for(recorder.messages)
print(recorder.messages(), flush=True)
"""
    with process(program, directory.url) as member:
        assert member.stdout is not None
        member.send_signal(signal.SIGSTOP)
        sender, _ = connect(directory)
        send(sender, "room", "x")
        send(sender, "another room", "y")
        assert sender.flush(5)
        member.send_signal(signal.SIGCONT)
        assert member.stdout.readline() == "['x']\n"


def test_malformed_frames_end_only_their_connection(
    directory: LocalDirectory, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    bus, recorder = connect(directory, "room")
    (name,) = directory.sockets()
    for data in (HEAD.pack(MAX_FRAME_BYTES + 1, 4, 0), HEAD.pack(1, 4, 2) + b"x", b"\xff" * 100):
        with directory.connect(name) as connection:
            connection.settimeout(10)
            connection.sendall(data)
            assert connection.recv(1) == b""
    with directory.connect(name) as connection:
        connection.sendall(HEAD.pack(3, 200, 0) + b"new")  # a kind of a newer version
        sender, _ = connect(directory)
        send(sender, "room", "x")
        assert recorder.wait_for_messages(1) == ["x"]
    assert bus.stats().connects == 1
    assert "a frame of" in caplog.text


def test_children_forked_from_a_process_in_use_have_their_own_history(
    directory: LocalDirectory, connect: Connect
) -> None:
    _, receiver = connect(directory, "room", history=KEPT)
    program = """
bus = up(Bus(sys.argv[1], recorder, history=History()), "room")
def say(name):
    for number in range(100):
        bus.publish(bus.prepare("room", f"{name} {number}"))
    assert bus.flush(20)
say("parent")
for name in "abc":
    if os.fork() == 0:
        up(bus, "room")
        say(name)
        os._exit(0)
say("later")
for _ in "abc":
    assert os.wait()[1] == 0
assert bus.stats().connects == 1
print("ready", flush=True)
"""
    with process(program, directory.url):
        messages = receiver.wait_for_messages(500, 30)
    for name in ("parent", "a", "b", "c", "later"):
        expected = [f"{name} {number}" for number in range(100)]
        assert [one for one in messages if str(one).split()[0] == name] == expected
    assert receiver.losses == []


def test_child_does_not_keep_the_sockets_of_its_killed_parent(
    directory: LocalDirectory, connect: Connect
) -> None:
    bus, _ = connect(directory, "room")
    program = MEMBER.replace(
        'print("ready"', 'if os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\nprint("ready"'
    )
    with process(program, directory.url) as member:
        wait_for(lambda: bus.present("room") == {"ann": 1}, "ann")
        member.kill()
        wait_for(lambda: bus.present("room") == {}, "ann to be absent")


# The history


def test_history_survives_the_end_of_all_processes(
    directory: LocalDirectory, connect: Connect
) -> None:
    bus, recorder = connect(directory, "room", history=KEPT)
    send(bus, "room", "1", "2", "3")
    recorder.wait_for_messages(3)
    since = offsets(recorder)[0]
    bus.close(5)
    bus, recorder = connect(directory, "room", history=KEPT)
    assert Replay(bus, recorder, "room", since).wait().messages() == ["2", "3"]


def test_history_is_bounded_in_bytes(
    directory: LocalDirectory, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest messages of all rooms are removed first."""
    monkeypatch.setattr(local_database, "MAX_BYTES", 4 << 20)
    monkeypatch.setattr(local_database, "CHECK_BYTES", 1 << 18)
    bus, recorder = connect(directory, "old", "new", history=KEPT)
    send(bus, "old", "first")
    for number in range(1000):
        send(bus, "new", f"{number:020000}")
    assert bus.flush(30)
    recorder.wait_for_messages(1001)
    size = sum(path.stat().st_size for path in directory.folder.glob("*.sqlite3"))
    assert size < 8 << 20
    begin = re.sub(r"-\d+$", "-0", offsets(recorder)[0])
    old = Replay(bus, recorder, "old", begin).wait()
    assert (old.messages(), old.losses) == ([], [1])
    new = Replay(bus, recorder, "new", re.sub(r"-\d+$", "-0", offsets(recorder)[-1])).wait()
    assert new.losses == [1000 - len(new.given)]
    assert new.messages()[-1] == f"{999:020000}"


def refused(recorder: Recorder, reason: str) -> bool:
    return any(action == "send to" and reason in why for _, action, why in recorder.refusals)


def expect_delivery_without_history(
    sender: Bus, sent: Recorder, receiver: Recorder, reason: str
) -> None:
    """Messages reach both processes without an offset, and are refused for the history."""
    before = len(sent.delivered), len(receiver.delivered)
    send(sender, "room", "not stored")
    receiver.wait_for_messages(before[1] + 1)
    sent.wait_for_messages(before[0] + 1)
    for recorder in (sent, receiver):
        assert (recorder.delivered[-1].message, recorder.delivered[-1].offset) == (
            "not stored",
            None,
        )
    wait_for(lambda: refused(sent, reason), f"{reason}: {sent.refusals}")
    assert sender.state is BusState.UP


def expect_history(sender: Bus, receiver: Recorder) -> None:
    """Messages are stored again, after at most `RETRY_S`."""

    def is_stored() -> bool:
        seen = len(receiver.delivered)
        send(sender, "room", "stored")
        receiver.wait_for_messages(seen + 1)
        return receiver.delivered[-1].offset is not None

    wait_for(is_stored, "the history to be available", pause=0.1)


def test_locked_history_does_not_stop_the_delivery(
    directory: LocalDirectory,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_history, "LOCK_TIMEOUT_S", 0.2)
    sender, sent = connect(directory, "room", history=KEPT)
    _, receiver = connect(directory, "room", history=KEPT)
    send(sender, "room", "1")
    receiver.wait_for_messages(1)
    sent.wait_for_messages(1)
    (path,) = directory.folder.glob("*.sqlite3")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        expect_delivery_without_history(sender, sent, receiver, "database is locked")
        began = time.monotonic()
        for _ in range(3):
            expect_delivery_without_history(sender, sent, receiver, "database is locked")
        assert time.monotonic() - began < 5
        other.execute("ROLLBACK")
    other.close()
    expect_history(sender, receiver)
    assert caplog.text.count("refuses to send to 'room'") == 1
    assert (sent.losses, receiver.losses) == ([], [])


def test_damaged_history_does_not_stop_the_delivery(
    directory: LocalDirectory, connect: Connect
) -> None:
    path = directory.folder / "websocket-handler.sqlite3"
    path.write_bytes(b"not a database" * 1000)
    settings: dict[str, Any] = {"heartbeat_interval": 0.2, "history": KEPT, "wait": False}
    sender, sent = connect(directory, "room", **settings)
    _, receiver = connect(directory, "room", **settings)
    for recorder in (sent, receiver):
        wait_for(lambda one=recorder: one.refusals, "the refusal")  # type: ignore[misc]
        assert recorder.refusals[0][1] == "receive from"
        assert "file is not a database" in recorder.refusals[0][2]
    expect_delivery_without_history(sender, sent, receiver, "file is not a database")
    path.unlink()
    wait_for(lambda: sender.stats().rooms == 1, "the room to be subscribed", 20)
    expect_history(sender, sent)


def test_full_disk_does_not_stop_the_delivery(directory: LocalDirectory, connect: Connect) -> None:
    sender, sent = connect(directory, "room", history=KEPT)
    _, receiver = connect(directory, "room", history=KEPT)
    send(sender, "room", "1")
    receiver.wait_for_messages(1)
    sent.wait_for_messages(1)
    broker: Any = sender._worker.broker
    database = broker._history._database
    database._execute("PRAGMA max_page_count = 1")  # SQLite then reports a full disk
    send(sender, "room", "x" * 100_000)
    receiver.wait_for_messages(2)
    sent.wait_for_messages(2)
    assert {one.delivered[1].offset for one in (sent, receiver)} == {None}
    wait_for(lambda: refused(sent, "disk is full"), f"the refusal: {sent.refusals}")
    expect_history(sender, receiver)


def test_message_stored_by_a_process_killed_before_sending_arrives(
    directory: LocalDirectory, connect: Connect
) -> None:
    bus, recorder = connect(directory, "room", history=KEPT)
    program = """
from websocket_handler.brokers.local_siblings import Siblings
bus = up(Bus(sys.argv[1], recorder, history=History()), "room")
Siblings.send = lambda *_: os.kill(os.getpid(), 9)
print("ready", flush=True)
bus.publish(bus.prepare("room", "stored"))
time.sleep(60)
"""
    with process(program, directory.url) as member:
        member.wait(20)
    assert recorder.wait_for_messages(1) == ["stored"]
    send(bus, "room", "after")
    assert recorder.wait_for_messages(2) == ["stored", "after"]
    assert recorder.losses == []


# The documentation


def test_documented_application_receives_from_a_second_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application and the commands of docs/rooms.md, as they stand there."""
    text = (ROOT / "docs" / "rooms.md").read_text()
    (source,) = re.findall(r"^```python\n(from flask .*?)^```", text, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^python -c '(.*)'$", text, re.MULTILINE)
    (gunicorn,) = re.findall(r"`gunicorn (-w 4 .*) app:app`", text)
    (tmp_path / "app.py").write_text(source)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    arguments = [*gunicorn.split(), "-b", "127.0.0.1:0", "--chdir", str(tmp_path), "app:app"]
    ready = r"Listening at: http://127\.0\.0\.1:(\d+)"
    with running(Program(["-m", "gunicorn", *arguments], ready)) as program:
        clients = [connect_client(program.url("/news"), open_timeout=60) for _ in range(8)]

        def all_received() -> bool:
            """Send once more: the workers have joined the room a moment after the handshake."""
            subprocess.run([sys.executable, "-c", command], check=True, timeout=60)
            return all(received(client) for client in clients)

        wait_for(all_received, "the message", 30)
        for client in clients:
            client.close()


def received(client: WebSocket) -> bool:
    try:
        return client.receive(0.2) == "Sale!"
    except TimeoutError:
        return False


class Failing(Recorder):
    """Raises in every call, after recording it."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self._error = error

    def bus_changed(self, state: BusState, reason: str) -> None:
        super().bus_changed(state, reason)
        raise self._error("on purpose")

    def deliver(self, *arguments: Any) -> None:
        super().deliver(*arguments)
        raise self._error("on purpose")


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_application_that_raises_what_ends_a_loop_leaves_the_bus_running(
    directory: LocalDirectory, connect: Connect, error: type[BaseException]
) -> None:
    recorder = Failing(error)
    bus = Bus(directory.url, recorder)
    bus.join("a")
    bus.start()
    recorder.wait_for_state(BusState.UP)
    assert bus.wait_until_subscribed("a", 10)
    sender, _ = connect(directory, "a")
    for message in ("first", "second"):
        send(sender, "a", message)
    assert recorder.wait_for_messages(2) == ["first", "second"]
    bus.close(5)


def test_bus_without_a_thread_is_unavailable_and_starts_later(directory: LocalDirectory) -> None:
    bus = Bus(directory.url, Recorder())
    before = threading.stack_size(1 << 47)  # no address space has such a stack
    try:
        with pytest.raises(BusUnavailable, match="the bus cannot start: can't start new thread"):
            bus.join("a")
    finally:
        threading.stack_size(before)
    gc.collect()  # what was left open would warn, and fail the test
    bus.join("a")
    assert bus.wait_until_subscribed("a", 10)
    bus.close(5)
