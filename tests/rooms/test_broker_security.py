"""TLS before secrets are sent, verified certificates, hidden passwords."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.programs import wait_for
from websocket_handler.brokers.broker import KINDS, Broker, broker_class
from websocket_handler.bus.settings import BusState, History

from .brokers import BrokerProcess, nats_server, redis_server
from .certificates import Certificates
from .conftest import Connect, Start
from .publishing import send

KEPT = History(length=100)
HISTORIES = [None, KEPT]


TLS_HANDSHAKE = b"\x16\x03"
"""The first bytes of a TLS client (RFC 8446, 5.1)."""


class FakeNats:
    """Answers like a NATS server without TLS, and keeps all bytes from clients."""

    def __init__(self, **info: object) -> None:
        self._info = {"server_id": "x", "version": "2.9.10", "max_payload": 1 << 20, **info}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.received = b""
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.sendall(b"INFO " + json.dumps(self._info).encode() + b"\r\n")
                connection.settimeout(5)
                try:
                    while data := connection.recv(65536):
                        self.received += data
                        if data.startswith(TLS_HANDSHAKE):  # which it does not understand
                            break
                        if b"PING\r\n" in data:
                            connection.sendall(b"PONG\r\n")
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def fake_nats(request: pytest.FixtureRequest) -> Iterator[FakeNats]:
    fake = FakeNats(**getattr(request, "param", {}))
    yield fake
    fake.close()


@pytest.mark.parametrize(
    "fake_nats", [{}, {"tls_required": True}, {"tls_available": True}], indirect=True
)
@pytest.mark.parametrize("scheme", ["tls", "nats+tls"])
@pytest.mark.parametrize("user", ["user:hunter2", "hunter2", ":hunter2"])
def test_nats_url_with_tls_sends_nothing_in_plain_text(
    fake_nats: FakeNats, scheme: str, user: str, connect: Connect
) -> None:
    bus, recorder = connect(f"{scheme}://{user}@127.0.0.1:{fake_nats.port}", "room", wait=False)
    send(bus, "room", "a secret message")
    recorder.wait_for_state(BusState.DOWN)
    wait_for(lambda: fake_nats.connections > 1, "another attempt")
    assert bus.state is BusState.DOWN
    for plain in (b"hunter2", b"CONNECT", b"PUB", b"SUB", b"secret"):
        assert plain not in fake_nats.received


def test_servers_that_nats_announces_are_not_used(connect: Connect) -> None:
    """The first INFO precedes TLS, so an attacker may have written it."""
    other = FakeNats()
    fake = FakeNats(connect_urls=[f"127.0.0.1:{other.port}"])
    try:
        bus, recorder = connect(f"nats://user:hunter2@127.0.0.1:{fake.port}", wait=False)
        recorder.wait_for_state(BusState.UP)
        fake.close()
        assert bus._thread is not None
        for _ in range(3):
            attempts = bus.stats().attempts
            broker = bus._worker.broker
            bus._thread.post(lambda broker=broker: broker and broker.fail("a test"))
            wait_for(lambda attempts=attempts: bus.stats().attempts > attempts, "an attempt")  # type: ignore[misc]
        assert other.connections == 0
    finally:
        other.close()


def test_rediss_to_a_server_without_tls_sends_nothing_in_plain_text(connect: Connect) -> None:
    received = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(65536))
            connection.sendall(b"+PONG\r\n" * 10)

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        port = listener.getsockname()[1]
        _, recorder = connect(f"rediss://user:hunter2@127.0.0.1:{port}", wait=False)
        recorder.wait_for_state(BusState.DOWN)
        assert received
        assert b"hunter2" not in received[0]
        assert b"AUTH" not in received[0]


# Certificates


def tls_server(
    kind: str, folder: Path, certificates: Certificates, *, clients: bool, user: str = ""
) -> BrokerProcess:
    """A broker with TLS; with `clients` it requires client certificates."""
    folder.mkdir()
    certificate, key = str(certificates.certificate), str(certificates.key)
    authority = str(certificates.authority)
    if kind == "nats":
        options = ["--tls", "--tlscert", certificate, "--tlskey", key]
        options += ["--tlsverify", "--tlscacert", authority] if clients else []
        broker = nats_server(folder, *options, user=user)
        broker.url = broker.url.replace("nats://", "tls://")
        return broker
    files = ("--tls-cert-file", certificate, "--tls-key-file", key)
    options = ["--tls-ca-cert-file", authority, "--tls-auth-clients", "yes" if clients else "no"]
    broker = redis_server(folder, *files, *options, tls=True, user=user)
    broker.url = broker.url.replace("redis://", "rediss://")
    return broker


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.mark.parametrize("history", HISTORIES, ids=["plain", "history"])
def test_client_certificate_is_presented_to_the_broker(
    kind: str,
    tmp_path: Path,
    certificates: Certificates,
    connect: Connect,
    history: History | None,
) -> None:
    broker = tls_server(kind, tmp_path / "broker", certificates, clients=True)
    try:
        trusted = f"{broker.url}?ssl_ca_certs={quote(str(certificates.authority), safe='')}"
        _, without = connect(trusted, wait=False)
        without.wait_for_state(BusState.DOWN)
        files = f"&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"
        sender, _ = connect(trusted + files, history=history)
        _, receiver = connect(trusted + files, "room", history=history)
        send(sender, "room", "x")
        assert receiver.wait_for_messages(1) == ["x"]
    finally:
        broker.close()


def test_certificate_of_another_host_is_refused(
    kind: str, tmp_path: Path, connect: Connect
) -> None:
    certificates = Certificates(tmp_path, "elsewhere.test")
    broker = tls_server(kind, tmp_path / "broker", certificates, clients=False)
    try:
        url = f"{broker.url}?ssl_ca_certs={certificates.authority}"
        _, recorder = connect(url, wait=False)
        reason = recorder.wait_for_state(BusState.DOWN)
        assert "certificate verify failed" in reason
        assert "127.0.0.1" in reason
        unchecked, _ = connect(f"{url}&ssl_check_hostname=false", "room")
        assert unchecked.state is BusState.UP
    finally:
        broker.close()


def test_nats_server_that_only_offers_tls_is_used_with_tls(
    tmp_path: Path, certificates: Certificates, connect: Connect
) -> None:
    configuration = (
        f'tls {{ cert_file: "{certificates.certificate}", key_file: "{certificates.key}" }}\n'
        "allow_non_tls: true\n"
        'authorization { user: u, password: "hunter2" }'
    )
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = nats_server(folder, configuration=configuration)
    try:
        url = broker.url.replace("nats://", "tls://u:hunter2@")
        _, distrustful = connect(url, wait=False)
        assert "certificate" in distrustful.wait_for_state(BusState.DOWN)
        bus, _ = connect(f"{url}?ssl_ca_certs={certificates.authority}")
        assert bus.state is BusState.UP
    finally:
        broker.close()


# Passwords


@pytest.mark.parametrize(
    "password", ["plain", "p@ss", "p/ss", "p:ss", "p,ss", "p?ss#x", "p%41ss", "p ss", "pä✓", "[p]"]
)
def test_password_with_special_characters_is_accepted(
    start: Start, kind: str, connect: Connect, password: str
) -> None:
    if kind == "redis":
        broker = start("--requirepass", password)
    else:
        broker = start(configuration=f'authorization {{ user: "u", password: "{password}" }}')
    user = "u" if kind == "nats" else ""
    url = broker.url.replace("//", f"//{user}:{quote(password, safe='')}@")
    bus, _ = connect(url)
    assert bus.state is BusState.UP


def test_nats_token_authenticates_the_bus(tmp_path: Path, connect: Connect) -> None:
    broker = nats_server(tmp_path, configuration='authorization { token: "t/o:k@en" }')
    try:
        bus, _ = connect(broker.url.replace("//", f"//{quote('t/o:k@en', safe='')}@"))
        assert bus.state is BusState.UP
        _, refused = connect(broker.url.replace("//", "//hunter2@"), wait=False)
        assert "hunter2" not in refused.wait_for_state(BusState.DOWN)
    finally:
        broker.close()


def test_redis_without_auth_does_not_show_the_password(
    tmp_path: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis's error for an unknown command repeats the arguments."""
    broker = redis_server(tmp_path, "--rename-command", "AUTH", "")
    try:
        with caplog.at_level(logging.DEBUG):
            url = broker.url.replace("//", "//user:hunter2@")
            _, recorder = connect(url, wait=False)
            reason = recorder.wait_for_state(BusState.DOWN)
        assert "unknown command" in reason
        assert "hunter2" not in reason + caplog.text
    finally:
        broker.close()


def test_unexpected_failure_does_not_show_the_password(
    server_kind: str,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(broker: Broker) -> None:
        raise RuntimeError(f"a library says {broker.url.password}")

    monkeypatch.setattr(broker_class(KINDS[server_kind]), "connect", fail)
    bus, recorder = connect(f"{server_kind}://user:hunter2@127.0.0.1", wait=False)
    assert "a library says ***" in recorder.wait_for_state(BusState.DOWN)
    assert "Traceback" in caplog.text
    assert "hunter2" not in caplog.text + repr(bus._url)
