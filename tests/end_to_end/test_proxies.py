"""The configurations of docs/how-to/proxies.md, with real proxies."""

from __future__ import annotations

import contextlib
import http.client
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import HandshakeFailed, WebSocket, WSGIMiddleware, connect

from ..conftest import require
from ..support.commands import environment, serving
from ..support.documents import DOCS, blocks_of
from ..support.ports import free_port
from ..support.programs import wait_for
from ..support.served import served

PAGE = DOCS / "how-to/proxies.md"
SOURCES = {block.file: block.source for block in blocks_of(PAGE)}
NGINX, HAPROXY = SOURCES["nginx.conf"], SOURCES["haproxy.cfg"]
CADDY, APACHE = SOURCES["Caddyfile"], SOURCES["httpd.conf"]
TRAEFIK, ROUTES = SOURCES["traefik.yml"], SOURCES["routes.yml"]
TLS_OF_TRAEFIK = SOURCES["tls.yml"]
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


def caddy(configuration: str, folder: Path) -> str:
    options = "{\nadmin off\n}\n"
    (folder / "Caddyfile").write_text(options + configuration)
    return "env HOME=. XDG_DATA_HOME=. XDG_CONFIG_HOME=. caddy run"


def apache2(configuration: str, folder: Path) -> str:
    """Save a configuration of its own, without the rest of Debian's."""
    own = f"ServerName localhost\nPidFile {folder}/pid\nErrorLog /dev/stderr\nLogLevel warn\n"
    modules = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")
    )
    path = folder / "httpd.conf"
    path.write_text(own + modules + configuration)
    return f"apache2 -DFOREGROUND -f {path}"


def traefik(configuration: str, folder: Path) -> str:
    """Save a configuration: the block of the entry points, and after `---` that of the routes."""
    static, _, routes = configuration.partition("---\n")
    (folder / "traefik.yml").write_text(static)
    (folder / "routes.yml").write_text(routes)
    return "traefik --configFile=traefik.yml"


class Proxy(NamedTuple):
    """A program, and its configuration on the page."""

    run: Callable[[str, Path], str]
    configuration: str

    @property
    def name(self) -> str:
        return self.run.__name__

    def changed(self, old: str, new: str) -> Proxy:
        assert old in self.configuration
        return self._replace(configuration=self.configuration.replace(old, new))


PROXIES = {
    "nginx": Proxy(nginx, NGINX),
    "haproxy": Proxy(haproxy, HAPROXY),
    "caddy": Proxy(caddy, CADDY),
    "apache": Proxy(apache2, APACHE),
    "traefik": Proxy(traefik, f"{TRAEFIK}---\n{ROUTES}"),
}
EACH = pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)


@contextlib.contextmanager
def proxied(proxy: Proxy, folder: Path, **settings: Any) -> Iterator[int]:
    """Run a proxy in front of the application; gives its port."""
    require(shutil.which(proxy.name, path=environment()["PATH"]), proxy.name)
    with served(application(**settings)) as address:
        port = free_port()
        lines = proxy.configuration.replace(FRONT, str(port))
        lines = lines.replace(BACK, address.partition(":")[2])
        with serving(proxy.run(lines, folder), folder, port):
            if proxy.run is traefik:  # listens before it has read the routes
                wait_for(lambda: status_of(port) == 426, "Traefik to read its routes")
            yield port


