"""Serves Tornado applications with Tornado's own HTTP server."""

from __future__ import annotations

import logging
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from ..failures import Failures
from . import ADDRESS


class TornadoServer:
    """Serves one application in the running event loop."""

    def __init__(self, app: Application, failures: Failures) -> None:
        self._app = app
        self._handler = failures.log_handler()
        self._logger = logging.getLogger("tornado.application")

    async def start(self) -> None:
        self._server = HTTPServer(self._app)
        self._logger.addHandler(self._handler)

    async def serve(self, sock: socket) -> None:
        self._server.handle_stream(IOStream(sock), ADDRESS)

    async def stop(self) -> None:
        self._logger.removeHandler(self._handler)
        await self._server.close_all_connections()
