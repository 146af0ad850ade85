"""The answer to an opening handshake, and its explanation."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urljoin

from ...errors import HandshakeFailed
from ...protocol.request import Headers
from ..target import ClientHandshake, Established, websocket_url, without_password
from ..text import without_tags
from .finding import Clock

RECEIVE_SIZE = 1 << 16

WERKZEUG_400 = b"(or proxy) sent a request that this server could not understand"
"""Part of the body with which Flask's router refuses a WebSocket for an ordinary route."""

MAX_BODY_SHOWN = 200
"""The part of an error's body that is shown, in characters."""

PROXY_HEADERS = ("Via", "Server", "X-Cache", "X-Served-By", "X-Varnish", "CF-RAY", "X-Amz-Cf-Id")
"""Headers that tell which servers and proxies a response has passed."""

UPGRADE_CURES = {
    "nginx": "In nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";',
    "apache": "In Apache: load mod_proxy_http and add upgrade=websocket to ProxyPass.",
    "haproxy": "In haproxy: remove rules that delete the Upgrade header, and use `mode http`.",
    "cloudflare": "In Cloudflare: enable WebSockets in the Network settings of the zone.",
    "iis": "In IIS: install and enable the WebSocket Protocol feature.",
    "awselb": "In AWS: use an Application or Network Load Balancer instead of a Classic one.",
}
"""By the part of a Server or Via header that names the proxy."""

UPGRADE_CURE = (
    "If there is a proxy, let it pass the headers Upgrade and Connection, in HTTP/1.1 "
    "(nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";).'
)


@dataclass(frozen=True)
class Answer:
    """The answer to one handshake; `established` is None unless it is accepted."""

    established: Established | None = None
    status: int | None = None
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    error: str = ""
    """The defect of the response; "" if the status alone tells it."""
    beginning: bytes = b""
    """The first received bytes."""
    has_timed_out: bool = False
    seconds: float = 0.0


def ask(sock: socket.socket, handshake: ClientHandshake, limit: float) -> Answer:
    """Send the handshake and wait for the answer, at most `limit` seconds."""
    clock = Clock(limit)
    beginning = b""
    established = None
    try:
        sock.settimeout(clock.left())
        sock.sendall(handshake.request)
        while established is None:
            data = receive(sock, handshake, clock)
            beginning = beginning or data[:64]
            established = handshake.feed(data)
    except HandshakeFailed as error:
        fields, status = Headers(error.headers), error.status
        text = error.reason if status in (None, 101) else ""
        return Answer(None, status, fields, error.body, text, beginning, False, clock.seconds)
    except TimeoutError:
        return Answer(beginning=beginning, has_timed_out=True, seconds=clock.seconds)
    except OSError as error:
        text = f"the connection was lost: {error.strerror or error}"
        return Answer(error=text, beginning=beginning, seconds=clock.seconds)
    return Answer(established, 101, established.headers, beginning=beginning, seconds=clock.seconds)


def receive(sock: socket.socket, handshake: ClientHandshake, clock: Clock) -> bytes:
    """Return received bytes; b"" as well if the rest of an error's body does not come."""
    try:
        sock.settimeout(clock.left())
        return sock.recv(RECEIVE_SIZE)
    except OSError:
        if handshake.is_refused:
            return b""
        raise


def passed_servers(headers: Headers) -> str:
    """Return the headers that name servers and proxies, as one text."""
    found = [(name, headers.get_all(name)) for name in PROXY_HEADERS]
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in found if values)


def shown_body(answer: Answer) -> str:
    """Return the readable beginning of an error's body."""
    text = without_tags(answer.body.decode(errors="replace"))
    return text if len(text) <= MAX_BODY_SHOWN else text[:MAX_BODY_SHOWN] + "…"


def explain(answer: Answer, url: str) -> tuple[str, str]:
    """Return the problem of an answer that does not accept the handshake, and the cure."""
    if answer.status is None:
        return explain_silence(answer)
    if answer.status == 101:
        return explain_invalid(answer)
    text = f"the server answered {name_of(answer.status)}"
    body = shown_body(answer) if answer.status >= 400 else ""
    return text + (f': "{body}"' if body else ""), cure_of(answer, url)


