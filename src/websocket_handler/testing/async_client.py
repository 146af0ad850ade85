"""The test client for coroutines. Its methods are those of `client`, to be awaited."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionClosed
from ..protocol.close_codes import CloseCode
from ..protocol.versions import DEFAULT_VERSIONS, Version
from ..settings import Settings, with_options
from .client import BaseClient, BaseConnection
from .messages import Body, Fields, Response

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from typing_extensions import Unpack

    from ..settings import SettingsOptions


class AsyncClient(BaseClient):
    """A client of a web application, without a port, for tests that are coroutines of asyncio.

    ::

        async with AsyncClient(app) as client:
            async with client.connect("/chat") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"

    It takes the arguments of `Client`. An ASGI, aiohttp or Tornado application runs in the event
    loop of the test, so both may share a database connection, for example.
    """

    _in_running_loop = True

    async def __aenter__(self) -> AsyncClient:
        """Start the application: see `Client.__enter__`."""
        await self._session.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections and stop the application: see `Client.__exit__`."""
        await self._session.stop(is_raising=kind is None)

    def connect(
        self,
        path: str,
        *,
        version: Version | str = DEFAULT_VERSIONS[0],
        subprotocols: Sequence[str] = (),
        headers: Fields = (),
        cookies: object = None,
        origin: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> Connecting:
        """Open a WebSocket to `path`: `async with client.connect(path) as ws`, or
        `ws = await client.connect(path)`. See `Client.connect`."""
        opening = self._session.connect(
            path,
            version,
            subprotocols,
            headers,
            cookies,
            origin,
            timeout,
            with_options(settings, options),
        )

        async def connect() -> AsyncClientConnection:
            return AsyncClientConnection(self._session, await opening)

        return Connecting(connect())

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send an ordinary request, and return its response: see `Client.request`."""
        return await self._session.request(method, path, headers, cookies, data, json, timeout)

    async def get(
        self,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a GET request: see `Client.request`."""
        return await self.request("GET", path, headers=headers, cookies=cookies, timeout=timeout)

    async def post(
        self,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a POST request: see `Client.request`."""
        return await self.request(
            "POST",
            path,
            headers=headers,
            cookies=cookies,
            data=data,
            json=json,
            timeout=timeout,
        )

    async def advance(self, seconds: float) -> None:
        """Move the clock of the connections forward: see `Client.advance`. All `AsyncClient`s of an
        event loop share the loop's engine, and its clock."""
        await self._session.advance(seconds)


class Connecting:
    """A handshake that has not begun: await it, or enter it with `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncClientConnection]) -> None:
        self._opening = opening
        self._websocket: AsyncClientConnection | None = None

    def __await__(self) -> Generator[Any, None, AsyncClientConnection]:
        return self._opening.__await__()

    async def __aenter__(self) -> AsyncClientConnection:
        self._websocket = await self._opening
        return self._websocket

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._websocket is not None
        await self._websocket.__aexit__(kind, error, traceback)


class AsyncClientConnection(BaseConnection):
    """The client's end of a WebSocket: `await client.connect(path)`. See `ClientConnection`."""

    async def __aenter__(self) -> AsyncClientConnection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000, or with 1011 after an exception: see `ClientConnection.__exit__`."""
        if kind is None or issubclass(kind, ConnectionClosed):
            await self.close()
            return
        with contextlib.suppress(Exception):  # the test has failed with another one
            await self.close(CloseCode.INTERNAL_ERROR)

    async def send(self, message: str | bytes, timeout: float | None = None) -> None:
        """Send a message: see `ClientConnection.send`."""
        await self._peer.send(message, timeout)

    async def send_raw(self, data: bytes, timeout: float | None = None) -> None:
        """Send bytes as they are: see `ClientConnection.send_raw`."""
        await self._peer.send_raw(data, timeout)

    async def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message: see `ClientConnection.receive`."""
        return await self._peer.receive(timeout)

    async def ping(self, payload: str | bytes = b"", timeout: float | None = None) -> None:
        """Send a ping, and wait for its pong: see `ClientConnection.ping`."""
        await self._peer.ping(payload, timeout)

    async def close(
        self,
        code: int = CloseCode.NORMAL_CLOSURE,
        reason: str = "",
        timeout: float | None = None,
    ) -> None:
        """Close the connection, and wait for its end: see `ClientConnection.close`."""
        await self._session.close(self._peer, code, reason, timeout)

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the application closes the connection: see `ClientConnection.wait_closed`."""
        await self._session.wait_closed(self._peer, timeout)
