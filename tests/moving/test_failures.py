"""A move that fails: no connection is lost silently, and nothing is let in."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, ConnectionMoved, Engine, WebSocket
from websocket_handler.moving import giving, messages, open_connection, suspension
from websocket_handler.moving.arrivals import HEADER, Arrival, arrival_for
from websocket_handler.moving.directory import VARIABLE, open_directory
from websocket_handler.moving.facts_pipe import facts_offered, take_facts
from websocket_handler.moving.messages import NotMoved, receive, send
from websocket_handler.moving.open_connection import OpenConnection
from websocket_handler.moving.repeating import WaitingSocket
from websocket_handler.moving.state import FORMAT, Facts, UnknownFormat
from websocket_handler.moving.suspension import facts_of
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.versions import by_name

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, close, masked, text
from .between_engines import Client, RepeatedRequest, move
from .programs.mode import KILLED_AT
from .test_servers import HELLO, PROGRAMS, READY, ask

RFC6455 = by_name("RFC 6455")
NOBODY = 65534
IDLE_SOCKETS = 2
"""The sockets of a program without connections."""


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "private"
    monkeypatch.setenv(VARIABLE, str(directory))
    return directory


@pytest.fixture
def mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mode"
    monkeypatch.setenv("DEPLOY_MODE_FILE", str(path))
    monkeypatch.setenv("DEPLOY_TIMEOUT", "2")
    return path


def http_server(port: int) -> contextlib.AbstractContextManager[Program]:
    return running(Program(["-m", f"{PROGRAMS}.http_server", str(port)], READY, not IS_NATIVE))


# The new application


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [("refuse", 1008), ("fail", 1012), ("raise", 1012), ("slow", 1012), ("kill", 1012)],
)
def test_new_application_that_does_not_accept_closes(mode: Path, behaviour: str, code: int) -> None:
    port = free_port()
    with http_server(port) as old, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(old.address).open()) for _ in "12"]
        for client in clients:
            ask(client)
        mode.write_text(behaviour)
        with http_server(port):
            old.end_soon(signal.SIGTERM)
            for client in clients:
                client.expect_close(code)
                client.send(close(code))
            assert old.wait(15) == 0
            warnings = old.log().count("no process has answered within 1 s, so no connection is")
            assert warnings == (behaviour == "slow"), old.log()


@pytest.mark.usefixtures("mode")
def test_no_new_process_closes_with_1012() -> None:
    with http_server(free_port()) as old, RawClient(old.address).open() as client:
        ask(client)
        old.end_soon(signal.SIGTERM)
        client.expect_close(1012)
        client.send(close(1012))
        assert old.wait() == 0
        assert "no process" not in old.log(), "an ordinary end needs no warning"


def end_of(client: RawClient) -> str:
    """The way in which a connection has ended: "lost", or a close frame with 1012."""
    try:
        data = client.sock.recv(100)
    except ConnectionResetError:
        return "lost"
    if not data:
        return "lost"
    assert data[:4] == b"\x88" + data[1:2] + b"\x03\xf4", data
    return "1012"


def test_new_process_that_is_killed_half_way_ends_no_connection_silently(mode: Path) -> None:
    port = free_port()
    with http_server(port) as old, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(old.address).open()) for _ in range(10)]
        for client in clients:
            ask(client)
        mode.write_text("kill later")
        with http_server(port):
            old.end_soon(signal.SIGTERM)
            ends = sorted(end_of(client) for client in clients)
        assert ends == ["1012"] * (10 - KILLED_AT + 1) + ["lost"] * (KILLED_AT - 1)


def test_old_process_that_is_killed_half_way_leaves_the_moved_connections(mode: Path) -> None:
    port = free_port()
    with http_server(port) as old, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(old.address).open()) for _ in range(10)]
        for client in clients:
            ask(client)
        mode.write_text("delay")
        with http_server(port) as new:
            old.end_soon(signal.SIGTERM)
            wait_for(lambda: sockets_of(new) >= 4, "some connections to move")
            old.end_soon(signal.SIGKILL)
            old.wait(10)
            moved = [client for client in clients if answers(client)]
            assert 0 < len(moved) < 10
            with RawClient(new.address).open() as another:
                assert ask(another)[:2] == [str(new.pid), "False"]


def sockets_of(program: Program) -> int:
    """The number of open connections of clients."""
    found = 0
    for path in Path("/proc", str(program.pid), "fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(path.readlink()).startswith("socket:")
    return found - IDLE_SOCKETS


def answers(client: RawClient) -> bool:
    """Whether the connection is open in the new process. If not, it has ended."""
    client.sock.sendall(HELLO)
    try:
        return client.read_frame().payload.split()[1] == b"True"
    except (AssertionError, OSError):
        return False


def test_smaller_limit_of_new_application_applies_to_begun_message(mode: Path) -> None:
    port = free_port()
    with http_server(port) as old, RawClient(old.address).open() as client:
        ask(client)
        long = masked(text("x" * 5000))
        client.sock.sendall(long[:3000])
        mode.write_text("limits")
        with http_server(port):
            old.end_soon(signal.SIGTERM)
            client.expect_close(1009)
            client.send(close(1009))


# The other process ends, or breaks the protocol


def offered(old: WebSocket) -> tuple[socket.socket, threading.Thread, list[Any]]:
    """The exchange of the old process with a new one that the test plays."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    results: list[Any] = []

    def run() -> None:
        with theirs:
            try:
                results.append(giving.pass_on(theirs, OpenConnection(old), 2))
            except NotMoved as error:
                results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return ours, thread, results


