"""gunicorn's own ASGI worker: `gunicorn -k websocket_handler.servers.gunicorn.ASGIWorker app:app`.

gunicorn's other workers need no class from here. Under its WSGI workers, wrap the application in
`WSGIMiddleware`. For its uvicorn worker, see `servers.uvicorn`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, ClassVar, cast

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from ..engine import loop_engine
from ..handover.transport import InertTransport, ServerConnections, TransportHandover
from ..moving.arrivals import arrival_in_scope
from ..moving.departures import DEFAULT_TIMEOUT_S
from ..protocol.close_codes import CloseCode
from ..settings import Settings
from ..websocket import WebSocket
from .asgi import ASGISession, Scope, request_of
from .forwarded import in_scope


class WebSocketProtocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's protocol class with the WebSockets of this library.

    gunicorn's `websocket_max_message_size` limits the size of messages. The worker's `settings`
    override it and the defaults of `Settings`.
    """

    async def _handle_websocket(self, request: Any, sockname: Any, peername: Any) -> None:
        loop = asyncio.get_running_loop()
        protocol: Any = self
        transport: asyncio.Transport = protocol.transport
        transport.pause_reading()
        transport.set_protocol(asyncio.Protocol())
        protocol.transport = InertTransport(
            transport, lambda: loop.call_soon(self.connection_lost, None)
        )
        early: bytes = protocol._callback_parser.remaining()
        protocol._callback_parser = None
        sockets = self.worker.websockets
        handover = TransportHandover(transport, early=early, server=sockets)
        scope = cast(Scope, self._build_websocket_scope(request, sockname, peername))
        scope["extensions"] = {"websocket.http.response": {}}
        handover.arrival = arrival_in_scope(scope)
        websocket = WebSocket(
            request_of(scope),
            Settings(
                **{"max_message_size": self.cfg.websocket_max_message_size, **self.worker.settings}
            ),
            handover=handover,
        )
        websocket._follow(partial(in_scope, scope))
        await ASGISession(websocket, handover, sockets).run(self.app, scope)


class ASGIWorker(gasgi.ASGIWorker):  # type: ignore[misc]
    """gunicorn's ASGI worker with `WebSocketProtocol`. Its shutdown closes WebSockets with 1012.

    For other `settings` (those of `Settings`), derive a class and pass its name to `-k`.
    """

    settings: ClassVar[dict[str, Any]] = {}
    moves_connections: ClassVar[bool] = False
    websockets: ServerConnections

    async def _serve(self) -> None:
        gasgi.ASGIProtocol = WebSocketProtocol  # the worker creates one per connection
        self.websockets = ServerConnections(loop_engine(), CloseCode.SERVICE_RESTART)
        await super()._serve()

    async def _shutdown(self) -> None:
        over = asyncio.Event()
        limit = self.cfg.graceful_timeout
        if self.moves_connections:
            for server in self.servers:  # only other workers accept connections from now on
                server.close()
            seconds = self.cfg.timeout / 2 or DEFAULT_TIMEOUT_S
            limit += seconds
            self.websockets.move_all(when_done=over.set, timeout=seconds)
        else:
            self.websockets.close_all(when_done=over.set)
        try:
            await asyncio.wait_for(over.wait(), limit)
        except asyncio.TimeoutError:
            self.log.warning("some WebSockets did not close in time")
        await super()._shutdown()


class MovingASGIWorker(ASGIWorker):
    """Like `ASGIWorker`, but its shutdown moves WebSockets to the worker that replaces it.

    Only those that could not be moved are closed with 1012. The move may take half of gunicorn's
    `timeout`.
    """

    moves_connections: ClassVar[bool] = True
