"""The proxy of the environment, and its answer to the request for a connection."""

from __future__ import annotations

import socket
from dataclasses import replace

from ...errors import ConnectionFailed, ProxyFailed, TlsFailed
from ..target import ProxyUrl, Target
from .answer import name_of
from .finding import Clock, Finding, Level, Result, Step

BYPASS = "To connect without the proxy, add the host to NO_PROXY."

UNREACHABLE = f"Check the URL of the proxy in the environment, and that the proxy runs. {BYPASS}"

CURES = {
    401: "Put a user and a password into the URL of the proxy: http://user:password@host:port.",
    403: "The proxy forbids this host or port (many allow port 443 only): use wss:// on port 443, "
    f"or let the proxy allow it. {BYPASS}",
    502: "The proxy does not reach the server: check the host and the port of the URL. A server in "
    f"your own network is often out of its reach. {BYPASS}",
    504: "The server does not answer the proxy: a firewall drops the packets, or the host is down. "
    f"{BYPASS}",
}
CURES[407] = CURES[401]
CURES[500] = CURES[503] = CURES[502]

CURE = f"The proxy does not offer CONNECT: check the scheme and the port of its URL. {BYPASS}"


def note_of_proxy(proxy: ProxyUrl) -> Finding:
    text = f"the environment asks for the proxy {proxy} (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)"
    return Finding("proxy", Level.NOTE, text, details={"proxy": str(proxy)})


def blaming_proxy(step: Step[Result]) -> Step[Result]:
    """Take a step to the proxy itself: the cure of each problem is about the proxy."""
    while True:
        try:
            finding = next(step)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield replace(finding, cure=UNREACHABLE) if finding.is_problem else finding


def check_proxy(
    target: Target, proxy: ProxyUrl, sock: socket.socket, limit: float
) -> Step[socket.socket | None]:
    """Have the proxy connect to the server; returns the socket to use from now on."""
    clock = Clock(limit)
    request = "" if proxy.is_socks else f"CONNECT {target.address().authority}: "
    try:
        passed = target.pass_proxy(sock, proxy, limit)
    except (ProxyFailed, ConnectionFailed, TimeoutError) as error:
        text, cure = explain(error, limit)
        details = {"status": getattr(error, "status", None)}
        yield Finding("proxy", Level.FAILURE, f"{request}{text}", cure, clock.seconds, details)
        return None
    text = f"{request}the proxy connects to the server"
    yield Finding("proxy", Level.OK, text, "", clock.seconds)
    return passed


def explain(error: Exception, limit: float) -> tuple[str, str]:
    """Return the problem and the cure."""
    if isinstance(error, TimeoutError):
        return f"the proxy does not answer within {limit:g} s", CURES[504]
    if isinstance(error, TlsFailed):
        return str(error), "Use http:// in the URL of the proxy, unless the proxy itself has TLS."
    if isinstance(error, ProxyFailed) and error.status is not None:
        return f"the proxy answered {name_of(error.status)}", CURES.get(error.status, CURE)
    return str(error), CURE