@pytest.mark.parametrize("after", ["facts", "take", "nonsense", "silence"])
def test_new_process_that_ends_leaves_connection_to_old_one(
    engines: tuple[Engine, Engine], after: str
) -> None:
    def prepare(ws: WebSocket) -> None:
        ws.on("message", ws.send)

    with Client(engines[0], RFC6455, prepare) as client:
        stream = client.encoder.message("hello")
        client.sock.sendall(stream[:4])
        wait_for(client.is_read, "the engine to read")
        ours, thread, results = offered(client.websocket)
        if after != "facts":
            send(ours, {"take": True})
            state = receive(ours, 5)
            assert len(state.descriptors) == 2
            client.sock.sendall(stream[4:])
            state.close()
        if after == "nonsense":
            ours.send(b"not JSON")
        if after == "silence":
            thread.join(10)
        ours.close()
        thread.join(10)
        assert results[0].status in (0, 500)
        if after == "facts":
            client.sock.sendall(stream[4:])
        assert client.read(1) == [Message("hello")]


@pytest.mark.skipif(not IS_NATIVE, reason="only the native engine has standby threads")
@pytest.mark.parametrize("delayed", ["before", "after"])
def test_suspending_that_takes_long_does_not_lose_the_connection(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, delayed: str
) -> None:
    """On a busy machine, a standby thread takes over the engine while the connection is suspended:
    before its socket is taken, or after that."""
    delays = [0.3]
    name = "_replay_of" if delayed == "before" else "_window_of"
    call = getattr(suspension, name)

    def delay(*arguments: Any) -> Any:
        if delays:
            time.sleep(delays.pop())
        return call(*arguments)

    monkeypatch.setattr(suspension, name, delay)
    with Client(engines[0], RFC6455, lambda ws: ws.on("message", ws.send)) as client:
        stream = client.encoder.message("hello")
        client.sock.sendall(stream[:8])
        wait_for(client.is_read, "the engine to read")
        ours, thread, results = offered(client.websocket)
        send(ours, {"take": True})
        state = receive(ours, 5)
        assert "sizes" in state.fields, state.fields
        state.close()
        ours.close()
        thread.join(10)
        assert results[0].status == 0
        client.sock.sendall(stream[8:])
        assert client.read(1) == [Message("hello")]


