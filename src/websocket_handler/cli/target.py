"""The server that a command connects to, and the only calls of this package to the client."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from .. import client
from ..client.blocking import BlockingNetwork, complete
from ..client.opening import default_user_agent
from ..client.proxies import pass_proxy
from ..client.proxy_url import ProxyUrl, proxy_for
from ..client.stream import NOT_TLS, Stream
from ..client.tls_contexts import tls_context
from ..client.tls_in_tls import wrap_tls_again
from ..protocol.client import Address, ClientHandshake, Established, without_password
from ..protocol.permessage_deflate import Compression
from ..protocol.versions import DEFAULT_VERSIONS, Version
from ..websocket import WebSocket

__all__ = [
    "NOT_TLS",
    "Address",
    "ClientHandshake",
    "Established",
    "ProxyUrl",
    "Target",
    "websocket_url",
    "without_password",
]

CLOSE_TIMEOUT_S = 5.0
"""The time that the peer has to answer a close frame."""

SCHEMES = {"http": "ws", "https": "wss"}


@dataclass(frozen=True)
class Target:
    """A URL and the options with which it is opened."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    origin: str | None = None
    version: Version = DEFAULT_VERSIONS[0]
    compression: bool = True
    ca: Path | None = None
    insecure: bool = False
    timeout: float = 10.0
    max_message_size: int = 1 << 24

    def open(self) -> WebSocket:
        """Return an open WebSocket. Raises the errors of `websocket_handler.connect`."""
        return client.connect(
            self.url,
            version=self.version,
            subprotocols=self.subprotocols,
            additional_headers=self.headers,
            origin=self.origin,
            ssl=self.tls_context() if self.address().secure else None,
            compression=self.compression,
            open_timeout=self.timeout,
            close_timeout=CLOSE_TIMEOUT_S,
            max_message_size=self.max_message_size,
        )

    @property
    def shown_url(self) -> str:
        """The URL without its password, for texts that end up in logs and reports."""
        return without_password(self.url)

    def address(self) -> Address:
        """Return the parts of the URL. Raises `ValueError` if it is not valid."""
        return Address.parse(self.url)

    def handshake(self, origin: str | None) -> ClientHandshake:
        """Return the opening handshake without I/O. Raises `ValueError` for an invalid option."""
        address = self.address()
        return ClientHandshake(
            address,
            self.version,
            self.subprotocols,
            [*self.headers, *authorization_of(address)],
            origin,
            Compression() if self.compression else False,
        )

    def proxy(self) -> ProxyUrl | None:
        """Return the proxy of the environment for the URL. Raises `ValueError` if it is not
        valid."""
        return proxy_for(self.address(), True)

    def pass_proxy(self, sock: socket.socket, proxy: ProxyUrl, limit: float) -> socket.socket:
        """Have the proxy at the other end of `sock` connect to the server. Returns the socket to
        use from now on; closes `sock` if that fails.

        Raises `ProxyFailed`, `ConnectionFailed`, or `TimeoutError` after `limit` seconds.
        """
        network = BlockingNetwork(limit)
        stream = Stream(network, sock, str(proxy))
        user_agent = default_user_agent()
        try:
            complete(pass_proxy(network, stream, proxy, self.address(), None, user_agent))
        except BaseException:
            stream.close()
            raise
        return stream.sock

    def add_tls(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return a TLS socket over `sock`, before the TLS handshake."""
        context, host = self.tls_context(), self.address().host
        if isinstance(sock, ssl.SSLSocket):
            return wrap_tls_again(sock, context, host)
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)

    def tls_context(self) -> ssl.SSLContext:
        """Return a context that trusts the system's authorities and `ca`, or any certificate if
        the target is `insecure`. Raises `ValueError` if `ca` is not valid."""
        if self.ca is None:
            return tls_context(not self.insecure)
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise ValueError(f"{self.ca} has no certificates in PEM format") from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def authorization_of(address: Address) -> list[tuple[str, str]]:
    """Return the header for the user and password of the URL, if it has them."""
    return [("Authorization", address.authorization)] if address.authorization else []


def websocket_url(text: str) -> str:
    """Return `text` with the scheme ws: or wss:, which replaces http:, https: or none."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return f"ws://{text}"
    return f"{SCHEMES.get(scheme.lower(), scheme.lower())}://{rest}"
