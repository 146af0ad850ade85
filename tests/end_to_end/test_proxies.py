"""The configurations of docs/how-to/proxies.md, with real nginx and haproxy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import HandshakeFailed, WebSocket, WSGIMiddleware, connect

from ..conftest import require
from ..support.commands import environment, serving
from ..support.documents import DOCS, blocks_of
from ..support.ports import free_port
from ..support.served import served

PAGE = DOCS / "how-to/proxies.md"
SOURCES = {block.file: block.source for block in blocks_of(PAGE) if block.file}
NGINX, HAPROXY = SOURCES["nginx.conf"], SOURCES["haproxy.cfg"]
FRONT, BACK = "8080", "8000"
TIMEOUT_S = 10
PROXY_TIMEOUT_S = 1
"""The time-out of the proxies in the tests about pings."""


def application(**settings: Any) -> Flask:
    """Echoes at /echo; the first message has the address, the scheme and the host."""
    app = Flask("behind a proxy")
    middleware = WSGIMiddleware(app.wsgi_app, **settings)
    app.wsgi_app = ProxyFix(middleware)  # type: ignore[method-assign]

    @app.get("/echo")
    def echo() -> Any:
        ws = WebSocket.of(request)
        if ws is None:
            return "WebSocket only", 426
        seen = ws.request
        ws.on("message", ws.send)
        response = ws.connect()
        address = seen.remote_address
        assert isinstance(address, tuple)
        ws.send(f"{address[0]} {seen.scheme} {seen.headers['Host']}")
        return response

    return app


def nginx(configuration: str, folder: Path) -> str:
    """Save a configuration, with files in the folder; returns the command."""
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    inserted = f"http {{\naccess_log off;\n{places}"
    (folder / "nginx.conf").write_text(configuration.replace("http {", inserted, 1))
    return f'nginx -e stderr -p {folder} -c nginx.conf -g "daemon off; pid nginx.pid;"'


def haproxy(configuration: str, folder: Path) -> str:
    (folder / "haproxy.cfg").write_text(configuration)
    return f"haproxy -q -db -f {folder}/haproxy.cfg"


Proxy = Callable[[str, Path], str]
BOTH = pytest.mark.parametrize(
    ("proxy", "configuration"), [(nginx, NGINX), (haproxy, HAPROXY)], ids=["nginx", "haproxy"]
)


@contextlib.contextmanager
def proxied(proxy: Proxy, configuration: str, folder: Path, **settings: Any) -> Iterator[int]:
    """Run a proxy in front of the application; gives its port."""
    name = proxy.__name__
    require(shutil.which(name, path=environment()["PATH"]), name)
    with served(application(**settings)) as address:
        port = free_port()
        lines = configuration.replace(FRONT, str(port)).replace(BACK, address.partition(":")[2])
        with serving(proxy(lines, folder), folder, port):
            yield port


def refusal(port: int, **options: Any) -> int | None:
    with pytest.raises(HandshakeFailed) as caught:
        connect(f"ws://127.0.0.1:{port}/echo", **options)
    return caught.value.status


@BOTH
def test_proxy_passes_a_browser_with_its_address_scheme_and_host(
    proxy: Proxy, configuration: str, tmp_path: Path
) -> None:
    with proxied(proxy, configuration, tmp_path) as port:
        url, origin = f"ws://127.0.0.1:{port}/echo", f"http://127.0.0.1:{port}"
        with connect(url, origin=origin) as ws:
            assert ws.receive(TIMEOUT_S) == f"127.0.0.1 http 127.0.0.1:{port}"
            ws.send(b"x" * 300_000)
            assert ws.receive(TIMEOUT_S) == b"x" * 300_000
        assert ws.close_code == 1000
        assert refusal(port, origin="https://evil.example") == 403


@BOTH
def test_application_sees_the_address_that_the_proxy_forwards(
    proxy: Proxy, configuration: str, tmp_path: Path
) -> None:
    with (
        proxied(proxy, configuration, tmp_path, max_connections_per_address=0) as port,
        pytest.raises(HandshakeFailed) as caught,
    ):
        connect(f"ws://127.0.0.1:{port}/echo", additional_headers={"X-Forwarded-For": "192.0.2.7"})
    assert caught.value.status == 429
    assert b"127.0.0.1" in caught.value.body  # of the nearest proxy, not the forged one


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("proxy_http_version 1.1;", 400),
        ("proxy_set_header Upgrade $http_upgrade;", 426),
        ("proxy_set_header Connection $connection_upgrade;", 400),
        ("proxy_set_header Host $http_host;", 403),
    ],
)
def test_nginx_without_a_line_leads_to_the_status_on_the_page(
    line: str, status: int, tmp_path: Path
) -> None:
    assert line in NGINX
    with proxied(nginx, NGINX.replace(line, ""), tmp_path) as port:
        assert refusal(port, origin=f"http://127.0.0.1:{port}") == status


def test_nginx_with_host_without_port_leads_to_403(tmp_path: Path) -> None:
    with proxied(nginx, NGINX.replace("$http_host", "$host"), tmp_path) as port:
        assert refusal(port, origin=f"http://127.0.0.1:{port}") == 403


def test_nginx_serves_a_subpath(tmp_path: Path) -> None:
    lines = NGINX.replace("location / {", "location /live/ {").replace(f":{BACK};", f":{BACK}/;")
    with (
        proxied(nginx, lines, tmp_path) as port,
        connect(f"ws://127.0.0.1:{port}/live/echo", origin=f"http://127.0.0.1:{port}") as ws,
    ):
        assert ws.receive(TIMEOUT_S)


@BOTH
def test_pings_keep_an_idle_connection_and_without_them_the_proxy_ends_it(
    proxy: Proxy, configuration: str, tmp_path: Path
) -> None:
    lines = configuration.replace(
        "proxy_read_timeout 60s", f"proxy_read_timeout {PROXY_TIMEOUT_S}s"
    )
    lines = lines.replace("timeout tunnel 60s", f"timeout tunnel {PROXY_TIMEOUT_S}s")
    assert lines != configuration
    quiet, lively = tmp_path / "quiet", tmp_path / "lively"
    quiet.mkdir()
    lively.mkdir()
    with (
        proxied(proxy, lines, lively, ping_interval=PROXY_TIMEOUT_S / 5) as kept,
        proxied(proxy, lines, quiet) as lost,
        connect(f"ws://127.0.0.1:{kept}/echo") as kept_ws,
    ):
        lost_ws = connect(f"ws://127.0.0.1:{lost}/echo")
        assert lost_ws.wait_closed(TIMEOUT_S)
        assert lost_ws.close_code == 1006
        kept_ws.receive(TIMEOUT_S)
        kept_ws.send("still open")
        assert kept_ws.receive(TIMEOUT_S) == "still open"
