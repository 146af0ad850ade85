"""The order of the steps: each begins if the steps before it allow it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from ...client.tls_contexts import tls_context
from ...errors import WebSocketError
from ..target import Address, ProxyUrl, Target
from .answer import Answer, ask, explain, name_of, passed_servers
from .conversation import Conversation, check_close, check_message, check_pings
from .finding import Clock, Finding, Level, Step
from .network import check_name, check_tcp, check_tls
from .proxy import blaming_proxy, check_proxy, note_of_proxy

TLS_ALERT = b"\x15"
"""The first byte with which a TLS server may answer a plain request."""

TLS_PROBE_LIMIT_S = 1.0
"""The time in which a port must answer a TLS handshake to be taken for a TLS server."""


class Examination:
    """Examines one URL. Each step takes at most `limit` seconds.

    If there is a `message`, it is sent and an answer is expected.
    """

    def __init__(self, target: Target, limit: float, message: str | None = None) -> None:
        self._target = target
        self._address = target.address()
        self._limit = limit
        self._message = message
        self._proxy = target.proxy()
        self._place: tuple[socket.AddressFamily, object] | None = None
        self._tcp_seconds = 0.0

    def run(self) -> Iterator[Finding]:
        """Yield the findings, each as soon as it is known."""
        sock = yield from self._connect()
        if sock is None:
            return
        with contextlib.closing(sock):
            answer = ask(sock, self._target.handshake(self._target.origin), self._limit)
            yield self._handshake(answer)
            yield from self._passed_servers(answer)
            if answer.established is None:
                return
            yield from self._agreements(answer)
            yield from self._converse(Conversation(sock, answer.established))
        if self._target.origin is None:
            yield from self._browser_origin()

    def _connect(self) -> Step[socket.socket | None]:
        sock = yield from self._reach()
        if sock is None or not self._address.secure:
            return sock
        return (yield from check_tls(self._target, sock, self._limit))

    def _reach(self) -> Step[socket.socket | None]:
        """Connect to the server, or to it through the proxy of the environment."""
        if self._proxy is None:
            return (yield from self._reach_first(self._address))
        yield note_of_proxy(self._proxy)
        sock = yield from blaming_proxy(self._reach_first(self._proxy))
        if sock is None:
            return None
        return (yield from check_proxy(self._target, self._proxy, sock, self._limit))

    def _reach_first(self, first: Address | ProxyUrl) -> Step[socket.socket | None]:
        places = yield from check_name(first, self._limit)
        if not places:
            return None
        connected = yield from check_tcp(first, places, self._limit)
        if connected is None:
            return None
        sock, self._tcp_seconds = connected
        self._place = sock.family, sock.getpeername()
        return sock

    def _handshake(self, answer: Answer) -> Finding:
        details = {"status": answer.status, "headers": answer.headers.fields()}
        if answer.established is None:
            text, cure = self._explain(answer)
            return Finding("handshake", Level.FAILURE, text, cure, answer.seconds, details)
        if answer.beginning.startswith(b"HTTP/1.0"):
            text = "101, but in HTTP/1.0, which browsers refuse"
            cure = "Let the server or the proxy answer in HTTP/1.1."
            return Finding("handshake", Level.WARNING, text, cure, answer.seconds, details)
        return Finding("handshake", Level.OK, name_of(101), "", answer.seconds, details)

    def _explain(self, answer: Answer) -> tuple[str, str]:
        """Explain a failed handshake, with other connections where one answer is not enough."""
        if answer.status == 403:
            cure = self._cure_of_origin()
            if cure:
                return explain(answer, self._target.url)[0], cure
        may_be_tls = answer.status is None and answer.beginning[:1] in (b"", TLS_ALERT)
        if may_be_tls and not (self._address.secure or answer.has_timed_out) and self._speaks_tls():
            return "the port speaks TLS", "Use wss:// for this port."
        return explain(answer, self._target.url)

    def _passed_servers(self, answer: Answer) -> Iterator[Finding]:
        servers = passed_servers(answer.headers)
        if servers:
            yield Finding("servers", Level.NOTE, f"the answer names {servers}")

    def _agreements(self, answer: Answer) -> Iterator[Finding]:
        """The subprotocol and the compression that both sides agreed on."""
        assert answer.established is not None
        offered, chosen = self._target.subprotocols, answer.established.subprotocol
        if offered and chosen is None:
            text = f"the server chose none of {', '.join(offered)}"
            cure = "Let the application choose one: browsers close a connection without it."
            yield Finding("subprotocol", Level.WARNING, text, cure)
        elif offered:
            yield Finding("subprotocol", Level.OK, f"the server chose {chosen}")
        if self._target.compression:
            agreed = answer.established.negotiated
            text = f"agreed: {agreed}" if agreed else "offered, but the server does not use it"
            yield Finding("compression", Level.OK if agreed else Level.NOTE, text)

    def _converse(self, talk: Conversation) -> Iterator[Finding]:
        is_open = yield from check_pings(talk, self._tcp_seconds, self._limit)
        if is_open and self._message is not None:
            is_open = yield from check_message(talk, self._message, self._limit)
        if is_open:
            yield from check_close(talk, self._limit)

    # The Origin of a browser

    @property
    def _own_origin(self) -> str:
        """The Origin that a browser sends from a page of the same host."""
        return f"{'https' if self._address.secure else 'http'}://{self._address.host_header}"

    def _browser_origin(self) -> Iterator[Finding]:
        """Check that a page of the same host may connect."""
        origin = self._own_origin
        answer = self._ask_again(origin)
        details = {"origin": origin, "status": answer.status}
        if answer.established is not None:
            text = f"a page of {origin} may connect"
            yield Finding("origin", Level.OK, text, "", answer.seconds, details)
            return
        text = f"a page of {origin} may not connect: {explain(answer, self._target.url)[0]}"
        cure = (
            "Let the proxy pass the Host header of the client (nginx: proxy_set_header Host "
            "$host), or add the origin to the allowed origins of the application."
        )
        yield Finding("origin", Level.WARNING, text, cure, answer.seconds, details)

    def _cure_of_origin(self) -> str:
        """Return the cure if the handshake is accepted with another Origin, or without; else ""."""
        for origin in (None, self._own_origin):
            if origin != self._target.origin and self._ask_again(origin).established is not None:
                return (
                    f"The server refuses {_named(self._target.origin)}, but accepts "
                    f"{_named(origin)}: add the origins of your pages to the allowed origins of "
                    "the application, and let the proxy pass the Host header of the client."
                )
        return ""

    def _ask_again(self, origin: str | None) -> Answer:
        """Perform another handshake on a new connection."""
        clock = Clock(self._limit)
        try:
            with self._connect_again(clock) as sock:
                if not self._address.secure:
                    return ask(sock, self._target.handshake(origin), clock.left())
                with self._target.add_tls(sock) as secured:
                    secured.do_handshake()
                    return ask(secured, self._target.handshake(origin), clock.left())
        except (OSError, WebSocketError) as error:
            reason = getattr(error, "strerror", None) or error
            return Answer(error=f"the connection was lost: {reason}")

    def _speaks_tls(self) -> bool:
        """Whether the port answers a TLS handshake; no request is sent."""
        try:
            limit = min(self._limit, TLS_PROBE_LIMIT_S)
            with self._connect_again(Clock(limit)) as sock, tls_context(False).wrap_socket(sock):
                return True
        except (OSError, WebSocketError):
            return False

    def _connect_again(self, clock: Clock) -> socket.socket:
        assert self._place is not None
        family, place = self._place
        sock = socket.socket(family)
        try:
            sock.settimeout(clock.left())
            sock.connect(place)  # type: ignore[arg-type]
            if self._proxy is not None:
                sock = self._target.pass_proxy(sock, self._proxy, clock.left())
            sock.settimeout(clock.left())
        except BaseException:
            sock.close()
            raise
        return sock


def _named(origin: str | None) -> str:
    return f"the Origin {origin}" if origin else "a handshake without Origin"
