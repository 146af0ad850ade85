"""The steps before HTTP: the name, TCP and TLS."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from ..target import NOT_TLS, Address, ProxyUrl, Target
from .finding import Clock, Finding, Level, Step

MIN_VALID_DAYS = 14
"""A certificate that expires earlier is a problem."""

RESERVED_NAMES = (".invalid", ".example", ".test", ".local", ".internal", ".lan")

Place = tuple[socket.AddressFamily, Any]
"""A family and a socket address."""


def check_name(address: Address | ProxyUrl, limit: float) -> Step[list[Place]]:
    """Resolve the host of the URL, or of the proxy; returns its addresses."""
    clock = Clock(limit)
    try:
        places = resolve(address, limit)
    except OSError as error:
        text = f"{address.host} does not resolve: {error.strerror or error}"
        yield Finding("name", Level.FAILURE, text, cure_of_name(address.host), clock.seconds)
        return []
    shown = [place[1][0] for place in places]
    text = f"{address.host} is {', '.join(shown)}"
    yield Finding("name", Level.OK, text, seconds=clock.seconds, details={"addresses": shown})
    return places


def resolve(address: Address | ProxyUrl, limit: float) -> list[Place]:
    """Return the addresses of the host. Waits in a thread: the call itself has no time limit."""
    answers: SimpleQueue[list[Place] | OSError] = SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys((entry[0], entry[4]) for entry in found)))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=limit)
    except Empty:
        raise TimeoutError(f"the name servers did not answer within {limit:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def cure_of_name(host: str) -> str:
    if host.endswith(RESERVED_NAMES) or "." not in host:
        return "The name is not one of the public DNS: add it to /etc/hosts, or use the address."
    return "Check the spelling of the host, and that this machine reaches its name servers."


def check_tcp(
    address: Address | ProxyUrl, places: list[Place], limit: float
) -> Step[tuple[socket.socket, float] | None]:
    """Connect to the first address that accepts; returns the socket, and the seconds it took."""
    failures: list[str] = []
    clock = Clock(limit)
    error: OSError = TimeoutError()
    for number, (family, place) in enumerate(places):
        clock = Clock(limit / len(places))
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(clock.left())
            sock.connect(place)
        except OSError as failure:
            sock.close()
            error = failure
            failures.append(f"{place[0]}: {failure.strerror or failure}")
            continue
        seconds = clock.seconds
        if number:
            text = f"other addresses of the host do not accept: {'; '.join(failures)}"
            cure = "Let the server listen on all addresses of its name, or remove these from DNS."
            yield Finding("tcp", Level.NOTE, text, cure)
        yield Finding("tcp", Level.OK, f"{place[0]} port {place[1]} accepts", "", seconds)
        return sock, seconds
    text = f"port {address.port} does not accept a connection: {'; '.join(failures)}"
    yield Finding("tcp", Level.FAILURE, text, cure_of_tcp(error), clock.seconds)
    return None


def cure_of_tcp(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "A firewall drops the packets, or the host is down: open the port in the firewall."
    if error.errno == errno.ECONNREFUSED:
        return (
            "Nothing listens there: start the server, check the port, and that it listens on this "
            "address (0.0.0.0 in a container, not 127.0.0.1)."
        )
    return "Check the network of this machine, and the address of the host."


CERTIFICATE_CURES = {
    9: "The certificate is not valid yet: check the clocks of both machines.",
    10: "The certificate has expired: renew it, and reload the server.",
    18: "The certificate is self-signed: get one of an authority, or pass it with --ca.",
    19: "An authority of the chain is not trusted: pass its certificate with --ca.",
    20: "The issuer is unknown: let the server send its intermediate certificates (fullchain.pem), "
    "or pass the authority with --ca.",
    21: "The issuer is unknown: let the server send its intermediate certificates (fullchain.pem), "
    "or pass the authority with --ca.",
    62: "The certificate is for other names: use one of them in the URL, or get a certificate for "
    "this one.",
    64: "The certificate does not name this IP address: use the host name in the URL.",
}
"""By the error codes of OpenSSL (X509_V_ERR_…)."""


def check_tls(target: Target, sock: socket.socket, limit: float) -> Step[ssl.SSLSocket | None]:
    """Perform the TLS handshake; returns the secured socket."""
    clock = Clock(limit)
    secured = target.add_tls(sock)
    try:
        secured.settimeout(clock.left())  # for the whole handshake
        secured.do_handshake()
    except OSError as error:
        secured.close()
        yield tls_failure(error, clock.seconds)
        return None
    certificate = secured.getpeercert() or {}
    details = {"version": secured.version(), "expires": certificate.get("notAfter")}
    text = f"{secured.version()}" + (", not verified" if target.insecure else "")
    yield Finding("tls", Level.OK, text, "", clock.seconds, details)
    yield from check_expiry(str(certificate.get("notAfter", "")))
    return secured


def tls_failure(error: OSError, seconds: float) -> Finding:
    details: dict[str, object] = {}
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate is refused: {error.verify_message}"
        cure = CERTIFICATE_CURES.get(error.verify_code, "Get a valid certificate for this host.")
        details = {"verify_code": error.verify_code}
    elif isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
        text = "the port does not speak TLS"
        cure = "Use ws:// for this port, or the port of the TLS server."
    elif isinstance(error, TimeoutError):
        text = "the server does not answer the TLS handshake"
        cure = "Use ws:// if the port does not speak TLS; otherwise the server hangs: restart it."
    else:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        text = f"the TLS handshake failed: {reason or error}"
        cure = "Check the TLS versions, the server name and the client certificates of the server."
    return Finding("tls", Level.FAILURE, text, cure, seconds, details)


def check_expiry(not_after: str) -> Step[None]:
    if not not_after:
        return
    days = int((ssl.cert_time_to_seconds(not_after) - time.time()) // 86_400)
    if days < MIN_VALID_DAYS:
        text = f"the certificate expires in {days} days"
        yield Finding("tls", Level.WARNING, text, "Renew the certificate, and reload the server.")
