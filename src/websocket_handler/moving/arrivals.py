"""The new process's side of a move: the request that an old process repeats, and its socket.

An integration of a server calls `arrival_of_…` before it builds the request of a WebSocket. The
header that it finds counts only if a process of the same user waits for it in the private
directory, and has left the facts of a connection there for the secret that the header has.
Otherwise it has no meaning. Nothing here waits for the old process, because that would block the
event loop of a server.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..engine import moving
from ..protocol.handshake import Accepted, Refused
from ..protocol.message import Decoder as FrameDecoder
from ..protocol.permessage_deflate import Compression
from ..protocol.request import Headers, Request
from ..protocol.versions.challenge import AwaitingKey3
from ..rooms.membership import moved_offset
from ..settings import Settings
from ..websocket import WebSocket
from .directory import Directory, open_directory
from .facts_pipe import take_facts
from .messages import NotMoved, is_of_same_user, send
from .state import Facts, UnknownFormat
from .suspension import rooms_of
from .taking import Taken, take

logger: logging.Logger = logging.getLogger("websocket_handler")

HEADER = "WebSocket-Handler-Move"
"""The header of a repeated request. Its value is the name of a socket in the private directory and
a secret."""

ENVIRON_KEY = "HTTP_" + HEADER.upper().replace("-", "_")
RAW_HEADER = HEADER.lower().encode()

TICKET = re.compile(r"([0-9a-f]{16}):([0-9a-f]{32})", re.ASCII)

REFUSED_FORMAT = 505
"""The status of a refusal because the state has another format."""

own_names: set[str] = set()
"""The names of the sockets on which this process itself waits. It cannot move to itself."""


class Arrival:
    """A connection that an old process offers. It is taken or refused once."""

    def __init__(self, sock: socket.socket, facts: Facts, is_own: bool = False) -> None:
        """`is_own`: this process itself has the connection, so it cannot take it."""
        self.facts = facts
        self._is_own = is_own
        self._sock = sock

    # Before the application handles the request

    def restore_environ(self, environ: MutableMapping[str, Any]) -> None:
        """Put the address and the scheme of the original request into a WSGI environ."""
        address, scheme, _ = self.facts.origin
        host, port = address[:2] if isinstance(address, tuple) else ("", "")
        environ.update({"REMOTE_ADDR": str(host), "REMOTE_PORT": str(port)})
        environ["wsgi.url_scheme"] = scheme

    def restore_scope(self, scope: MutableMapping[str, Any]) -> None:
        """Put the address and the scheme of the original request into an ASGI scope."""
        address, scheme, _ = self.facts.origin
        scope["client"] = address[:2] if isinstance(address, tuple) else None
        scope["scheme"] = "wss" if scheme == "https" else "ws"
        scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != RAW_HEADER]
        scope.setdefault("extensions", {})["websocket.resumed"] = {"carried": self.facts.carried}

    def restore(self, request: Request) -> Request:
        """Return the request with the address and the scheme of the original one."""
        address, scheme, _ = self.facts.origin
        return replace(request, remote_address=address, scheme=scheme)

    # In `connect()`

    def settings(self, chosen: Settings) -> Settings:
        """Keep the compression that was negotiated, even if new connections would have none."""
        if self.facts.negotiated is not None and not isinstance(chosen.compression, Compression):
            return replace(chosen, compression=Compression())
        return chosen

    def outcome(self, fresh: Accepted | Refused, subprotocol: str | None) -> Accepted | Refused:
        """Return the outcome of the original handshake, if a new one would be accepted, too."""
        if isinstance(fresh, Refused):
            return fresh
        facts = self.facts
        if self._is_own:
            return Refused(503, "this process has the connection already", b"")
        if subprotocol != facts.subprotocol:
            logger.info("a moved connection has the subprotocol %r", facts.subprotocol)
            return Refused(409, "the application has chosen another subprotocol", b"")
        return Accepted(facts.version, b"", facts.secret, facts.negotiated, subprotocol)

    def prepare(self, websocket: WebSocket) -> None:
        """Skip the part of the handshake that some versions complete after the response."""
        codec = websocket._codec
        if codec is not None:
            codec.pending_output = None
            if isinstance(codec.decoder, AwaitingKey3):
                codec.decoder = codec.decoder.frames_decoder

    # When the response of the application is known

    def refuse(self, status: int) -> None:
        """Leave the connection to the old process, which closes it."""
        sock, self._sock = self._sock, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with sock, self._sock:
            try:
                send(sock, {"refused": status})
            except NotMoved:
                return  # the old process has ended meanwhile

    def settle(self, websocket: WebSocket) -> None:
        """Fetch the socket if the WebSocket was accepted, else refuse it."""
        outcome = websocket._outcome
        if not isinstance(outcome, Accepted) or websocket._handling is None:
            self.refuse(int(outcome.status) if outcome is not None else 500)
            websocket._connection_lost("the moved connection was refused")
            return
        loop = websocket._handling.engine.event_loop
        if loop is None:
            self._finish(websocket, partial(self._try_to_fetch, websocket))
        else:  # the exchange must not block the loop
            fetching = loop.run_in_executor(None, self._try_to_fetch, websocket)
            fetching.add_done_callback(lambda done: self._finish(websocket, done.result))

    def _finish(self, websocket: WebSocket, result: Callable[[], Taken | str]) -> None:
        fetched = result()
        if isinstance(fetched, str):
            websocket._is_arriving = False
            logger.info("%r: a moved connection did not arrive: %s", websocket, fetched)
            websocket._connection_lost(fetched)
            return
        sock, state, (late, offsets) = fetched
        websocket._offsets_of_rooms = tuple(moved_offset(*pair) for pair in offsets)
        websocket._is_arriving = False
        websocket.carried = state.carried
        websocket._latency = state.latency
        websocket._traffic_before = state.traffic
        handling = websocket._handling
        assert handling is not None
        handling.response = state.output + late  # goes out before all that was sent here
        if state.window:
            _set_window(websocket, state.window)
        websocket._take_over(sock, state.input)
        for room in rooms_of(websocket):
            room._admit_after_move(websocket)

    def _try_to_fetch(self, websocket: WebSocket) -> Taken | str:
        """Return the socket with its state; the reason if the old process keeps them."""
        with self._sock as sock:
            try:
                return take(sock, partial(_admit_to_rooms, websocket))
            except (NotMoved, UnknownFormat) as error:
                return str(error)


def _admit_to_rooms(websocket: WebSocket) -> None:
    """Make the WebSocket a member before the old process removes it from its rooms."""
    for room in rooms_of(websocket):
        room._admit_before_move(websocket)


def _set_window(websocket: WebSocket, window: bytes) -> None:
    if websocket._codec is None:
        moving.set_window(websocket, window)
        return
    decoder = websocket._codec.decoder
    if isinstance(decoder, FrameDecoder) and decoder.inflater is not None:
        decoder.inflater.set_window(window)


# Finding the header


def arrival_in_environ(environ: MutableMapping[str, Any]) -> Arrival | None:
    """Take the header out of a WSGI environ, and restore the original request's facts."""
    value = environ.pop(ENVIRON_KEY, None)
    arrival = arrival_for(value)
    if arrival is not None:
        arrival.restore_environ(environ)
    return arrival