@pytest.mark.parametrize("after", ["facts", "state"])
def test_old_process_that_ends_closes_the_new_websocket(
    engines: tuple[Engine, Engine], after: str
) -> None:
    closed: list[Any] = []
    with Client(engines[0], RFC6455, lambda _: None) as client:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arrival = Arrival(ours, facts_of(client.websocket))

        def old_process() -> None:
            with theirs:
                receive(theirs, 5)
                if after == "state":
                    send(theirs, {"sizes": [0, 0, 0], "latency": 0, "traffic": [0] * 6})

        thread = threading.Thread(target=old_process)
        thread.start()
        handover = RepeatedRequest(engines[1])
        handover.arrival = arrival
        new = WebSocket(client.request, handover=handover)
        new.on("close", lambda *how: closed.append(how))
        new.connect()
        handover.complete()
        thread.join(10)
        wait_for(lambda: closed, "close")
        assert closed[0][0] == 1006


def test_message_sent_while_suspended_arrives_once(engines: tuple[Engine, Engine]) -> None:
    with Client(engines[0], RFC6455, lambda _: None) as client:
        ours, thread, results = offered(client.websocket)
        send(ours, {"take": True})
        state = receive(ours, 5)
        client.websocket.send("meanwhile")
        send(ours, {"ready": True})
        given = receive(ours, 5)
        assert messages.from_file(given.descriptors[0]).endswith(b"meanwhile")
        state.close()
        given.close()
        thread.join(10)
        ours.close()
        assert results == [giving.MOVED]


@pytest.mark.skipif(not IS_NATIVE, reason="only the native engine has standby threads")
def test_connection_goes_on_if_the_engine_is_blocked_before_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_connection, "IDLE_TIMEOUT_S", 0.3)
    entered, go_on = threading.Semaphore(0), threading.Event()
    engine = Engine(threads=1)  # and a standby thread

    def block(_: object) -> None:
        entered.release()
        go_on.wait(20)

    def prepare(ws: WebSocket) -> None:
        ws.on("message", block)

    with (
        Client(engine, RFC6455, lambda ws: ws.on("message", ws.send)) as client,
        Client(engine, RFC6455, prepare) as first,
        Client(engine, RFC6455, prepare) as second,
    ):
        ours, thread, results = offered(client.websocket)
        send(ours, {"take": True})
        receive(ours, 5).close()
        for other in (first, second):
            other.sock.sendall(other.encoder.message("block"))
            is_blocked = entered.acquire(timeout=10)
            assert is_blocked
        send(ours, {"ready": True})
        thread.join(10)
        ours.close()
        go_on.set()
        assert isinstance(results[0], open_connection.StillBusy)
        client.sock.sendall(client.encoder.message("hello"))
        assert client.read(1) == [Message("hello")]
    engine.stop(timeout=5)


def test_connection_moves_if_its_listener_returns_in_time(engines: tuple[Engine, Engine]) -> None:
    began = threading.Event()

    def work(message: str | bytes) -> None:
        began.set()
        time.sleep(open_connection.IDLE_TIMEOUT_S / 2)
        client.websocket.send(message)

    with Client(engines[0], RFC6455, lambda ws: ws.on("message", work)) as client:
        client.sock.sendall(client.encoder.message("hello"))
        has_begun = began.wait(10)
        assert has_begun
        client.move(engines[1], lambda _: None)
        assert client.read(1) == [Message("hello")]


def test_connection_closed_while_suspended_stays_in_old_process(
    engines: tuple[Engine, Engine],
) -> None:
    with Client(engines[0], RFC6455, lambda _: None) as client:
        ours, thread, results = offered(client.websocket)
        send(ours, {"take": True})
        state = receive(ours, 5)
        client.websocket.close(4000, "enough")
        wait_for(lambda: client.websocket.state.value == "closing", "closing")
        send(ours, {"ready": True})
        given = receive(ours, 5)
        assert "kept" in given.fields
        state.close()
        thread.join(10)
        ours.close()
        (event,) = client.read(1)
        assert event[:2] == (4000, "enough")
        assert isinstance(results[0], NotMoved)


def test_unknown_format_is_refused(engines: tuple[Engine, Engine]) -> None:
    with Client(engines[0], RFC6455, lambda _: None) as client:
        fields = facts_of(client.websocket).to_json()
        for wrong in ({"format": FORMAT + 1}, {"version": "RFC 9999"}, {"origin": 5}):
            with pytest.raises(UnknownFormat):
                Facts.from_json({**fields, **wrong})


