"""TLS of the client, record by record: how they are cut, joined, renewed, forged and ended."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, WebSocket, connect
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import Decoder
from websocket_handler.protocol.versions.accept import accept_value
from websocket_handler.settings import Settings

from ..engine.carriers import EngineRunner, running_engine
from ..support.ports import free_port, listens
from ..support.programs import wait_for
from .conftest import Certificates

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")

KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)", re.IGNORECASE)


@pytest.fixture(params=["threads", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[EngineRunner]:
    with running_engine(request.param) as runner:
        yield runner


def response_to(request: bytes) -> bytes:
    """Return the 101 for the request of a client."""
    found = KEY.search(request)
    assert found is not None
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return f"{head}Sec-WebSocket-Accept: {accept_value(found[1].decode())}\r\n\r\n".encode()


class RecordServer:
    """The server of one connection; it makes TLS records and sends their bytes separately."""

    def __init__(self, certificates: Certificates, runner: EngineRunner) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject = certificates.server.wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )
        self._decoder = Decoder(Settings(max_message_size=1 << 26), expect_masked=True)
        self._events: list[object] = []
        self._certificates, self._runner = certificates, runner

    def open(self, **options: Any) -> WebSocket:
        """Return a client that is connected to this server."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._accept, args=(listener,))
            thread.start()
            url = f"wss://localhost:{listener.getsockname()[1]}/"
            websocket = connect(
                url, ssl=self._certificates.client, engine=self._runner.engine, **options
            )
            thread.join(20)
        return websocket

    def _accept(self, listener: socket.socket) -> None:
        self.sock, _ = listener.accept()
        self._runner.peers.append(self.sock)
        self.sock.settimeout(20)
        self._call(self.tls.do_handshake)
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += self.receive()
        self.sock.sendall(self.records(response_to(request)))

    def _call(self, call: object) -> object:
        """Call OpenSSL until it does not wait for input any more."""
        while True:
            try:
                return call()  # type: ignore[operator]
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                received = self.sock.recv(1 << 16)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()

    def receive(self) -> bytes:
        """Return decrypted data; b"" after close_notify. Raises `ssl.SSLEOFError` if the client
        has ended the connection without it."""
        data = self._call(partial(self.tls.read, 1 << 16))
        assert isinstance(data, bytes)
        return data

    def message(self) -> object:
        """Return the next message of the client."""
        while not self._events:
            self._events += self._decoder.feed(self.receive())
        return getattr(self._events.pop(0), "data", None)

    def records(self, *plain: bytes) -> bytes:
        """Return the bytes of TLS records, one for each argument of at most 16 KiB."""
        for data in plain:
            for start in range(0, len(data), 1 << 14):
                self.tls.write(data[start : start + (1 << 14)])
        return self._outgoing.read()


@pytest.fixture
def server(certificates: Certificates, runner: EngineRunner) -> RecordServer:
    return RecordServer(certificates, runner)


def text(data: bytes) -> bytes:
    return write_frame(Opcode.TEXT, data)


def listened(websocket: WebSocket) -> tuple[list[object], list[int]]:
    """Return the lists of the future messages and close codes."""
    messages: list[object] = []
    codes: list[int] = []
    websocket.on("close", lambda code, _reason: codes.append(code))
    websocket.on("message", messages.append)
    return messages, codes


def test_record_that_arrives_byte_by_byte_is_delivered_once(server: RecordServer) -> None:
    messages, _ = listened(server.open())
    server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    records = server.records(text(b"one"), text(b"two"))
    for number in range(len(records)):
        server.sock.sendall(records[number : number + 1])
    wait_for(lambda: len(messages) == 2, "both messages")
    assert messages == ["one", "two"]


def test_records_that_arrive_together_wait_while_reading_is_paused(server: RecordServer) -> None:
    websocket = server.open()
    messages: list[object] = []

    def pause(message: object) -> None:
        messages.append(message)
        websocket.pause()

    websocket.on("message", pause)
    sent = ["1", "2", "3", "4"]
    server.sock.sendall(server.records(*(text(one.encode()) for one in sent)))
    for count in range(1, len(sent) + 1):
        wait_for(lambda: len(messages) >= count, "a message")  # noqa: B023
        assert messages == sent[:count]
        websocket.resume()


def test_paused_client_leaves_what_follows_in_the_socket(server: RecordServer) -> None:
    websocket = server.open()
    websocket.on("message", lambda _: None)
    websocket.pause()
    wait_for(lambda: websocket._reading_paused, "the pause")
    server.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 1 << 26:
            sent += server.sock.send(server.records(write_frame(Opcode.BINARY, bytes(10_000))))
    assert sent < 1 << 26
    assert websocket.traffic.bytes_received <= 1 << 17


def test_records_before_the_end_are_delivered_after_a_pause(server: RecordServer) -> None:
    websocket = server.open()
    websocket.pause()
    messages, codes = listened(websocket)
    server.sock.sendall(server.records(text(b"1"), text(b"2")))
    server.sock.close()
    wait_for(lambda: bool(codes), "the end")
    assert (messages, codes) == (["1", "2"], [1006])


@pytest.mark.parametrize("end", ["close_notify", "FIN", "cut off", "forged", "not TLS"])
def test_end_of_tls_delivers_the_records_before_it(server: RecordServer, end: str) -> None:
    messages, codes = listened(server.open())
    data = server.records(text(b"whole"))
    if end == "close_notify":
        with contextlib.suppress(ssl.SSLWantReadError):
            server.tls.unwrap()
        data += server.records()
    elif end == "cut off":
        data += server.records(text(b"cut off"))[:-1]
    elif end == "forged":
        *record, last = server.records(text(b"forged"))
        data += bytes([*record, last ^ 1])
    elif end == "not TLS":
        data += b"HTTP/1.1 400 Bad Request\r\n\r\n"
    server.sock.sendall(data)
    if end in ("FIN", "cut off"):
        server.sock.close()
    wait_for(lambda: bool(codes), "the end")
    assert (messages, codes) == (["whole"], [1006])


