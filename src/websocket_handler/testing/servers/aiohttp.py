"""Serves aiohttp applications with aiohttp's own server protocol."""

from __future__ import annotations

import asyncio
import logging
import sys
from socket import socket
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.log import server_logger

from ..failures import Failures

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # Python 3.10 has no type parameter for it


class RecordingLogger(Adapter):
    """The logger to which aiohttp's server writes the exceptions of handlers."""

    def __init__(self, failures: Failures) -> None:
        super().__init__(server_logger, {})
        self._failures = failures

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if error is not None:
            self._failures.record(error)
        super().exception(msg, *args, exc_info=exc_info, **options)


class AiohttpServer:
    """Serves one application in the running event loop."""

    def __init__(self, app: web.Application, failures: Failures) -> None:
        self._runner = web.AppRunner(app, logger=RecordingLogger(failures))

    async def start(self) -> None:
        await self._runner.setup()

    async def serve(self, sock: socket) -> None:
        server = self._runner.server
        assert server is not None
        await asyncio.get_running_loop().connect_accepted_socket(server, sock)

    async def stop(self) -> None:
        await self._runner.cleanup()
