"""A client of one application, written once for both clients: as coroutines, over `Waits`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from ..errors import HandshakeFailed, WebSocketError
from ..protocol.client import Address, ClientHandshake
from ..protocol.close_codes import CloseCode
from ..protocol.request import TOKEN, Headers, check_field, field_list
from ..protocol.versions import DEFAULT_VERSIONS, Version, by_name
from ..settings import Settings
from .clock import advance, settle
from .cookies import Cookies, cookies_of
from .exchange import Exchange, finish
from .failures import Failures
from .messages import Body, Fields, Response, encode_body, encode_request
from .peer import Peer
from .servers import Server
from .waiting import Waits


class Session:
    """The connections, the cookies and the failures of one client."""

    def __init__(
        self,
        server: Server,
        failures: Failures,
        waits: Waits,
        cookies: object,
        headers: Fields,
        host: str,
        timeout: float,
    ) -> None:
        if not isinstance(timeout, int | float):
            raise TypeError(f"timeout is a number of seconds, not {timeout!r}")
        self._server = server
        self._failures = failures
        self._waits = waits
        self._headers = field_list(headers)
        self._host = host
        self.timeout = timeout
        self.cookies: Cookies = Cookies(cookies)
        self._peers: dict[Peer, Future[None]] = {}
        self._was_started = self._is_running = False
        self._observers = ExitStack()

    # Starting and stopping

    async def start(self) -> None:
        """Start the application, once."""
        if self._was_started:
            raise WebSocketError("the client was entered before: make a new one")
        self._was_started = True
        self._observers.enter_context(self._failures.observing_frameworks())
        try:
            await self._server.start(self._waits, self._until())
        except BaseException:
            self._observers.close()
            raise
        self._observers.enter_context(self._failures.observing_listeners(self._server.engine))
        self._is_running = True

    async def stop(self, is_raising: bool) -> None:
        """Close all connections, stop the application. With `is_raising`, raise the first exception
        of the application that was not raised yet, or the first one of stopping."""
        self._is_running = False
        errors: list[Exception] = []
        with self._observers:
            for peer in tuple(self._peers):
                try:
                    await self.close(peer, CloseCode.GOING_AWAY)
                except Exception as error:
                    errors.append(error)
            try:
                await self._server.stop(self._waits, self._until())
            except Exception as error:
                errors.append(error)
        if is_raising:
            self._failures.raise_first()
            if errors:
                raise errors[0]

    # Requests

    async def connect(
        self,
        path: str,
        version: Version | str = DEFAULT_VERSIONS[0],
        subprotocols: Sequence[str] = (),
        headers: Fields = (),
        cookies: object = None,
        origin: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
    ) -> Peer:
        """Open a WebSocket. Raises `HandshakeFailed`, or the application's exception."""
        version = by_name(version) if isinstance(version, str) else version
        if not isinstance(version, Version):
            raise TypeError("version must be a Version or its name")
        settings = settings or Settings()
        address = self._address(path)
        fields = self._fields(address, headers, cookies)
        handshake = ClientHandshake(
            address, version, subprotocols, fields, origin, settings.compression
        )
        exchange = self._begin(path, handshake.request, timeout)
        result = await exchange.shake_hands(handshake)
        if isinstance(result, HandshakeFailed):
            self.cookies.store(Headers(result.headers).get_all("Set-Cookie"))
            await self._finish(path, exchange.handler)
            raise result
        self.cookies.store(result.headers.get_all("Set-Cookie"))
        peer = Peer(path, exchange.stream, version, settings, result, self._failures, self.timeout)
        self._peers[peer] = exchange.handler
        return peer

    async def request(
        self,
        method: str,
        path: str,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send an ordinary request. Returns its response, or raises the application's exception."""
        if not TOKEN.fullmatch(method):
            raise ValueError(f"{method!r} is not a method of HTTP")
        address = self._address(path)
        body, kind = encode_body(data, json)
        fields = [("Host", self._host), *self._fields(address, headers, cookies)]
        if kind is not None and all(name.lower() != "content-type" for name, _ in fields):
            fields.append(("Content-Type", kind))
        for name, value in fields:
            check_field(name, value)
        request = encode_request(method, address.target, fields, body)
        response = await self._begin(path, request, timeout).receive_response(method)
        self.cookies.store(response.headers.get_all("Set-Cookie"))
        return response

    def _address(self, path: str) -> Address:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not a path: it must begin with '/'")
        return address_of(self._host, path)

    def _fields(self, address: Address, headers: Fields, cookies: object) -> list[tuple[str, str]]:
        fields = [*self._headers, *field_list(headers)]
        path = address.target.partition("?")[0]
        header = self.cookies.header(path, cookies_of(cookies))
        return [*fields, ("Cookie", header)] if header else fields

    def _begin(self, path: str, request: bytes, timeout: float | None) -> Exchange:
        if not self._is_running:
            raise WebSocketError("the application is not running: use `with Client(app) as client`")
        limit = self.timeout if timeout is None else timeout
        return Exchange(self._server, self._waits, self._failures, path, request, limit)

    async def _finish(self, path: str, handler: Future[None]) -> None:
        await finish(handler, self._waits, self._failures, path, self._until())

    # The end of a WebSocket

    async def close(
        self, peer: Peer, code: int, reason: str = "", timeout: float | None = None
    ) -> None:
        """Close a WebSocket, and wait for the end of the connection and of the handler. Raises the
        application's exception, if there is one."""
        peer.resume_reading()
        handler = self._peers.pop(peer, None)
        try:
            await peer.start_closing(code, reason, timeout)
            await peer.wait_closed(timeout)
            if handler is not None:
                await self._finish(peer.path, handler)
        except BaseException:
            peer.drop()
            raise
        finally:
            await self._settle()
        self._failures.raise_first()

    async def wait_closed(self, peer: Peer, timeout: float | None) -> None:
        """Wait until the connection has ended, and the application's `close` listeners have run."""
        await peer.wait_closed(timeout)
        await self._settle()
        self._failures.raise_first()

    # The engine

    async def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("the clock cannot go back")
        await advance(self._server.engine, self._waits, seconds, self._peers, self.timeout)

    async def _settle(self) -> None:
        await settle(self._server.engine, self._waits, self.timeout)

    def _until(self) -> float:
        return time.monotonic() + self.timeout


@lru_cache(maxsize=64)
def address_of(host: str, path: str) -> Address:
    """Return the address of a path: tests connect to the same few paths again and again."""
    return Address.parse(f"ws://{host}{path}")
