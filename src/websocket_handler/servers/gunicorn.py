"""gunicorn's own ASGI worker: `gunicorn -k websocket_handler.servers.gunicorn.ASGIWorker app:app`.

Everything else of gunicorn needs no class of ours: with its WSGI workers it is the application
that is wrapped (`WSGIMiddleware`), and its uvicorn worker is uvicorn.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, ClassVar, cast

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from ..engine import loop_engine
from ..handover.transport import InertTransport, ServerConnections, TransportHandover
from ..protocol.close_codes import CloseCode
from ..settings import Settings
from ..websocket import WebSocket
from .asgi import ASGISession, Scope, request_of
from .forwarded import in_scope


class WebSocketProtocol(ASGIProtocol):  # type: ignore[misc]
    """gunicorn's protocol, but for its WebSockets.

    Their size is limited as gunicorn's `websocket_max_message_size` says, all else is as
    `Settings` and the worker's `settings` say.
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
    """gunicorn's worker with that protocol; its end closes WebSockets with 1012.

    For other settings (those of `Settings`), derive a class and name it after `-k`.
    """

    settings: ClassVar[dict[str, Any]] = {}
    websockets: ServerConnections

    async def _serve(self) -> None:
        gasgi.ASGIProtocol = WebSocketProtocol  # what the worker makes for each connection
        self.websockets = ServerConnections(loop_engine(), CloseCode.SERVICE_RESTART)
        await super()._serve()

    async def _shutdown(self) -> None:
        over = asyncio.Event()
        self.websockets.close_all(when_done=over.set)
        try:
            await asyncio.wait_for(over.wait(), self.cfg.graceful_timeout)
        except asyncio.TimeoutError:
            self.log.warning("some WebSockets did not close in time")
        await super()._shutdown()
