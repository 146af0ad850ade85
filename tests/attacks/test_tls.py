"""Attacks through TLS: one-byte records, invalid records, endless key updates."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..conftest import require
from ..support.programs import ENGINES, Program, echo_program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from ..support.tls import context
from .rig import ResourceUse, at_scale, note

HELLO = text("hello")

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")


@pytest.fixture(scope="module")
def shared_secure(certificate: Path) -> Iterator[Program]:
    engine_setup = next(setup for setup in ENGINES if setup.name == "native-thread")
    options = ("--defaults", "--close-timeout", "1", "--certificate", str(certificate))
    with echo_program(engine_setup, *options) as program:
        yield program


@pytest.fixture
def secure(shared_secure: Program) -> Iterator[Program]:
    """A server whose canary uses TLS as well; nothing may leak."""
    with secure_client(shared_secure) as canary:
        canary.open().echo(HELLO)
        descriptors = shared_secure.descriptors()
        yield shared_secure
        canary.echo(HELLO)
        wait_for(lambda: shared_secure.descriptors() <= descriptors, "descriptors to be given back")


def secure_client(program: Program, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> RawClient:
    return RawClient(program.address, context=context(newest))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_records_of_one_byte_are_echoed(secure: Program, newest: ssl.TLSVersion) -> None:
    with secure_client(secure, newest) as client:
        frame = masked(binary(bytes(at_scale(500, 20_000))))
        head = client.handshake("/echo")
        for i in range(len(head)):
            client.sock.sendall(head[i : i + 1])
        client.expect_opened()
        costs = ResourceUse(secure)
        for i in range(len(frame)):
            client.sock.sendall(frame[i : i + 1])
        assert len(client.read_frame().payload) == at_scale(500, 20_000)
        note(
            "one byte per segment",
            "TLS records of one byte: processor",
            costs.cpu() / len(frame) * 1e6,
            "µs",
            "",
        )


def send_and_wait(sock: socket.socket, data: bytes) -> None:
    """Send `data` and nothing else, and wait for the end of the connection, in any form."""
    sock.settimeout(10)
    with contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


GARBAGE = {
    "a record that cannot be read": b"\x17\x03\x03\x00\x10" + bytes(16),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "half an alert": b"\x15\x03\x03",
    "ones": b"\xff" * 99,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_invalid_tls_record_ends_only_its_connection(secure: Program, garbage: str) -> None:
    """After a valid handshake: the connection ends and costs nothing."""
    with secure_client(secure) as client:
        client.open().echo(HELLO)
        below = socket.socket(fileno=client.sock.detach())
        with below:
            send_and_wait(below, GARBAGE[garbage])
    costs = ResourceUse(secure)
    time.sleep(0.2)
    assert costs.cpu() < 0.1


def test_tls_record_cut_at_any_byte_ends_only_its_connection(secure: Program) -> None:
    for cut in range(1, 60, at_scale(11, 1)):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        layer = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(secure.address) as sock:
            sock.settimeout(10)
            while True:
                try:
                    layer.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(1 << 16))
            with RawClient(secure.address) as plain:
                layer.write(plain.handshake("/echo"))
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(1 << 16))
            layer.write(masked(HELLO))
            sock.sendall(outgoing.read()[:cut])


def test_close_without_tls_notice_ends_only_its_connection(secure: Program) -> None:
    for _ in range(at_scale(20, 2000)):
        with secure_client(secure) as client:
            client.open().send(HELLO)
            client.reset()


def test_endless_tls_key_updates_leave_server_serving(secure: Program, certificate: Path) -> None:
    """KeyUpdate messages, each of which requests an answer, and then a message."""
    openssl = shutil.which("openssl")
    require(openssl, "openssl")
    assert openssl is not None
    costs, count = ResourceUse(secure), at_scale(200, 20_000)
    with RawClient(secure.address) as plain:
        head = plain.handshake("/echo")
    words = ["s_client", "-connect", f"127.0.0.1:{secure.port}", "-tls1_3"]
    done = subprocess.run(
        [openssl, *words, "-CAfile", certificate, "-nocommands", "-ign_eof", "-quiet"],
        input=head + masked(HELLO, close(1000)),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"\x81\x05hello" in done.stdout
    with subprocess.Popen(
        [openssl, *words, "-CAfile", certificate],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdin is not None
        client.stdin.write(head)
        client.stdin.flush()
        time.sleep(0.3)
        for _ in range(count):
            client.stdin.write(b"K\n")
            client.stdin.flush()
            time.sleep(0.001)
        client.kill()
    grown = costs.memory()
    assert grown < 1 << 20
    note("TLS", f"{count} KeyUpdates: memory", grown / 1024, "KiB", "≤ 1024")


def test_renegotiation_or_plain_bytes_leave_tls_server_serving(secure: Program) -> None:
    for garbage in (b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(secure.address) as sock:
            send_and_wait(sock, garbage)
    with secure_client(secure) as client:
        client.open().send(close(1000))
        assert client.read_frame().opcode == Opcode.CLOSE
