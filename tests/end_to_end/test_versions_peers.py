"""Every version with third-party servers and clients, most of them contemporary with it.

hybi-04 has none that still runs: it is tested with our client and server, and by its worked
examples.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from websocket_handler import connect
from websocket_handler.protocol.versions import by_name

from ..conftest import PEERS
from ..support.programs import Program
from .versions import ALL

WORDS = ["hello", "\u20ac\xe9", "x" * 126, "y" * 70_000]


@contextmanager
def serving(*command: str) -> Iterator[int]:
    """The port that a server announces in its output."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=PEERS
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rpartition(" ")[2])
    finally:
        process.kill()
        process.communicate()


def talk(port: int, name: str, close: bool = True, subprotocols: tuple[str, ...] = ()) -> None:
    """Echoes, and the closing handshake where the version and the peer support it."""
    messages: list[str | bytes] = [*WORDS, "hello \u20ac"]
    if not name.startswith("hixie"):
        messages.append(bytes(range(256)))
    url = f"ws://127.0.0.1:{port}/"
    with connect(url, version=name, subprotocols=subprotocols) as websocket:
        for message in messages:
            websocket.send(message)
            assert websocket.receive(timeout=10) == message
        ends: list[tuple[int, str]] = []
        websocket.on("close", lambda *end: ends.append(end))
        websocket.close(1000)
        assert websocket.wait_closed(10)
    if close:
        version = by_name(name)
        has_codes = version._is_native or name == "hybi-06"
        assert ends[0][0] == (1005 if version._has_close and not has_codes else 1000)


def listen(*command: str) -> list[str]:
    """The output of a client."""
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=30, cwd=PEERS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# Ruby


@pytest.fixture(scope="module")
def em_websocket(ruby: str) -> Iterator[int]:
    with serving(ruby, "echo_server.rb") as port:
        yield port


@pytest.mark.parametrize(
    "name",
    [
        *("hixie-75", "hixie-76", "hybi-01", "hybi-02", "hybi-03", "hybi-05", "hybi-06"),
        *("hybi-07", "hybi-12", "RFC 6455"),
    ],
)
def test_em_websocket_server_serves_our_client(em_websocket: int, name: str) -> None:
    talk(em_websocket, name)


@pytest.mark.parametrize("number", [75, 76, 3, 7, 8, 13])
def test_websocket_ruby_client_uses_our_server(program: Program, ruby: str, number: int) -> None:
    heard = listen(ruby, "echo_client.rb", program.url(f"/echo?{ALL}"), str(number), *WORDS)
    assert heard == [*WORDS, *([] if number == 75 else ["close"])]


# npm


@pytest.mark.parametrize(
    ("library", "names"),
    [
        ("websocket-driver", ["hixie-75", "hixie-76", "RFC 6455"]),
        ("websocket", ["hybi-12", "RFC 6455"]),
        ("ws 1.1", ["hybi-12", "RFC 6455"]),
    ],
)
def test_npm_servers_serve_our_client(node: str, library: str, names: list[str]) -> None:
    with serving(node, "echo_server.js", library) as port:
        for name in names:
            talk(port, name)


@pytest.mark.parametrize(
    ("library", "number"),
    [("websocket-driver", 13), ("websocket", 8), ("websocket", 13), ("ws 1.1", 8), ("ws 1.1", 13)],
)
def test_npm_clients_use_our_server(program: Program, node: str, library: str, number: int) -> None:
    url = program.url(f"/echo?allowed_origins=[%22*%22]&{ALL}")
    assert listen(node, "echo_client.js", library, url, str(number), *WORDS) == [*WORDS, "1000"]


# Perl


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76", "hybi-07", "hybi-12", "RFC 6455"])
def test_protocol_websocket_server_serves_our_client(perl: str, name: str) -> None:
    with serving(perl, "echo_server.pl") as port:
        talk(port, name, close=False)


@pytest.mark.parametrize("name", ["draft-hixie-75", "draft-ietf-hybi-00", "draft-ietf-hybi-17"])
def test_protocol_websocket_client_uses_our_server(program: Program, perl: str, name: str) -> None:
    url = program.url(f"/echo?allowed_origins=[%22*%22]&{ALL}")
    assert listen(perl, "echo_client.pl", url, name, *WORDS) == WORDS


# PyPI


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76", "hybi-12", "RFC 6455"])
def test_eventlet_server_serves_our_client(name: str) -> None:
    with serving(sys.executable, "echo_server_eventlet.py") as port:
        # In hixie-76 eventlet sends a subprotocol even if none was requested.
        talk(port, name, close=False, subprotocols=("default",) if name == "hixie-76" else ())
