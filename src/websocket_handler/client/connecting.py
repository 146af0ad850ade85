"""`connect` and `aconnect`: opening a WebSocket in a thread or in an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any

from .blocking import BlockingNetwork, complete
from .event_loop import LoopNetwork
from .opening import Plan, open_websocket
from .options import split_options
from .reopening import reopen

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import Settings
    from ..websocket import WebSocket
    from .options import ClientOptions


def connect(
    url: str, *, settings: Settings | None = None, **options: Unpack[ClientOptions]
) -> WebSocket:
    """Open a WebSocket to `url` ("ws://host:port/path" or "wss://…"). Blocks until it is open.

    A user and a password in the URL are sent as an `Authorization` header. The options, with
    their defaults (`websocket_handler.client.ClientSettings` describes them in full):

    - `version=RFC 6455`: the protocol version, one of `ALL_VERSIONS` or its name.
    - `subprotocols=()`: offered in this order; `WebSocket.subprotocol` is the server's choice.
    - `additional_headers=()`: a mapping or pairs. `origin=None`: the Origin header.
      `cookies=None`: an `http.cookiejar.CookieJar` to send from and to store in.
      `user_agent_header`: default "websocket-handler/VERSION Python/x.y"; None sends none.
    - `compression=False`: True or "deflate", or a `Compression`, offers permessage-deflate.
    - `ssl=None`: an `ssl.SSLContext` for wss:. None and True verify the server's certificate with
      the system's authorities, False does not verify it. `server_hostname`: default the URL's.
    - `proxy=True`: a URL (http:, https:, socks4:, socks4a:, socks5:, socks5h:), True for the
      proxy of the environment, None for none. `proxy_ssl`: the context for an https: proxy.
    - `unix=None`: the path of a Unix socket. `sock=None`: a connected socket. `local_addr=None`:
      the local address and port.
    - `max_redirects=10`, `redirect_hosts=()`: the other hosts to which redirects are followed.
    - `engine`: serves the connection; default: `default_engine()`.
    - `settings` is a `Settings`, and all its fields are options too. `open_timeout=10` limits the
      whole call.

    Messages that arrive before there is a listener or a reader are queued.

    Raises `HandshakeFailed` if the server's response is not a valid handshake of this version,
    `ProxyFailed` if the proxy refuses, `ConnectionFailed` (an `OSError`) if the connection
    fails, `TlsFailed` if the certificate is not valid, `TimeoutError` after `open_timeout`,
    `ValueError` or `TypeError` for an invalid argument, `WebSocketError` for wss: without the
    native engine.
    """
    plan = Plan.of(url, *split_options(settings, **options))
    return complete(open_websocket(plan, BlockingNetwork(plan.settings.open_timeout)))


def aconnect(
    url: str, *, settings: Settings | None = None, **options: Unpack[ClientOptions]
) -> Connecting:
    """Open a WebSocket to `url` in a coroutine.

    - `ws = await aconnect(url)` opens it.
    - `async with aconnect(url) as ws:` opens it, and closes it at the end.
    - `async for ws in aconnect(url):` opens it, closes it at the end of the body, and opens
      another one, for ever (see `Reconnecting`).

    Takes the arguments of `connect()` and raises the same errors: `ValueError` and `TypeError`
    at once, the others when it is awaited. By default the connection is served by the engine of
    the event loop: listeners run in the loop, must not block it, and may be `async def`. The
    connections are closed with the loop.
    """
    return Connecting(Plan.of(url, *split_options(settings, **options)))


class Connecting:
    """A WebSocket that is not open yet: await it, enter it with `async with`, or iterate over it
    with `async for` to connect again and again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._websocket: WebSocket | None = None

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        self._websocket = await self._open()
        return self._websocket

    async def __aexit__(self, kind: type[BaseException] | None, *details: object) -> None:
        assert self._websocket is not None
        await self._websocket.__aexit__(kind, *details)

    def __aiter__(self) -> AsyncGenerator[WebSocket, None]:
        self._plan.check_repeatable()
        return reopen(self._plan, LoopNetwork)

    async def _open(self) -> WebSocket:
        return await open_websocket(self._plan, LoopNetwork(self._plan.settings.open_timeout))
