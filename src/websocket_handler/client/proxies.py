"""The way to a server through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6), or SOCKS."""

from __future__ import annotations

import socket
import ssl

from ..errors import ConnectionFailed, HandshakeFailed, ProxyFailed
from ..protocol.client import Address, ResponseHead
from ..protocol.request import head
from .network import Network
from .proxy_url import ProxyUrl
from .stream import Stream
from .tls_contexts import tls_context


async def pass_proxy(
    network: Network,
    stream: Stream,
    proxy: ProxyUrl,
    address: Address,
    context: ssl.SSLContext | None,
    user_agent: str | None,
) -> None:
    """Have the proxy at the other end of `stream` connect to `address`. `context` is the TLS
    context for an https: proxy.

    Raises `ProxyFailed` if it refuses, and the errors of `Stream`.
    """
    if proxy.is_socks:
        await pass_socks(network, stream, proxy, address)
        return
    if proxy.scheme == "https":
        await stream.start_tls(tls_context(context), proxy.host)
    await request_tunnel(stream, proxy, address, user_agent)


async def request_tunnel(
    stream: Stream, proxy: ProxyUrl, address: Address, user_agent: str | None
) -> None:
    """Have the HTTP proxy at the other end of `stream` connect to `address`.

    Raises `ProxyFailed` if it refuses.
    """
    fields = [("Host", address.authority)]
    if user_agent is not None:
        fields.append(("User-Agent", user_agent))
    if proxy.authorization is not None:
        fields.append(("Proxy-Authorization", proxy.authorization))
    await stream.send(head(f"CONNECT {address.authority} HTTP/1.1", fields))
    response = ResponseHead()
    try:
        while (found := response.feed(data := await stream.receive())) is None:
            if not data:
                raise ConnectionFailed(f"the proxy {proxy} closed the connection")
    except HandshakeFailed as error:
        raise ProxyFailed(f"the proxy {proxy} answered with garbage: {error}") from error
    status, headers, rest = found
    if not 200 <= status < 300:
        reason = f"the proxy {proxy} answered with HTTP status {status}"
        raise ProxyFailed(reason, status, headers.fields())
    if rest:  # the server sends nothing before the client does
        raise ProxyFailed(f"the proxy {proxy} sent data after its response", status)


async def pass_socks(network: Network, stream: Stream, proxy: ProxyUrl, address: Address) -> None:
    """Have the SOCKS proxy at the other end of `stream` connect to `address`.

    Raises `ProxyFailed` if it refuses, or if python-socks is not installed.
    """
    try:
        stream.sock = await network.pass_socks(stream.sock, proxy, address.host, address.port)
    except ProxyFailed:
        raise
    except TimeoutError:
        raise network.too_late() from None
    except socket.gaierror as error:
        hint = f"{proxy.scheme} resolves it here, socks5h and socks4a at the proxy"
        reason = f"cannot resolve the name {address.host}: {error.strerror} ({hint})"
        raise ConnectionFailed(reason, error.errno) from error
    except OSError as error:
        reason = f"the connection to the proxy {proxy} was lost: {error}"
        raise ConnectionFailed(reason, error.errno) from error
    except Exception as error:  # of python-socks
        raise ProxyFailed(f"the proxy {proxy} failed: {error}") from error
    stream.sock.setblocking(False)