def test_moved_handler_ends_and_send_raises(engines: tuple[Engine, Engine]) -> None:
    ended: list[BaseException] = []

    def receive_all(ws: WebSocket) -> None:
        try:
            for _ in ws:
                pass
        except BaseException as error:
            ended.append(error)

    with Client(engines[0], RFC6455, lambda _: None) as client:
        old = client.websocket
        reader = threading.Thread(target=receive_all, args=[old])
        reader.start()
        client.move(engines[1], lambda ws: ws.on("message", ws.send))
        reader.join(10)
        assert [type(error) for error in ended] == [ConnectionMoved]
        with pytest.raises(ConnectionClosed):
            old.send("too late")
        assert (old.close_code, old.close_reason) == (1012, "moved to another process")
        client.sock.sendall(client.encoder.message("on"))
        assert client.read(1) == [Message("on")]


def test_application_that_chooses_another_subprotocol_is_not_given_the_connection(
    engines: tuple[Engine, Engine],
) -> None:
    with Client(engines[0], RFC6455, lambda _: None) as client:
        old, request = client.websocket, client.request
        request.headers["Sec-WebSocket-Protocol"] = "chat"

        connect = WebSocket.connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WebSocket, "connect", lambda ws: connect(ws, "chat"))
            _, answer = move(old, request, engines[1], lambda _: None)
        assert answer.status == 409
        client.websocket.send("still here")
        assert client.read(1) == [Message("still here")]


# Security


FORGED = [
    "0" * 16 + ":" + "0" * 32,
    "../../../../tmp/x:" + "0" * 32,
    "\0abstract:" + "0" * 32,
    "/run/docker.sock:" + "0" * 32,
    "0" * 16 + "/:" + "0" * 32,
    "",
    "x" * 10_000,
    "\u0660" * 16 + ":" + "0" * 32,
]


@pytest.mark.parametrize("value", FORGED)
def test_forged_header_stands_for_nothing(runtime_directory: Path, value: str) -> None:
    with open_directory(create=True):
        pass
    before = set(runtime_directory.iterdir())
    assert arrival_for(value) is None
    assert set(runtime_directory.iterdir()) == before


@pytest.mark.usefixtures("mode")
def test_forged_header_in_request_opens_an_ordinary_websocket() -> None:
    with http_server(free_port()) as server:
        headers = {HEADER: FORGED[0]}
        with RawClient(server.address).open("/echo", headers) as client:
            assert ask(client)[1:] == ["False", "1", "hello"]


def test_wrong_or_replayed_secret_gets_nothing(runtime_directory: Path) -> None:
    with open_directory(create=True) as directory, WaitingSocket(directory) as waiting:
        (name,) = (path.name for path in runtime_directory.iterdir())
        for secret in ("0" * 32, "1" * 32):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(directory.path(name))
                send(sock, {"secret": secret})
                assert waiting._accept("2" * 32) is None
                assert sock.recv(100) == b""


