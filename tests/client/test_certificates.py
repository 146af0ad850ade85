"""Certificates that are wrong, each in another way, and servers without TLS."""

from __future__ import annotations

import datetime
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from websocket_handler import (
    IS_NATIVE,
    ConnectionFailed,
    HandshakeFailed,
    ProxyFailed,
    TlsFailed,
)
from websocket_handler.client.tls_contexts import tls_context

from ..support.tls import trusting
from .conftest import Certificates
from .forms import Form, NothingLeft
from .peers import EchoServer, RawServer

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")

LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
IN_FUTURE = datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc)
LATER = datetime.datetime(2201, 1, 1, tzinfo=datetime.timezone.utc)


def server_with(issued: trustme.LeafCert, authority: trustme.CA | None = None) -> EchoServer:
    """An echo server with a certificate; it asks for one of `authority`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(context)
    if authority is not None:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return EchoServer(context=context)


def assert_refused(
    echo: Form, server: EchoServer, context: ssl.SSLContext | None, reason: str
) -> None:
    try:
        with NothingLeft(), pytest.raises(TlsFailed, match=reason) as caught:
            echo(server.url(host="localhost", scheme="wss"), ssl=context)
        assert str(caught.value).startswith("TLS with localhost failed: ")
        assert isinstance(caught.value.__cause__, ssl.SSLError)
    finally:
        server.close()


def test_expired_certificate_is_named(echo: Form, certificates: Certificates) -> None:
    issued = certificates.authority.issue_cert("localhost", not_after=LONG_AGO)
    assert_refused(echo, server_with(issued), certificates.client, "certificate has expired")


def test_certificate_that_is_not_valid_yet_is_named(echo: Form, certificates: Certificates) -> None:
    issued = certificates.authority.issue_cert("localhost", not_before=IN_FUTURE, not_after=LATER)
    assert_refused(echo, server_with(issued), certificates.client, "not yet valid")


def test_self_signed_certificate_is_named(echo: Form, tmp_path: Path) -> None:
    key, file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 9"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(file)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, key)
    assert_refused(echo, EchoServer(context=context), None, "self-signed certificate")
    server = EchoServer(context=context)
    try:
        trusted = ssl.create_default_context(cafile=str(file))
        assert echo(server.url(host="localhost", scheme="wss"), ssl=trusted) == "hello"
    finally:
        server.close()


def test_server_without_a_common_version_of_tls_is_an_error(
    echo: Form, certificates: Certificates
) -> None:
    issued = certificates.authority.issue_cert("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    modern = trusting(certificates.authority)
    modern.minimum_version = ssl.TLSVersion.TLSv1_3
    assert_refused(echo, EchoServer(context=context), modern, "protocol version")


def test_plain_handshake_with_a_tls_server_is_an_error(
    echo: Form, secure_server: EchoServer
) -> None:
    with NothingLeft(), pytest.raises((ConnectionFailed, HandshakeFailed)):
        echo(secure_server.url(host="localhost", scheme="ws"))


def test_tls_with_a_plain_proxy_and_the_reverse_are_errors(
    echo: Form, secure_server: EchoServer
) -> None:
    plain = RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    try:
        with NothingLeft(), pytest.raises(TlsFailed, match=r"wrong version number|record layer"):
            echo("ws://example.com/", proxy=f"https://127.0.0.1:{plain.port}")
        with NothingLeft(), pytest.raises((ConnectionFailed, ProxyFailed)):
            echo("ws://example.com/", proxy=f"http://127.0.0.1:{secure_server.port}")
    finally:
        plain.close()


def test_certificate_of_another_host_is_named(echo: Form, certificates: Certificates) -> None:
    issued = certificates.authority.issue_cert("example.com")
    reason = "Hostname mismatch, certificate is not valid for 'localhost'"
    assert_refused(echo, server_with(issued), certificates.client, reason)


def test_unknown_authority_is_named(echo: Form, certificates: Certificates) -> None:
    issued = trustme.CA().issue_cert("localhost")
    assert_refused(echo, server_with(issued), certificates.client, "issuer certificate")
    issued = certificates.authority.issue_cert("localhost")
    assert_refused(echo, server_with(issued), None, "issuer certificate")


def test_client_without_the_certificate_it_is_asked_for_is_refused(
    echo: Form, certificates: Certificates
) -> None:
    """With TLS 1.3 the server refuses after the handshake, and may reset the connection."""
    issued = certificates.authority.issue_cert("localhost")
    context = trusting(certificates.authority)
    server = server_with(issued, certificates.authority)
    with NothingLeft(), pytest.raises(ConnectionFailed, match=r"certificate required|lost"):
        echo(server.url(host="localhost", scheme="wss"), ssl=context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert_refused(echo, server, context, "handshake failure")


def test_client_with_the_certificate_it_is_asked_for_is_accepted(
    echo: Form, certificates: Certificates
) -> None:
    issued = certificates.authority.issue_cert("localhost")
    server = server_with(issued, certificates.authority)
    context = trusting(certificates.authority)
    certificates.authority.issue_cert("me@example.com").configure_cert(context)
    try:
        assert echo(server.url(host="localhost", scheme="wss"), ssl=context) == "hello"
    finally:
        server.close()


def test_server_hostname_replaces_that_of_the_url(echo: Form, certificates: Certificates) -> None:
    server = server_with(certificates.authority.issue_cert("example.com"))
    url = server.url(scheme="wss")
    try:
        options = {"ssl": certificates.client, "server_hostname": "example.com"}
        assert echo(url, **options) == "hello"
        assert server.header("Host") == f"127.0.0.1:{server.port}"
    finally:
        server.close()


def test_ssl_false_does_not_verify_the_certificate(echo: Form) -> None:
    server = server_with(trustme.CA().issue_cert("example.com"))
    try:
        assert echo(server.url(scheme="wss"), ssl=False) == "hello"
    finally:
        server.close()


def test_connections_without_a_context_share_one(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    shared = tls_context(None)
    assert tls_context(True) is shared
    assert shared.verify_mode is ssl.CERT_REQUIRED
    assert shared.check_hostname
    assert tls_context(False) is not shared
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.file))
    other = tls_context(None)
    assert other is not shared
    assert other.cert_store_stats()["x509"] != shared.cert_store_stats()["x509"]


def test_server_without_tls_is_an_error(echo: Form) -> None:
    server = RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    try:
        with NothingLeft(), pytest.raises(TlsFailed, match="the port does not speak TLS"):
            echo(f"wss://127.0.0.1:{server.port}/")
    finally:
        server.close()


def test_connection_that_ends_within_tls_is_an_error(echo: Form) -> None:
    server = RawServer(b"", closes=True)
    try:
        with NothingLeft(), pytest.raises(ConnectionFailed, match=r"TLS with 127\.0\.0\.1 failed"):
            echo(f"wss://127.0.0.1:{server.port}/")
    finally:
        server.close()


def test_server_that_hangs_within_tls_is_a_timeout(echo: Form) -> None:
    server = RawServer(b"")
    try:
        with NothingLeft(), pytest.raises(TimeoutError, match="open_timeout"):
            echo(f"wss://127.0.0.1:{server.port}/", open_timeout=0.3)
    finally:
        server.close()