def name_of(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def explain_silence(answer: Answer) -> tuple[str, str]:
    """Explain the lack of a valid HTTP response."""
    start = answer.beginning
    if start[3:5] == b"\x04\x00" and start[:1] == b"\x00":
        return "the port speaks HTTP/2 only", "Enable HTTP/1.1 on this port."
    if start and not answer.has_timed_out:
        cure = "Another protocol is served on this port, or the proxy is defective: check the port."
        return answer.error, cure
    if answer.has_timed_out:
        return (
            "the server accepts connections, but does not complete its answer to the handshake",
            "All workers of the server are busy, or a proxy does not know WebSockets and waits. "
            + UPGRADE_CURE,
        )
    return answer.error, (
        "The server does not speak HTTP on this port, closes connections of this address, or "
        "crashes: look into its log."
    )


def explain_invalid(answer: Answer) -> tuple[str, str]:
    """Explain a 101 that is not a valid handshake."""
    missing = [name for name in ("Upgrade", "Connection") if name not in answer.headers]
    if missing:
        text = f"the 101 lacks {' and '.join(missing)}: a proxy took it away"
        return text, upgrade_cure(answer)
    if "Sec-WebSocket-Accept" not in answer.headers:
        return f"101, but {answer.error}", "The server does not speak RFC 6455: update it."
    return f"101, but {answer.error}", (
        "The answer is not that of a WebSocket server to this handshake: look for a cache or "
        "a proxy that changes headers."
    )


def upgrade_cure(answer: Answer) -> str:
    servers = passed_servers(answer.headers).lower()
    return next((cure for name, cure in UPGRADE_CURES.items() if name in servers), UPGRADE_CURE)


CURES = {
    400: "The handshake reached the server incomplete, or it expects something more: ",
    401: "Log in: pass -H 'Authorization: …' or -H 'Cookie: …'. A script in a browser can only "
    "send cookies.",
    403: "The server forbids it for another reason than the Origin: check the login, the CSRF "
    "protection, and rules for paths and addresses.",
    404: "Check the path of the URL, and that the proxy forwards this path.",
    405: "The route does not accept GET, the method of a handshake: check the path.",
    407: "A proxy demands a login: pass -H 'Proxy-Authorization: …', or go around it.",
    410: "Check the path of the URL: this one is no longer served.",
    429: "There are too many connections or requests: wait, or raise the limit of the server.",
    500: "The application failed: look into its log for the traceback.",
    501: "The server does not know this kind of request: check that it supports WebSockets.",
    502: "The proxy does not reach the application, or did not understand its answer: check that "
    "the application runs, and the address and port in the configuration of the proxy.",
    503: "The server is overloaded, shuts down or has reached its limit of connections, or the "
    "proxy has no server that is up: check the server and its limits.",
    504: "The application did not answer the proxy in time: its workers are busy, or it does not "
    "know WebSockets and waits for the rest of a request.",
}

REDIRECTS = (301, 302, 303, 307, 308)


def cure_of(answer: Answer, url: str) -> str:
    """Return the cure of an HTTP status that is not 101."""
    status = answer.status or 0
    if status in REDIRECTS:
        return cure_of_redirect(answer.headers.get("Location", ""), url)
    if status == 426:
        return cure_of_426(answer)
    if status == 400 and b"https" in answer.body.lower():
        return "The port speaks TLS: use wss://."
    if status == 400 and WERKZEUG_400 in answer.body:
        return (
            "If the path is a route of Flask, it lacks the middleware that gives WebSockets to "
            "routes: app.wsgi_app = WSGIMiddleware(app.wsgi_app)."
        )
    if status == 400:
        return (
            CURES[400]
            + "compare subprotocols, headers and the text of the answer. "
            + (upgrade_cure(answer))
        )
    if 200 <= status < 300:
        return (
            "It is an ordinary page: the path is not a WebSocket, or the server did not see the "
            f"Upgrade header. {upgrade_cure(answer)}"
        )
    if status in CURES:
        return CURES[status]
    return "Look into the log of the server, and of each proxy before it."


def cure_of_redirect(location: str, url: str) -> str:
    if not location:
        return "Ask for the URL of the WebSocket itself: most clients do not follow redirects."
    place = websocket_url(urljoin(re.sub("^ws", "http", url), location))
    if place == url:
        return (
            "The redirect leads back to this URL: the server expects a cookie or a header, which "
            "-H 'NAME: VALUE' sends, or its rules for redirects are wrong."
        )
    cure = f"Use the URL {without_password(place)}: browsers do not follow redirects."
    if "login" in location.lower():
        cure += " If it is a login page, pass the cookie of a session with -H 'Cookie: …'."
    return cure


def cure_of_426(answer: Answer) -> str:
    versions = answer.headers.get_all("Sec-WebSocket-Version")
    if versions and "13" not in ", ".join(versions):
        return f"The server supports only version {', '.join(versions)}: update it."
    return (
        "The server asks for an upgrade, which this handshake has asked for: a proxy took the "
        f"headers away. {upgrade_cure(answer)}"
    )