def test_replayed_secret_gets_nothing(engines: tuple[Engine, Engine]) -> None:
    tickets: list[str] = []
    with (
        Client(engines[0], RFC6455, lambda _: None) as client,
        socket.create_server(("127.0.0.1", 0)) as server,
        open_directory(create=True) as directory,
        WaitingSocket(directory) as waiting,
    ):
        owner = OpenConnection(client.websocket)
        description = owner.describe()._replace(address=server.getsockname())
        for number in (1, 2):
            answers: list[Any] = []
            thread = threading.Thread(
                target=lambda: answers.append(waiting.move(owner, description, 10))  # noqa: B023
            )
            thread.start()
            with server.accept()[0] as accepted:
                head = accepted.recv(10_000).decode()
                tickets.append(head.partition(f"{HEADER}: ")[2].partition("\r\n")[0])
                if number == 2:
                    assert arrival_for(tickets[0]) is None
                arrival = arrival_for(tickets[-1])
                assert arrival is not None
                arrival.refuse(401)
            thread.join(10)
            assert answers[0].status == 401
        assert tickets[0] != tickets[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_old_process_of_another_user_is_not_believed() -> None:
    name = "0123456789abcdef"
    with (
        open_directory(create=True) as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        listener.bind(directory.path(name))
        as_nobody(listener.listen)  # the kernel notes the user who calls it
        assert arrival_for(f"{name}:{'0' * 32}") is None
        listener.setblocking(False)
        with listener.accept()[0] as accepted:
            assert accepted.recv(1000) == b"", "it gets no secret either"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_new_process_of_another_user_gets_nothing(runtime_directory: Path) -> None:
    with open_directory(create=True) as directory, WaitingSocket(directory) as waiting:
        runtime_directory.chmod(0o755)  # although the directory would not let it in
        (path,) = runtime_directory.iterdir()
        path.chmod(0o777)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            as_nobody(lambda: sock.connect(directory.path(path.name)))
            send(sock, {"secret": "0" * 32})
            assert waiting._accept("0" * 32) is None
            with pytest.raises(ConnectionResetError):  # what it has sent was not even read
                sock.recv(1000)


def as_nobody(call: Callable[[], object]) -> None:
    """Make a call as another user."""
    os.seteuid(NOBODY)
    try:
        call()
    finally:
        os.seteuid(0)


def test_directory_that_others_may_use_is_refused(runtime_directory: Path) -> None:
    runtime_directory.mkdir(0o700)
    runtime_directory.chmod(0o750)
    with pytest.raises(PermissionError), open_directory():
        pass
    assert stat.S_IMODE(runtime_directory.stat().st_mode) == 0o750


def test_directory_that_is_a_link_is_refused(runtime_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    runtime_directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), open_directory(create=True):  # noqa: PT011
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_process_of_another_user_is_refused_on_both_sides() -> None:
    with (
        TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        path = Path(directory, "socket")
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        Path(directory).chmod(0o755)
        path.chmod(0o777)
        child = os.fork()  # no other program: this user may not run this Python
        if not child:
            with contextlib.ExitStack() as stack:
                stack.callback(os._exit, 2)
                os.setuid(NOBODY)
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.connect(str(path))
                os._exit(messages.is_of_same_user(sock))
        accepted, _ = listener.accept()
        with accepted:
            assert not messages.is_of_same_user(accepted)
            status = os.waitpid(child, 0)[1]
        assert status == 0, "the child does not trust this process either"


def test_stale_sockets_and_pipes_are_removed(runtime_directory: Path) -> None:
    with open_directory(create=True) as directory:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(directory.path("0123456789abcdef"))
        os.mkfifo(directory.path("0123456789abcdef.facts"))
        with WaitingSocket(directory), facts_offered(directory, "0" * 32, {"here": 1}):
            directory.remove_stale()
            assert len(list(runtime_directory.iterdir())) == 2
            assert take_facts(directory, "0" * 32) == {"here": 1}


def test_facts_can_be_taken_once_and_be_longer_than_a_pipe_is_at_first() -> None:
    facts = {"carried": "x" * suspension.MAX_CARRY_BYTES}
    with open_directory(create=True) as directory:
        with facts_offered(directory, "0" * 32, facts):
            with pytest.raises(FileNotFoundError):
                take_facts(directory, "1" * 32)
            assert take_facts(directory, "0" * 32) == facts
            with pytest.raises(BlockingIOError):
                take_facts(directory, "0" * 32)
        with (
            pytest.raises(NotMoved),
            facts_offered(directory, "0" * 32, {"x": "x" * messages.MAX_MESSAGE_BYTES}),
        ):
            pass
        with pytest.raises(FileNotFoundError):
            take_facts(directory, "0" * 32)


def test_file_in_place_of_the_pipe_is_not_read() -> None:
    name = hashlib.sha256(b"0" * 32).hexdigest()[:16] + ".facts"
    with open_directory(create=True) as directory:
        Path(directory.path(name)).write_text("{}")
        with pytest.raises(PermissionError):
            take_facts(directory, "0" * 32)
