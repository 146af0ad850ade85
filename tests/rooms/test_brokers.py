"""Features of a single broker: TLS, Unix sockets, memory limits, missing JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.programs import wait_for
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusState, History

from .brokers import BrokerProcess, break_connection, nats_server, redis_server
from .certificates import Certificates
from .conftest import Connect, Start
from .publishing import send
from .recorder import Recorder

KEPT = History(length=10_000)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def tls_broker(kind: str, tmp_path: Path, certificates: Certificates) -> BrokerProcess:
    folder = tmp_path / "broker"
    folder.mkdir()
    if kind == "nats":
        names = ["--tls", "--tlscert", str(certificates.certificate)]
        broker = nats_server(folder, *names, "--tlskey", str(certificates.key))
        broker.url = broker.url.replace("nats://", "tls://")
    else:
        broker = redis_server(
            folder,
            *("--tls-cert-file", str(certificates.certificate)),
            *("--tls-key-file", str(certificates.key)),
            *("--tls-ca-cert-file", str(certificates.authority), "--tls-auth-clients", "no"),
            tls=True,
        )
        broker.url = broker.url.replace("redis://", "rediss://")
    return broker


def test_broker_over_tls_delivers_messages(
    tls_broker: BrokerProcess,
    certificates: Certificates,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authorities are OpenSSL's defaults, which SSL_CERT_FILE overrides."""
    try:
        _, distrustful = connect(tls_broker, "room", wait=False)
        assert "certificate" in distrustful.wait_for_state(BusState.DOWN).lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        assert ssl.get_default_verify_paths().cafile == str(certificates.authority)
        _, receiver = connect(tls_broker, "room", history=KEPT)
        sender, _ = connect(tls_broker, history=KEPT)
        send(sender, "room", "secret")
        assert receiver.wait_for_messages(1) == ["secret"]
    finally:
        tls_broker.close()


def test_redis_over_unix_socket_delivers_messages(tmp_path: Path, connect: Connect) -> None:
    path = tmp_path / "socket"
    broker = redis_server(tmp_path, "--unixsocket", str(path))
    try:
        _, receiver = connect(f"unix://{path}", "room")
        sender, _ = connect(f"unix://{path}?db=0")
        send(sender, "room", "x")
        assert receiver.wait_for_messages(1) == ["x"]
    finally:
        broker.close()


@pytest.mark.parametrize("library", ["redis", "nats"])
def test_missing_client_library_is_reported(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"websocket-handler\[{library}\]"):
        Bus(f"{library}://localhost", Recorder())


def test_missing_jetstream_is_reported(tmp_path: Path, connect: Connect) -> None:
    broker = nats_server(tmp_path, jetstream=False)
    try:
        _, recorder = connect(broker, "room", history=KEPT, wait=False)
        reason = recorder.wait_for_state(BusState.DOWN)
        assert "JetStream" in reason
        plain, _ = connect(broker, "room")
        assert plain.state is BusState.UP
    finally:
        broker.close()


def test_nats_answer_after_a_cancelled_wait_is_ignored(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    from websocket_handler.brokers.nats import NatsConnection

    errors: list[Exception] = []

    async def main(broker: BrokerProcess) -> None:
        async def on_error(error: Exception) -> None:
            errors.append(error)

        client = NatsConnection(requires_tls=False)
        await client.connect([broker.url], error_cb=on_error, allow_reconnect=False)
        waiting = asyncio.create_task(client.confirm(20))
        while not client._pongs:
            await asyncio.sleep(0)
        waiting.cancel()
        await client.confirm(20)
        assert client.is_connected
        await client.close()

    with contextlib.closing(nats_server(tmp_path, jetstream=False)) as broker:
        asyncio.run(main(broker))
    assert errors == []


def test_redis_out_of_memory_delays_messages_in_order(tmp_path: Path, connect: Connect) -> None:
    """Messages that Redis refuses are queued, in order, until it accepts them."""
    broker = redis_server(tmp_path, "--maxmemory-policy", "noeviction")
    try:
        bus, recorder = connect(broker, "room", history=KEPT)
        send(bus, "room", "before")
        recorder.wait_for_messages(1)
        command(broker, "CONFIG SET maxmemory 1")
        send(bus, "room", *map(str, range(500)))
        assert "maxmemory" in recorder.wait_for_state(BusState.DOWN)
        assert bus.stats().queued == 500
        command(broker, "CONFIG SET maxmemory 0")
        assert bus.flush(10)
        send(bus, "room", "after")
        expected = ["before", *map(str, range(500)), "after"]
        assert recorder.wait_for_messages(502) == expected
        _, receiver = connect(broker, "room", history=KEPT)
        assert (recorder.losses, receiver.losses) == ([], [])
    finally:
        broker.close()


def test_redis_that_lost_all_data_continues_to_deliver(tmp_path: Path, connect: Connect) -> None:
    broker = redis_server(tmp_path)
    try:
        bus, recorder = connect(broker, "room", history=KEPT)
        _, other = connect(broker, "room", history=KEPT)
        send(bus, "room", "1", "2", "3")
        other.wait_for_messages(3)
        command(broker, "FLUSHALL")
        send(bus, "room", "4", "5")
        assert other.wait_for_messages(5) == ["1", "2", "3", "4", "5"]
        assert recorder.wait_for_messages(5) == ["1", "2", "3", "4", "5"]
    finally:
        broker.close()


def command(broker: BrokerProcess, text: str) -> None:
    with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
        connection.sendall(text.encode() + b"\r\n")
        assert connection.recv(100).startswith(b"+OK")


@pytest.mark.usefixtures("server_kind")  # without a server, nothing is lost on the way
def test_gap_longer_than_the_history_is_reported(
    fresh: BrokerProcess, kind: str, connect: Connect
) -> None:
    """A process away for longer than the history lasts gets a loss report and the remaining
    messages."""
    history = History(length=100)
    sender, _ = connect(fresh, history=history)
    bus, recorder = connect(fresh, "room", history=history)
    send(sender, "room", "0")
    recorder.wait_for_messages(1)
    is_blocked, go_on = threading.Event(), threading.Event()
    assert bus._thread is not None
    break_connection(bus)
    bus._thread.post(is_blocked.set)
    bus._thread.post(go_on.wait)
    assert is_blocked.wait(20)
    send(sender, "room", *map(str, range(1, 2001)))
    assert sender.flush(20)
    go_on.set()
    wait_for(lambda: "2000" in recorder.messages(), "the last message")
    delivered = [int(message) for message in recorder.messages()]
    missing = 2001 - len(delivered)
    assert missing > 1000
    (after,) = [one for one, next_one in pairwise(delivered) if next_one != one + 1]
    assert delivered == [*range(after + 1), *range(after + 1 + missing, 2001)]
    assert len(delivered) - after > 100
    assert recorder.losses == [("room", None if kind == "nats" else missing)]


def test_client_libraries_log_nothing(
    start: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    broker = start()
    _, recorder = connect(broker, "room", history=KEPT)
    broker.kill()
    recorder.wait_for_state(BusState.DOWN)
    broker.start()
    recorder.wait_for_state(BusState.UP)
    assert {record.name for record in caplog.records} == {"websocket_handler"}
