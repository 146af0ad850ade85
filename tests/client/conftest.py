"""Fixtures of the client's tests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from websocket_handler import connect

from ..support.proxies import forget_proxies
from ..support.tls import trusting
from .forms import Form, echo_blocking, echo_in_loop
from .peers import EchoServer, dante, tinyproxy


@pytest.fixture(params=[echo_blocking, echo_in_loop], ids=["thread", "loop"])
def echo(request: pytest.FixtureRequest) -> Form:
    """Opens a WebSocket, in a thread or in an event loop, and returns the echo of "hello"."""
    form: Form = request.param
    return form


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)


@pytest.fixture(scope="session")
def server() -> Iterator[EchoServer]:
    started = EchoServer()
    connect(started.url()).close()  # starts the default engine: its descriptors stay
    yield started
    started.close()


class Certificates(NamedTuple):
    """An authority, a certificate for localhost, and contexts that use them."""

    authority: trustme.CA
    file: Path
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(for_server)
    return Certificates(authority, file, for_server, trusting(authority))


@pytest.fixture(scope="session")
def secure_server(certificates: Certificates) -> Iterator[EchoServer]:
    started = EchoServer(context=certificates.server)
    yield started
    started.close()


class HttpProxy(NamedTuple):
    """A running tinyproxy and its log."""

    port: int
    log: Path

    def requests(self) -> int:
        return self.log.read_text().count("CONNECT ")


@pytest.fixture(scope="session")
def http_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpProxy]:
    folder = tmp_path_factory.mktemp("tinyproxy")
    with tinyproxy(folder) as port:
        yield HttpProxy(port, folder / "tinyproxy.log")


@pytest.fixture(scope="session")
def socks_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of dante, for SOCKS4 and SOCKS5."""
    with dante(tmp_path_factory.mktemp("dante")) as port:
        yield port
