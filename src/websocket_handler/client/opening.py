"""Opening a WebSocket: the connection, the proxy, TLS, the handshake, redirects.

Written once, as a coroutine that waits through a `Network` of a thread or of an event loop.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..engine import IS_NATIVE
from ..errors import ConnectionFailed, HandshakeFailed, WebSocketError
from ..protocol.client import Address, ClientHandshake, Established, without_password
from ..protocol.printable import printable
from ..protocol.request import Headers, Request
from ..protocol.state import State
from ..protocol.versions import Version
from ..settings import Settings
from ..websocket import WebSocket
from .cookies import cookie_header, store_cookies
from .happy_eyeballs import open_connection, open_unix_connection
from .network import Network
from .options import ClientSettings
from .proxies import pass_proxy
from .proxy_url import ProxyUrl, proxy_for
from .redirects import location_of, target_of, why_not_followed, without_credentials
from .stream import Stream
from .tls_contexts import tls_context

BODY_TIMEOUT_S = 2.0
"""The time that the body of an error response may take after its head, in seconds. Then
`HandshakeFailed` has the part that was received."""


@dataclass(frozen=True)
class Plan:
    """The arguments of one call of `connect`, checked. `prepare` is called with the WebSocket
    before it opens."""

    url: str
    address: Address
    client: ClientSettings
    settings: Settings
    prepare: Callable[[WebSocket], object] = lambda _: None

    @classmethod
    def of(cls, url: str, client: ClientSettings, settings: Settings) -> Plan:
        plan = cls(url, Address.parse(url), client, settings)
        plan.check()
        plan.handshake()
        return plan

    def check(self) -> None:
        """Raise `WebSocketError` if the engine does not support TLS."""
        if self.address.secure:
            check_tls("wss:")

    def check_repeatable(self) -> None:
        """Raise `ValueError` if the plan can be carried out only once."""
        if self.client.sock is not None:
            raise ValueError("sock= is one connection; it cannot be opened again")

    def handshake(self) -> ClientHandshake:
        """Return a new handshake. Raises `ValueError` if an option is not valid in it."""
        client = self.client
        version = client.version
        assert isinstance(version, Version)
        return ClientHandshake(
            self.address,
            version,
            client.subprotocols,
            self.fields(),
            client.origin,
            self.settings.compression,
        )

    def fields(self) -> list[tuple[str, str]]:
        """Return the header fields that are not part of the handshake."""
        fields = self.client.header_fields
        given = {name.lower() for name, _ in fields}
        user_agent = self.user_agent
        if user_agent is not None and "user-agent" not in given:
            fields.append(("User-Agent", user_agent))
        if self.address.authorization is not None and "authorization" not in given:
            fields.append(("Authorization", self.address.authorization))
        if self.client.cookies is not None and "cookie" not in given:
            cookies = cookie_header(self.client.cookies, self.address)
            fields += [("Cookie", cookies)] if cookies is not None else []
        return fields

    def store_cookies(self, fields: Sequence[tuple[str, str]]) -> None:
        """Store the cookies that a response of the server sets."""
        if self.client.cookies is not None:
            store_cookies(self.client.cookies, self.address, fields)

    @property
    def user_agent(self) -> str | None:
        header = self.client.user_agent_header
        return default_user_agent() if header == "" else header

    def redirected(self, response: HandshakeFailed, location: str) -> Plan:
        """Return the plan that follows a redirect. Raises `HandshakeFailed` if it must not be
        followed."""
        try:
            url = target_of(self.url, location)
            address = Address.parse(url)
            reason = why_not_followed(self.address, address, self.client)
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            raise not_followed(response, f"to {printable(location[:200])}: {reason}")
        if address.origin != self.address.origin:
            client = replace(
                self.client, additional_headers=without_credentials(self.client.header_fields)
            )
            if address.host != self.address.host:
                client = replace(client, server_hostname=None)
            plan = replace(self, client=client)
        else:
            authorization = address.authorization or self.address.authorization
            plan, address = self, address._replace(authorization=authorization)
        plan = replace(plan, url=url, address=address)
        plan.check()
        return plan


async def open_websocket(plan: Plan, network: Network) -> WebSocket:
    """Open a WebSocket, and follow redirects. Closes its socket if it fails or is cancelled."""
    for number in range(plan.client.max_redirects + 1):
        try:
            return await _open_once(plan, network)
        except HandshakeFailed as response:
            location = location_of(response)
            if location is None:
                if number:
                    response.reason += f", after a redirect to {without_password(plan.url)}"
                raise
            last, plan = response, plan.redirected(response, location)
    raise not_followed(last, f"after {plan.client.max_redirects} redirects")


def not_followed(response: HandshakeFailed, reason: str) -> HandshakeFailed:
    text = f"the server answered with HTTP status {response.status}; not followed {reason}"
    return HandshakeFailed(text, response.status, response.headers, response.body)


async def _open_once(plan: Plan, network: Network) -> WebSocket:
    websocket, has_early_frames = await _shake_hands(plan, network)
    if websocket.state is State.CONNECTING and not has_early_frames:  # else listeners come first
        try:
            await network.wait_open(websocket)
        except BaseException:
            websocket.abort()
            raise
    return websocket


async def _shake_hands(plan: Plan, network: Network) -> tuple[WebSocket, bool]:
    """Return a WebSocket that the engine has, and whether frames have arrived already."""
    stream = await _reach(plan, network)
    try:
        if plan.address.secure:
            hostname = plan.client.server_hostname or plan.address.host
            await stream.start_tls(tls_context(plan.client.ssl), hostname)
        handshake = plan.handshake()
        await stream.send(handshake.request)
        try:
            established = await _receive_answer(stream, network, handshake)
        except HandshakeFailed as refusal:
            plan.store_cookies(refusal.headers)
            raise
        plan.store_cookies(established.headers.fields())
        websocket = _hand_over(plan, network, stream.sock, established)
        return websocket, bool(established.rest)
    except BaseException:
        stream.close()
        raise


async def _receive_answer(
    stream: Stream, network: Network, handshake: ClientHandshake
) -> Established:
    while not handshake.is_refused:
        established = _feed(handshake, await stream.receive())
        if established is not None:
            return established
    with network.at_most(BODY_TIMEOUT_S):
        while True:
            try:
                handshake.feed(await stream.receive())
            except (ConnectionFailed, TimeoutError):
                handshake.feed(b"")  # raises `HandshakeFailed` with the part that was received


def _feed(handshake: ClientHandshake, data: bytes) -> Established | None:
    try:
        return handshake.feed(data)
    except HandshakeFailed as error:
        if not data and error.status is None:  # it may be starting or ending
            raise ConnectionFailed(str(error)) from error
        raise


async def _reach(plan: Plan, network: Network) -> Stream:
    """Return a stream to the server, or to it through a proxy."""
    client, address = plan.client, plan.address
    if client.sock is not None:
        return Stream(network, client.sock, address.authority)
    if client.unix is not None:
        sock = await open_unix_connection(network, client.unix)
        return Stream(network, sock, address.authority)
    proxy = proxy_for(address, client.proxy)
    if proxy is not None:
        return await _reach_through(proxy, plan, network)
    sock = await open_connection(network, address.host, address.port, client.local_addr)
    return Stream(network, sock, address.authority)


async def _reach_through(proxy: ProxyUrl, plan: Plan, network: Network) -> Stream:
    if proxy.scheme == "https":
        check_tls("an https: proxy")
    try:
        sock = await open_connection(network, proxy.host, proxy.port, plan.client.local_addr)
    except ConnectionFailed as error:
        text = f"the proxy {proxy} is not reachable: {error.reason}"
        raise ConnectionFailed(text, error.errno) from error
    stream = Stream(network, sock, str(proxy))
    try:
        context = plan.client.proxy_ssl
        await pass_proxy(network, stream, proxy, plan.address, context, plan.user_agent)
        return stream
    except BaseException:
        stream.close()
        raise


def _hand_over(
    plan: Plan, network: Network, sock: socket.socket, established: Established
) -> WebSocket:
    """Pass the socket to the engine. Returns its WebSocket."""
    address = plan.address
    fields = [("Host", address.host_header), *plan.client.header_fields]
    scheme = "https" if address.secure else "http"
    request = Request("GET", address.target, Headers(fields), "1.1", sock.getpeername(), scheme)
    engine = plan.client.engine or network.default_engine()
    websocket = WebSocket(request, plan.settings, engine=engine)
    websocket._received_headers = established.headers
    plan.prepare(websocket)
    version = plan.client.version
    assert isinstance(version, Version)
    websocket._begin_as_client(
        version, established.secret, established.subprotocol, established.negotiated
    )
    websocket._take_over(sock, established.rest)
    return websocket


def check_tls(needed_by: str) -> None:
    """Raise `WebSocketError` if the engine does not support TLS."""
    if not IS_NATIVE:
        raise WebSocketError(
            f"{needed_by} needs the native engine; the pure-Python engine has no TLS"
        )


@lru_cache(maxsize=1)
def default_user_agent() -> str:
    """Return the default User-Agent: the versions of this library and of Python."""
    from .. import __version__

    major, minor, _ = platform.python_version_tuple()
    return f"websocket-handler/{__version__} Python/{major}.{minor}"
