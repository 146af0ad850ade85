"""A connected socket during the opening: sends, receives, starts TLS; with errors of our own."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from ..engine.tls import close_socket
from ..errors import ConnectionFailed, TlsFailed, WebSocketError
from .network import Network
from .tls_in_tls import wrap_tls_again

RECEIVE_SIZE = 1 << 16

NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")
"""The reasons that OpenSSL gives when a server answers in another protocol."""

Result = TypeVar("Result")


class Stream:
    """A non-blocking socket, plain or TLS, that waits through a `Network`.

    `peer` names the other end in errors. The methods raise `ConnectionFailed`, `TlsFailed` or
    `TimeoutError`.
    """

    def __init__(self, network: Network, sock: socket.socket, peer: str) -> None:
        self._network = network
        self.sock = sock
        self._peer = peer
        sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        left = memoryview(data)
        with described(f"the connection to {self._peer} was lost", self._peer):
            while left:
                try:
                    sent = await self._repeat(partial(self.sock.send, left), for_writing=True)
                except (ConnectionError, ssl.SSLEOFError):
                    self._raise_alert()
                    raise
                left = left[sent:]

    async def receive(self) -> bytes:
        """Return received bytes, b"" after the peer's end."""
        with described(f"the connection to {self._peer} was lost", self._peer):
            return await self._repeat(partial(self.sock.recv, RECEIVE_SIZE))

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str) -> None:
        """Shake hands for TLS; within TLS if there is TLS already. Then `sock` is a TLS socket."""
        self._peer = server_hostname
        with described(f"TLS with {server_hostname} failed", server_hostname):
            secured = (
                wrap_tls_again(self.sock, context, server_hostname)
                if isinstance(self.sock, ssl.SSLSocket)
                else context.wrap_socket(
                    self.sock, server_hostname=server_hostname, do_handshake_on_connect=False
                )
            )
            self.sock = secured
            await self._repeat(secured.do_handshake)

    def close(self) -> None:
        close_socket(self.sock)

    def _raise_alert(self) -> None:
        """Raise the alert with which a TLS peer has ended the connection, if there is one."""
        with contextlib.suppress(ConnectionError, BlockingIOError, ssl.SSLWantReadError):
            self.sock.recv(RECEIVE_SIZE)

    async def _repeat(self, call: Callable[[], Result], for_writing: bool = False) -> Result:
        """Repeat `call` until it does not have to wait for the peer; returns its result."""
        while True:
            self._network.time_left()
            try:
                return call()
            except ssl.SSLWantReadError:
                await self._network.wait([self.sock])
            except ssl.SSLWantWriteError:
                await self._network.wait([self.sock], for_writing=True)
            except (BlockingIOError, InterruptedError):
                await self._network.wait([self.sock], for_writing)


@contextlib.contextmanager
def described(failure: str, peer: str) -> Iterator[None]:
    """Raise `OSError` as `ConnectionFailed` or `TlsFailed`, with a text that begins with
    `failure`."""
    try:
        yield
    except (WebSocketError, TimeoutError):
        raise
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise ConnectionFailed(f"{failure}: the peer ended the connection") from error
    except ssl.SSLCertVerificationError as error:
        reason = f"the server's certificate is not valid: {error.verify_message}"
        raise TlsFailed(f"TLS with {peer} failed: {reason}") from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if error.reason in NOT_TLS:
            reason = f"the port does not speak TLS ({reason})"
        raise TlsFailed(f"TLS with {peer} failed: {reason}") from error
    except OSError as error:
        raise ConnectionFailed(f"{failure}: {error.strerror or error}", error.errno) from error
