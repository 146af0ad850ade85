"""The client: opens a WebSocket to a server, in any version of the protocol.

`connect` performs the handshake on a blocking socket, `aconnect` in an event loop, where it can be
cancelled. Then the engine takes over the socket, as it does from HTTP servers, and the application
gets the same `WebSocket`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .engine import IS_NATIVE, Engine
from .errors import WebSocketError
from .protocol.client import Address, ClientHandshake, Established
from .protocol.request import Headers, Request
from .protocol.versions import DEFAULT_VERSIONS, Version, by_name
from .settings import Settings, with_options
from .websocket import WebSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import SettingsOptions

RECEIVE_SIZE = 1 << 16

Result = TypeVar("Result")


def connect(
    url: str,
    *,
    version: Version | str = DEFAULT_VERSIONS[0],
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    engine: Engine | None = None,
    settings: Settings | None = None,
    **options: Unpack[SettingsOptions],
) -> WebSocket:
    """Open a WebSocket to `url` ("ws://host:port/path" or "wss://…"). Blocks until it is open.

    - `version` is one of `ALL_VERSIONS` or its name; default: RFC 6455.
    - `subprotocols` are offered in this order; `WebSocket.subprotocol` is the one that the server
      has chosen.
    - `headers` are sent in addition to those of the handshake, `origin` as the Origin header.
    - `ssl_context` is used for wss:; default: `ssl.create_default_context()`, which verifies the
      server's certificate.
    - `engine` serves the connection; default: `default_engine()`.
    - `settings` is a `Settings`; `options` are its fields by name;
      `open_timeout` limits the whole call.

    Messages that arrive before there is a listener or a reader are queued.

    Raises `HandshakeFailed` if the server's response is not a valid handshake of this version,
    `TimeoutError` if the handshake takes longer than `open_timeout`, `OSError` if the connection
    fails, `ValueError` for an invalid URL, header, subprotocol or setting, `WebSocketError` for
    wss: without the native engine.
    """
    plan = _Plan(
        url, version, subprotocols, headers, origin, engine, with_options(settings, options)
    )
    return _shake_hands_blocking(plan, ssl_context)


def _shake_hands_blocking(plan: _Plan, ssl_context: ssl.SSLContext | None) -> WebSocket:
    deadline = time.monotonic() + plan.settings.open_timeout
    address = (plan.address.host, plan.address.port)
    sock = socket.create_connection(address, timeout=plan.settings.open_timeout)
    try:
        if plan.address.secure:
            context = ssl_context or ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=plan.address.host)
        sock.sendall(plan.handshake.request)
        established = None
        while established is None:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            established = plan.handshake.feed(sock.recv(RECEIVE_SIZE))
        return plan.complete(sock, established)
    except BaseException:
        sock.close()
        raise


def aconnect(
    url: str,
    *,
    version: Version | str = DEFAULT_VERSIONS[0],
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    engine: Engine | None = None,
    settings: Settings | None = None,
    **options: Unpack[SettingsOptions],
) -> Connecting:
    """Open a WebSocket to `url` in a coroutine: `ws = await aconnect(…)`, or `async with
    aconnect(…) as ws:`, which closes it at the end.

    Takes the arguments of `connect()` and raises the same errors: `ValueError` and `TypeError`
    at once, the others when it is awaited.
    """
    plan = _Plan(
        url, version, subprotocols, headers, origin, engine, with_options(settings, options)
    )
    return Connecting(plan, ssl_context)


class Connecting:
    """A handshake that has not begun: await it, or enter it with `async with`."""

    def __init__(self, plan: _Plan, ssl_context: ssl.SSLContext | None) -> None:
        self._plan = plan
        self._ssl_context = ssl_context
        self._websocket: WebSocket | None = None

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        self._websocket = await self._open()
        return self._websocket

    async def __aexit__(self, kind: type[BaseException] | None, *details: object) -> None:
        assert self._websocket is not None
        await self._websocket.__aexit__(kind, *details)

    async def _open(self) -> WebSocket:
        timeout = self._plan.settings.open_timeout
        try:
            return await asyncio.wait_for(_shake_hands(self._plan, self._ssl_context), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError("the server did not complete the handshake in time") from None


async def _shake_hands(plan: _Plan, ssl_context: ssl.SSLContext | None) -> WebSocket:
    sock = await _open_socket(plan.address)
    try:
        if not plan.address.secure:
            established = await _exchange(plan.handshake, sock)
        else:
            context = ssl_context or ssl.create_default_context()
            sock = secured = context.wrap_socket(
                sock, server_hostname=plan.address.host, do_handshake_on_connect=False
            )
            await _repeat(secured, secured.do_handshake)
            established = await _exchange_securely(plan.handshake, secured)
        return plan.complete(sock, established)
    except BaseException:
        sock.close()
        raise


async def _exchange(handshake: ClientHandshake, sock: socket.socket) -> Established:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, handshake.request)
    established = None
    while established is None:
        established = handshake.feed(await loop.sock_recv(sock, RECEIVE_SIZE))
    return established


async def _exchange_securely(handshake: ClientHandshake, sock: ssl.SSLSocket) -> Established:
    left = memoryview(handshake.request)
    while left:
        left = left[await _repeat(sock, partial(sock.send, left)) :]
    established = None
    while established is None:
        established = handshake.feed(await _repeat(sock, partial(sock.recv, RECEIVE_SIZE)))
    return established


async def _repeat(sock: ssl.SSLSocket, call: Callable[[], Result]) -> Result:
    """Repeat `call` until OpenSSL does not have to wait for the peer; returns its result."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            await _ready(sock, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(sock, loop.add_writer, loop.remove_writer)


async def _ready(
    sock: socket.socket, add: Callable[..., object], remove: Callable[[int], object]
) -> None:
    """Wait until the event loop calls the callback that `add` registers for the socket."""
    ready = asyncio.get_running_loop().create_future()
    add(sock.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        remove(sock.fileno())


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _open_socket(address: Address) -> socket.socket:
    """Return a connected, non-blocking socket to the first address of the host that accepts."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, place)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"no address found for {address.host}")


class _Plan:
    """The arguments and the handshake of one call of `connect` or `aconnect`."""

    def __init__(
        self,
        url: str,
        version: Version | str,
        subprotocols: Sequence[str],
        headers: Mapping[str, str] | Sequence[tuple[str, str]],
        origin: str | None,
        engine: Engine | None,
        settings: Settings,
    ) -> None:
        self.address: Address = Address.parse(url)
        if self.address.secure and not IS_NATIVE:
            raise WebSocketError("wss: needs the native engine; the pure-Python engine has no TLS")
        self.settings = settings
        self._version = by_name(version) if isinstance(version, str) else version
        self._fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._engine = engine
        self.handshake: ClientHandshake = ClientHandshake(
            self.address,
            self._version,
            subprotocols,
            self._fields,
            origin,
            self.settings.compression,
        )

    def complete(self, sock: socket.socket, established: Established) -> WebSocket:
        fields = [("Host", self.address.host_header), *self._fields]
        scheme = "https" if self.address.secure else "http"
        address = sock.getpeername()
        request = Request("GET", self.address.target, Headers(fields), "1.1", address, scheme)
        websocket = WebSocket(request, self.settings, engine=self._engine)
        websocket._begin_as_client(
            self._version, established.secret, established.subprotocol, established.negotiated
        )
        websocket._take_over(sock, established.rest)
        return websocket
