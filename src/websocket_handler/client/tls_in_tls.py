"""TLS inside TLS: a wss: server behind an https: proxy.

The socket stays the TLS socket of the proxy, with its descriptor. Its class is changed, so that
`read` and `write`, which the engine calls, pass through a second OpenSSL object.
"""

from __future__ import annotations

import ssl
from typing import Any

from ..engine.tls import SSLSocket, is_of_gevent, take_from_gevent

RECORD_SIZE = 1 << 14
"""The largest plaintext of a TLS record, in bytes."""


class TlsInTls(SSLSocket):
    """A TLS socket whose data is TLS again, for a second peer. Non-blocking."""

    _inner: ssl.SSLObject
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _unsent: bytes  # taken from `_outgoing`
    _accepted: int  # bytes of a write that is repeated

    def do_handshake(self, *_: Any) -> None:
        self._exchange(self._inner.do_handshake)
        self._flush()

    def recv(self, size: int = RECORD_SIZE, _flags: int = 0) -> bytes:
        data: bytes = self.read(size)
        return data

    def read(self, size: int = RECORD_SIZE, buffer: Any = None) -> Any:
        """Return decrypted data, b"" after the peer's end; with a `buffer`, the number of bytes
        written to it. Raises `ssl.SSLWantReadError`."""
        try:
            return self._exchange(lambda: self._inner.read(size, buffer))
        except ssl.SSLZeroReturnError:
            return b"" if buffer is None else 0

    def send(self, data: Any, _flags: int = 0) -> int:
        return self.write(data)

    def write(self, data: Any) -> int:
        """Encrypt and send one record. Raises `ssl.SSLWantWriteError` if not all of it was sent:
        then the call must be repeated with the same data, as with OpenSSL."""
        if not self._accepted:
            chunk = memoryview(data)[:RECORD_SIZE]
            self._accepted = self._exchange(lambda: self._inner.write(chunk))
        self._flush()
        accepted, self._accepted = self._accepted, 0
        return accepted

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the certificate of the second peer."""
        return self._inner.getpeercert(binary_form)

    def version(self) -> str | None:
        """Return the version of the second TLS."""
        return self._inner.version()

    def unwrap(self) -> Any:
        """Send both close_notify alerts, as far as the socket accepts them."""
        try:
            self._exchange(self._inner.unwrap)
        finally:
            super().unwrap()

    def _exchange(self, call: Any) -> Any:
        """Call OpenSSL; pass on bytes in both directions until it needs no more of them."""
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._flush()
                received = super().read(RECORD_SIZE)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            else:
                return result

    def _flush(self) -> None:
        while self._unsent or self._outgoing.pending:
            self._unsent = self._unsent or self._outgoing.read(RECORD_SIZE)
            self._unsent = self._unsent[super().write(self._unsent) :]


def wrap_tls_again(sock: ssl.SSLSocket, context: ssl.SSLContext, server_hostname: str) -> TlsInTls:
    """Turn the connected TLS socket `sock` into one that has TLS inside TLS."""
    outer: Any = take_from_gevent(sock) if is_of_gevent(sock) else sock
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = context.wrap_bio(incoming, outgoing, server_hostname=server_hostname)
    outer.__class__ = TlsInTls
    vars(outer).update(_inner=inner, _incoming=incoming, _outgoing=outgoing)
    vars(outer).update(_accepted=0, _unsent=b"")
    secured: TlsInTls = outer
    return secured
