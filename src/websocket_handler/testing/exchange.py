"""One request to the application, on a connection of its own."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import Future
from socket import socketpair

from ..errors import HandshakeFailed
from ..protocol.client import LAST_CHUNK, ClientHandshake, Established, ResponseHead, is_chunked
from ..protocol.request import Headers
from .failures import Failures
from .messages import Response, parse_response
from .servers import Server
from .stream import Stream
from .waiting import Waits, seconds


class Exchange:
    """A connection that the application serves, from its request to the response.

    All waits together last at most `timeout` seconds. The stream is closed if one of them fails.
    """

    def __init__(
        self,
        server: Server,
        waits: Waits,
        failures: Failures,
        path: str,
        request: bytes,
        timeout: float,
    ) -> None:
        """Send the beginning of a request, then serve it: so the server need not wait for it."""
        ours, theirs = socketpair()
        self._waits = waits
        self._failures = failures
        self._path = path
        self._timeout = timeout
        self._until = time.monotonic() + timeout
        self._received: list[bytes] = []
        self.stream: Stream = Stream(ours, waits, self._received.append)
        self.stream.write_now(request)
        self.handler: Future[None] = server.serve(theirs)
        """Done when the handler of the request is."""

    async def receive_response(self, method: str) -> Response:
        """Return the response to an ordinary request, once the handler is done."""
        with self._closing_on_error():
            await self._send_rest()
            await self._read_to_end()
        await finish(self.handler, self._waits, self._failures, self._path, self._until)
        return parse_response(b"".join(self._received), method)

    async def shake_hands(self, handshake: ClientHandshake) -> Established | HandshakeFailed:
        """Return the result of a handshake. A failed one has the whole response of the
        application."""
        with self._closing_on_error():
            await self._send_rest()
            for number in itertools.count():
                while number == len(self._received):
                    await self._read("the response to the handshake: the handler has not returned")
                try:
                    established = handshake.feed(self._received[number])
                except HandshakeFailed as failed:
                    return await self._with_response(failed)
                if established is not None:
                    return established
        raise AssertionError  # for mypy: the loop has no other end

    async def _with_response(self, failed: HandshakeFailed) -> HandshakeFailed:
        if failed.status not in (None, 101):
            await self._read_body()
            response = parse_response(b"".join(self._received), "GET")
            failed = HandshakeFailed(
                failed.reason, response.status, response.headers.fields(), response.body
            )
        self.stream.close()
        return failed

    async def _send_rest(self) -> None:
        if not await self.stream.write(b"", self._until):
            self._give_up("the application to read the request")

    async def _read_body(self) -> None:
        """Read the rest of a response, after which the server may keep the connection open."""
        head = ResponseHead().feed(b"".join(self._received))
        assert head is not None
        status, headers, body = head
        size, tail = len(body), body
        while not self.stream.has_ended and not is_complete(status, headers, size, tail):
            number = len(self._received)
            await self._read("the rest of the response")
            for data in self._received[number:]:
                size, tail = size + len(data), tail[-len(LAST_CHUNK) :] + data

    async def _read_to_end(self) -> None:
        while not self.stream.has_ended:
            await self._read("the response")

    async def _read(self, awaited: str) -> None:
        if not await self.stream.read(self._until):
            self._give_up(awaited)

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stream.close()
            raise

    def _give_up(self, awaited: str) -> None:
        self._failures.raise_first()
        raise TimeoutError(f"{self._path}: waited {seconds(self._timeout)} for {awaited}")


def is_complete(status: int, headers: Headers, size: int, tail: bytes) -> bool:
    """Whether `size` bytes with the end `tail` are the whole body of a response. False if only the
    end of the connection shows it (RFC 9112 section 6.3)."""
    if status in (204, 304):
        return True
    if is_chunked(headers):
        return tail.endswith(LAST_CHUNK)
    length = headers.get("Content-Length", "")
    return length.isdecimal() and size >= int(length)


async def finish(
    handler: Future[None], waits: Waits, failures: Failures, path: str, until: float
) -> None:
    """Wait for the end of a handler after the end of its connection, then raise the application's
    exception, if there is one."""
    is_done = await waits.done(handler, until)
    failures.raise_first()
    if not is_done:
        raise TimeoutError(f"{path}: the handler runs on after the end of the connection")
