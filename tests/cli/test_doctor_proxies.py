"""`websocket-handler doctor` behind proxies of the environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from websocket_handler.cli import commands
from websocket_handler.cli.doctor.examination import Examination
from websocket_handler.cli.doctor.finding import Finding, Level
from websocket_handler.cli.target import Target

from ..client.peers import RawServer, behind_tls, microsocks, tinyproxy
from .servers import answering, serving
from .test_doctor import LIMIT_S, SHORT_S, problems, secure

AUTHORITY = trustme.CA()


def examine(url: str, limit: float = LIMIT_S, ca: Path | None = None) -> list[Finding]:
    return list(Examination(Target(url, ca=ca), limit).run())


def steps(findings: list[Finding]) -> list[str]:
    return [finding.step for finding in findings]


def last(findings: list[Finding]) -> Finding:
    assert problems({finding.step: finding for finding in findings}).keys() == {findings[-1].step}
    return findings[-1]


def test_working_proxy_has_no_problem(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy(tmp_path) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        found = examine(url)
    assert steps(found)[:5] == ["proxy", "name", "tcp", "proxy", "handshake"]
    assert steps(found)[-2:] == ["close", "origin"]
    assert {one.level for one in found} == {Level.NOTE, Level.OK}
    assert found[2].text == f"127.0.0.1 port {port} accepts"
    assert found[3].text.startswith("CONNECT ")
    log = (tmp_path / "tinyproxy.log").read_text()
    assert log.count("CONNECT ") >= 2  # that for the Origin too


def test_excluded_host_is_examined_directly(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert steps(examine(url))[:2] == ["name", "tcp"]


def test_proxy_that_wants_a_password_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy(tmp_path, "me secret") as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        refused = last(examine(url))
        assert refused.details["status"] in (401, 407)
        assert "user:password" in refused.cure
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{port}")
        found = examine(url)
    assert found[-1].step == "origin"
    assert "secret" not in repr(found)


def test_proxy_that_does_not_reach_the_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy(tmp_path) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        refused = last(examine("ws://127.0.0.1:1/"))
    assert refused.text.startswith("CONNECT 127.0.0.1:1: the proxy answered 5")
    assert "does not reach the server" in refused.cure
    assert "NO_PROXY" in refused.cure


def test_proxy_that_forbids_the_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering("403 Forbidden", "no")) as port:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        refused = last(examine("ws://example.com:8080/"))
    assert refused.text == "CONNECT example.com:8080: the proxy answered 403 Forbidden"
    assert "443" in refused.cure


@contextlib.contextmanager
def raw_proxy(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = RawServer(answer)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    try:
        yield
    finally:
        server.close()


def test_proxy_that_hangs_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_proxy(b"", monkeypatch):
        refused = last(examine("ws://example.com/", SHORT_S))
    assert "the proxy does not answer within 1 s" in refused.text


def test_server_that_is_no_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_proxy(b"SSH-2.0-OpenSSH_9\r\n\r\n", monkeypatch):
        refused = last(examine("ws://example.com/"))
    assert "garbage" in refused.text
    assert "check the scheme and the port" in refused.cure


def test_proxy_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    found = examine("ws://example.com/")
    assert steps(found) == ["proxy", "name", "tcp"]
    assert "Check the URL of the proxy" in last(found).cure


def test_invalid_proxy_of_the_environment_is_an_error_of_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "ftp://proxy")
    assert commands.run(["doctor", "ws://example.com/"]) == 2
    assert "URL of a proxy" in capsys.readouterr().err


def test_tls_passes_through_a_socks_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = AUTHORITY.issue_cert("localhost")
    with secure(tmp_path, leaf, AUTHORITY) as (url, authority), microsocks() as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{port}")
        found = {one.step: one for one in examine(url, ca=authority)}
        assert (found["tls"].level, found["handshake"].level) == (Level.OK, Level.OK)
        assert "certificate" in last(examine(url)).text


def test_tls_passes_through_the_tls_of_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "proxy.pem"
    leaf = AUTHORITY.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(certificate)
    with (
        secure(tmp_path, leaf, AUTHORITY) as (url, authority),
        tinyproxy(tmp_path) as inner,
        behind_tls(tmp_path, certificate, inner) as port,
    ):
        monkeypatch.setenv("ALL_PROXY", f"https://localhost:{port}")
        refused = last(examine(url, ca=authority))
        assert refused.step == "proxy"
        assert "certificate is not valid" in refused.text
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        found = {one.step: one for one in examine(url)}
    assert found["tls"].details["expires"]
    assert (found["tls"].level, found["handshake"].level) == (Level.OK, Level.OK)