def arrival_in_scope(scope: MutableMapping[str, Any]) -> Arrival | None:
    """Take the header out of an ASGI scope, and restore the original request's facts."""
    values = [value for name, value in scope["headers"] if name == RAW_HEADER]  # in lower case
    if not values:
        return None
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != RAW_HEADER]
    arrival = arrival_for(values[-1].decode("latin-1"))
    if arrival is not None:
        arrival.restore_scope(scope)
    return arrival


def arrival_in_request(request: Request) -> tuple[Request, Arrival | None]:
    """Take the header out of a request, and restore the original request's facts."""
    value = request.headers.get(HEADER)
    if value is None:
        return request, None
    fields = [pair for pair in request.headers.fields() if pair[0].lower() != HEADER.lower()]
    request = replace(request, headers=Headers(fields))
    arrival = arrival_for(value)
    return (request, None) if arrival is None else (arrival.restore(request), arrival)


def arrival_for(value: str | None) -> Arrival | None:
    """Return the connection that the value of the header stands for; None if it stands for none.

    A value that was made up costs no more than the look for a file in the private directory. Does
    not block.
    """
    ticket = TICKET.fullmatch(value) if value is not None else None
    if ticket is None:
        return None
    name, secret = ticket.groups()
    try:
        with open_directory() as directory:
            return _arrival_from(directory, name, secret)
    except (NotMoved, OSError) as error:
        logger.debug("a header %s has no meaning: %s", HEADER, error)
        return None


def _arrival_from(directory: Directory, name: str, secret: str) -> Arrival:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(directory.path(name))
        if not is_of_same_user(sock):
            raise PermissionError("a process of another user")
        fields = take_facts(directory, secret)
        send(sock, {"secret": secret})
        return Arrival(sock, _facts_from(fields, sock), is_own=name in own_names)
    except BaseException:
        sock.close()
        raise


def _facts_from(fields: dict[str, Any], sock: socket.socket) -> Facts:
    try:
        return Facts.from_json(fields)
    except UnknownFormat as error:
        logger.warning("a connection from another version of this library: %s", error)
        send(sock, {"refused": REFUSED_FORMAT})
        raise NotMoved(str(error)) from None