def status_of(port: int) -> int:
    """Returns the status of an ordinary request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/echo")
        return connection.getresponse().status
    finally:
        connection.close()


def refusal(port: int, **options: Any) -> int | None:
    with pytest.raises(HandshakeFailed) as caught:
        connect(f"ws://127.0.0.1:{port}/echo", **options)
    return caught.value.status


@EACH
def test_proxy_passes_a_browser_with_its_address_scheme_and_host(
    proxy: Proxy, tmp_path: Path
) -> None:
    with proxied(proxy, tmp_path) as port:
        url, origin = f"ws://127.0.0.1:{port}/echo", f"http://127.0.0.1:{port}"
        forged = {"X-Forwarded-For": "192.0.2.7"}
        with connect(url, origin=origin, additional_headers=forged) as ws:
            assert ws.receive(TIMEOUT_S) == f"127.0.0.1 http 127.0.0.1:{port}"
            ws.send(b"x" * 300_000)
            assert ws.receive(TIMEOUT_S) == b"x" * 300_000
        assert ws.close_code == 1000
        assert refusal(port, origin="https://evil.example") == 403


@pytest.mark.parametrize(
    ("name", "line", "status"),
    [
        ("nginx", "proxy_http_version 1.1;", 400),
        ("nginx", "proxy_set_header Upgrade $http_upgrade;", 426),
        ("nginx", "proxy_set_header Connection $connection_upgrade;", 400),
        ("nginx", "proxy_set_header Host $http_host;", 403),
        ("apache", "ProxyPreserveHost On", 403),
        ("apache", " upgrade=websocket", 426),
    ],
)
def test_proxy_without_a_line_leads_to_the_status_on_the_page(
    name: str, line: str, status: int, tmp_path: Path
) -> None:
    with proxied(PROXIES[name].changed(line, ""), tmp_path) as port:
        assert refusal(port, origin=f"http://127.0.0.1:{port}") == status


def test_nginx_with_host_without_port_leads_to_403(tmp_path: Path) -> None:
    with proxied(PROXIES["nginx"].changed("$http_host", "$host"), tmp_path) as port:
        assert refusal(port, origin=f"http://127.0.0.1:{port}") == 403


HANDLED = f"{{\nreverse_proxy 127.0.0.1:{BACK}\n}}"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nginx", {"location / {": "location /live/ {", f":{BACK};": f":{BACK}/;"}),
        ("caddy", {"reverse_proxy": "handle_path /live/*", f"127.0.0.1:{BACK}": HANDLED}),
    ],
)
def test_proxy_serves_a_subpath(name: str, changes: dict[str, str], tmp_path: Path) -> None:
    proxy = PROXIES[name]
    for old, new in changes.items():
        proxy = proxy.changed(old, new)
    with (
        proxied(proxy, tmp_path) as port,
        connect(f"ws://127.0.0.1:{port}/live/echo", origin=f"http://127.0.0.1:{port}") as ws,
    ):
        assert ws.receive(TIMEOUT_S)


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return both mappings as one, at each level."""
    both = {key: merged(one[key], other[key]) for key in one.keys() & other.keys()}
    return {**one, **other, **both}


def test_traefik_calls_the_scheme_https_with_the_lines_on_the_page(tmp_path: Path) -> None:
    routes = merged(yaml.safe_load(ROUTES), yaml.safe_load(TLS_OF_TRAEFIK))
    proxy = Proxy(traefik, f"{TRAEFIK}---\n{yaml.safe_dump(routes)}")
    with proxied(proxy, tmp_path) as port:
        origin = f"https://127.0.0.1:{port}"
        with connect(f"ws://127.0.0.1:{port}/echo", origin=origin) as ws:
            assert ws.receive(TIMEOUT_S) == f"127.0.0.1 https 127.0.0.1:{port}"


TIMEOUTS = {"nginx": "proxy_read_timeout", "haproxy": "timeout tunnel", "apache": "\nTimeout"}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_pings_keep_an_idle_connection_and_without_them_the_proxy_ends_it(
    name: str, tmp_path: Path
) -> None:
    setting = TIMEOUTS[name]
    proxy = PROXIES[name].changed(f"{setting} 60", f"{setting} {PROXY_TIMEOUT_S}")
    quiet, lively = tmp_path / "quiet", tmp_path / "lively"
    quiet.mkdir()
    lively.mkdir()
    with (
        proxied(proxy, lively, ping_interval=PROXY_TIMEOUT_S / 5) as kept,
        proxied(proxy, quiet) as lost,
        connect(f"ws://127.0.0.1:{kept}/echo") as kept_ws,
    ):
        lost_ws = connect(f"ws://127.0.0.1:{lost}/echo")
        assert lost_ws.wait_closed(TIMEOUT_S)
        assert lost_ws.close_code == 1006
        kept_ws.receive(TIMEOUT_S)
        kept_ws.send("still open")
        assert kept_ws.receive(TIMEOUT_S) == "still open"