def test_client_ends_tls_with_close_notify(server: RecordServer) -> None:
    websocket = server.open()
    websocket.close(1000, "")
    code = (1000).to_bytes(2, "big")
    assert server.receive()[1] & 0x7F == 2  # its close frame, with the code
    server.sock.sendall(server.records(write_frame(Opcode.CLOSE, code)))
    assert server.receive() == b""


def test_data_that_the_socket_does_not_accept_is_sent_when_the_server_reads(
    server: RecordServer, runner: EngineRunner
) -> None:
    websocket = server.open(max_buffered=1 << 24)
    sent = [os.urandom(1 << 20) for _ in range(12)]
    for message in sent:
        runner.engine._post(partial(websocket.send, message))  # there, `send` does not wait
    wait_for(lambda: websocket.buffered_amount > 1 << 21, "a full send buffer")
    assert [server.message() for _ in sent] == sent
    wait_for(lambda: not websocket.buffered_amount, "an empty send buffer")


def test_large_messages_pass_in_both_directions_at_once(server: RecordServer) -> None:
    websocket = server.open()
    messages, _ = listened(websocket)
    websocket.on("message", websocket.send)
    sent = [os.urandom(300_000) for _ in range(4)]
    for message in sent:
        server.sock.sendall(server.records(write_frame(Opcode.BINARY, message)))
        assert server.message() == message
    assert messages == sent


@contextlib.contextmanager
def openssl_server(
    certificates: Certificates, version: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`openssl s_server`: it sends what is written to its input, and writes what it receives; a
    line of one letter is a command."""
    port = free_port()
    command = ["stdbuf", "-oL", "openssl", "s_server", "-accept", str(port)]
    command += ["-cert", str(certificates.file)]
    command += ["-key", str(certificates.file), version]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            wait_for(lambda: listens(port, "127.0.0.1"), "the server")
            yield port, process
        finally:
            process.kill()


@contextlib.contextmanager
def opened_by_openssl(
    certificates: Certificates, runner: EngineRunner, version: str
) -> Iterator[tuple[WebSocket, subprocess.Popen[bytes], bytearray, Relay]]:
    """A client connected to `openssl s_server`, that process, its output, and what is between."""
    with openssl_server(certificates, version) as (port, process):
        output = bytearray()
        reader = threading.Thread(target=collect, args=(process, output))
        reader.start()

        def answer() -> None:
            wait_for(lambda: b"\r\n\r\n" in output, "the request")
            write(process, response_to(bytes(output)))

        answering = threading.Thread(target=answer)
        answering.start()
        relay = Relay(port)
        url = f"wss://localhost:{relay.port}/"
        websocket = connect(url, ssl=certificates.client, engine=runner.engine)
        answering.join(20)
        try:
            yield websocket, process, output, relay
        finally:
            websocket.abort()
            process.kill()
            reader.join(20)


@pytest.mark.parametrize(
    ("version", "command"),
    [("-tls1_2", b"r"), ("-tls1_3", b"K"), ("-tls1_3", b"k")],
    ids=["renegotiation", "update of both keys", "update of the server's key"],
)
def test_connection_survives_new_keys(
    certificates: Certificates, runner: EngineRunner, version: str, command: bytes
) -> None:
    with opened_by_openssl(certificates, runner, version) as (websocket, process, output, _):
        messages, _ = listened(websocket)
        for number in range(3):
            write(process, text(b"before %d" % number))
            wait_for(lambda: len(messages) == 2 * number + 1, "a message")  # noqa: B023
            before = output.count(b"SSL_do_handshake")
            write(process, command + b"\n")
            wait_for(lambda: output.count(b"SSL_do_handshake") > before, "it")  # noqa: B023
            write(process, text(b"after %d" % number))
            wait_for(lambda: len(messages) == 2 * number + 2, "a message")  # noqa: B023
            before = len(output)
            websocket.send("sent")
            wait_for(lambda: len(output) > before, "the message")  # noqa: B023
        assert messages == [
            f"{word} {number}" for number in range(3) for word in ("before", "after")
        ]


class Relay:
    """Passes the bytes of a server to a client, and those of the client while `passes` is set."""

    def __init__(self, port: int) -> None:
        self.passes = threading.Event()
        self.passes.set()
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            back.start()
            self._pass(client, server, self.passes)

    def _pass(
        self, source: socket.socket, to: socket.socket, passes: threading.Event | None = None
    ) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if passes is not None:
                    passes.wait(20)
                to.sendall(data)


def test_sending_during_a_renegotiation_waits_without_work(
    certificates: Certificates, runner: EngineRunner
) -> None:
    with opened_by_openssl(certificates, runner, "-tls1_2") as (websocket, process, output, relay):
        messages, _ = listened(websocket)
        relay.passes.clear()
        write(process, b"r\n")
        wait_for(lambda: b"SSL_do_handshake" in output, "the renegotiation")
        write(process, text(b"after the request"))
        wait_for(lambda: bool(messages), "the request for a renegotiation")
        websocket.send("sent")
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.2
        assert websocket.buffered_amount > 0
        relay.passes.set()
        wait_for(lambda: not websocket.buffered_amount, "the end of the renegotiation")


def write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def collect(process: subprocess.Popen[bytes], output: bytearray) -> None:
    assert process.stdout is not None
    while data := os.read(process.stdout.fileno(), 1 << 16):
        output += data
