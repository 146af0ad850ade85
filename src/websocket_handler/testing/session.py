"""A client of one application, written once for both clients: as coroutines, over `Waits`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from socket import socketpair
from typing import Any, TypeVar

from ..errors import HandshakeFailed, WebSocketError
from ..protocol.client import Address, ClientHandshake, Established
from ..protocol.close_codes import CloseCode
from ..protocol.request import Headers, check_field
from ..protocol.versions import DEFAULT_VERSIONS, Version, by_name
from ..settings import Settings
from .clock import MAX_STEPS, advance
from .cookies import Cookies, cookies_of
from .failures import Failures
from .messages import Body, Fields, Response, encode_body, encode_request, pairs, parse_response
from .peer import Peer
from .servers import Server
from .stream import Stream
from .waiting import Waits, seconds

Result = TypeVar("Result")


class Session:
    """The connections, the cookies and the failures of one client."""

    def __init__(
        self,
        server: Server,
        failures: Failures,
        waits: Waits,
        cookies: object,
        headers: Fields,
        host: str,
        timeout: float,
    ) -> None:
        self._server = server
        self._failures = failures
        self._waits = waits
        self._headers = pairs(headers)
        self._host = host
        self.timeout = timeout
        self.cookies: Cookies = Cookies(cookies)
        self._peers: dict[Peer, Future[None]] = {}
        self._was_started = self._is_running = False
        self._signals = ExitStack()

    # Starting and stopping

    async def start(self) -> None:
        if self._was_started:
            raise WebSocketError("the client was entered before: make a new one")
        self._was_started = True
        self._signals.enter_context(self._failures.observing_frameworks())
        try:
            await self._server.start(self._waits, self._until())
            self._server.engine.ledger.error_observers += (self._failures.record,)
        except BaseException:
            self._signals.close()
            raise
        self._is_running = True

    async def stop(self, is_raising: bool) -> None:
        """Close what is open and stop the application. With `is_raising`, raise the first exception
        of the application that was not raised yet, or the one of stopping it."""
        self._is_running = False
        errors: list[BaseException] = []
        for peer in tuple(self._peers):
            try:
                await self.close(peer, CloseCode.GOING_AWAY)
            except Exception as error:
                errors.append(error)
        ledger = self._server.engine.ledger
        try:
            await self._server.stop(self._waits, self._until())
        except Exception as error:
            errors.append(error)
        finally:
            ledger.error_observers = tuple(
                one for one in ledger.error_observers if one != self._failures.record
            )
            self._signals.close()
        if is_raising:
            self._failures.raise_first()
            if errors:
                raise errors[0]

    # Requests

    async def connect(
        self,
        path: str,
        version: Version | str = DEFAULT_VERSIONS[0],
        subprotocols: Sequence[str] = (),
        headers: Fields = (),
        cookies: object = None,
        origin: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
    ) -> Peer:
        version = by_name(version) if isinstance(version, str) else version
        settings = settings or Settings()
        address = self._address(path)
        fields = self._fields(address, headers, cookies)
        handshake = ClientHandshake(
            address, version, subprotocols, fields, origin, settings.compression
        )
        limit = self.timeout if timeout is None else timeout
        until = time.monotonic() + limit
        stream, chunks, handler = self._open()
        try:
            answer = await self._shake_hands(handshake, stream, chunks, until)
        except BaseException:
            stream.close()
            raise
        if answer is None:
            stream.close()
            self._failures.raise_first()
            raise TimeoutError(
                f"{path}: waited {seconds(limit)} for the response to the handshake: the handler "
                "has neither returned nor begun to receive"
            )
        if isinstance(answer, HandshakeFailed):
            stream.close()
            self.cookies.store(Headers(answer.headers).get_all("Set-Cookie"))
            await self._await_handler(path, handler, until)
            raise answer
        self.cookies.store(answer.headers.get_all("Set-Cookie"))
        peer = Peer(path, stream, version, settings, answer, self._failures, self.timeout)
        self._peers[peer] = handler
        return peer

    async def _shake_hands(
        self, handshake: ClientHandshake, stream: Stream, chunks: list[bytes], until: float
    ) -> Established | HandshakeFailed | None:
        """Return the outcome of a handshake, None if there is none by `until`."""
        if not await stream.write(handshake.request, until):
            return None
        number = 0
        while True:
            while number == len(chunks):
                if not await stream.read(until):
                    return None
            try:
                established = handshake.feed(chunks[number])
            except HandshakeFailed as failed:
                return await self._complete(failed, stream, chunks, until)
            if established is not None:
                return established
            number += 1

    async def _complete(
        self, failed: HandshakeFailed, stream: Stream, chunks: list[bytes], until: float
    ) -> HandshakeFailed | None:
        """Read the rest of a response that rejects the handshake."""
        if failed.status in (None, 101):
            return failed
        while not stream.has_ended:
            if not await stream.read(until):
                return None
        response = parse_response(b"".join(chunks), "GET")
        return HandshakeFailed(
            failed.reason, response.status, response.headers.fields(), response.body
        )

    async def request(
        self,
        method: str,
        path: str,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        address = self._address(path)
        body, kind = encode_body(data, json)
        fields = [("Host", self._host), *self._fields(address, headers, cookies)]
        if kind is not None and all(name.lower() != "content-type" for name, _ in fields):
            fields.append(("Content-Type", kind))
        for name, value in fields:
            check_field(name, value)
        limit = self.timeout if timeout is None else timeout
        until = time.monotonic() + limit
        stream, chunks, handler = self._open()
        try:
            await stream.write(encode_request(method, address.target, fields, body), until)
            while not stream.has_ended:
                if not await stream.read(until):
                    self._failures.raise_first()
                    raise TimeoutError(f"{path}: waited {seconds(limit)} for the response")
        finally:
            stream.close()
        await self._await_handler(path, handler, until)
        response = parse_response(b"".join(chunks), method)
        self.cookies.store(response.headers.get_all("Set-Cookie"))
        return response

    def _address(self, path: str) -> Address:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not a path: it must begin with '/'")
        return Address.parse(f"ws://{self._host}{path}")

    def _fields(self, address: Address, headers: Fields, cookies: object) -> list[tuple[str, str]]:
        fields = [*self._headers, *pairs(headers)]
        path = address.target.partition("?")[0]
        header = self.cookies.header(path, cookies_of(cookies))
        return [*fields, ("Cookie", header)] if header else fields

    def _open(self) -> tuple[Stream, list[bytes], Future[None]]:
        """Open a connection to the application. Returns its stream, the list to which received
        bytes are added, and the future that is done when the application's handler is."""
        if not self._is_running:
            raise WebSocketError("the application is not running: use `with Client(app) as client`")
        ours, theirs = socketpair()
        chunks: list[bytes] = []
        return Stream(ours, self._waits, chunks.append), chunks, self._server.serve(theirs)

    async def _await_handler(self, path: str, handler: Future[None], until: float) -> None:
        """Wait for the end of a handler, then raise the application's exception, if any."""
        is_done = await self._waits.done(handler, until)
        self._failures.raise_first()
        if not is_done:
            raise TimeoutError(f"{path}: the handler runs on after the end of the connection")

    # The end of a WebSocket

    async def close(
        self, peer: Peer, code: int, reason: str = "", timeout: float | None = None
    ) -> None:
        """Close a WebSocket, and wait for the end of the connection and of the handler. Raises the
        application's exception, if there is one."""
        peer.resume_reading()
        try:
            await peer.start_closing(code, reason, timeout)
            await peer.wait_closed(timeout)
        except BaseException:
            peer.drop()
            raise
        finally:
            handler = self._peers.pop(peer, None)
            await self._settle(self._until())
        if handler is not None:
            await self._await_handler(peer.path, handler, self._until())
            await self._settle(self._until())
        self._failures.raise_first()

    async def wait_closed(self, peer: Peer, timeout: float | None) -> None:
        """Wait until the connection has ended, and the application's `close` listeners have run."""
        await peer.wait_closed(timeout)
        await self._settle(self._until())
        self._failures.raise_first()

    # The engine

    async def advance(self, duration: float) -> None:
        if duration < 0:
            raise ValueError("the clock cannot go back")
        engine, left = self._server.engine, duration
        while engine.is_running:
            read_at = time.monotonic()
            await self._settle(self._until())
            for peer in self._peers:
                peer.read_now()
            if left <= 0:
                return
            step = partial(advance, engine, left, duration / MAX_STEPS, read_at)
            left -= await self._in_engine(step, self._until())

    async def _settle(self, until: float) -> None:
        """Wait until the engine has processed what has arrived and what was posted before."""
        if self._server.engine.is_running:
            await self._in_engine(lambda: None, until)

    async def _in_engine(self, call: Callable[[], Result], until: float) -> Result:
        """Make a call in the engine's thread, once the engine has processed what has arrived and
        what was posted before. Returns its result."""
        engine, future = self._server.engine, Future[Result]()

        def answer() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        engine.post(lambda: engine.post(answer))  # in an iteration that has not begun yet
        if not await self._waits.done(future, until):
            raise TimeoutError("a listener blocks the engine")
        return future.result()

    def _until(self) -> float:
        return time.monotonic() + self.timeout
