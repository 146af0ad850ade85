"""Serves aiohttp applications with aiohttp's own server protocol."""

from __future__ import annotations

import asyncio
import logging
from socket import socket

from aiohttp import web

from ..failures import Failures


class AiohttpServer:
    """Serves one application in the running event loop."""

    def __init__(self, app: web.Application, failures: Failures) -> None:
        logger = logging.Logger("aiohttp.server")
        logger.parent = logging.getLogger(logger.name)
        logger.addHandler(failures.log_handler())
        self._runner = web.AppRunner(app, logger=logger)

    async def start(self) -> None:
        await self._runner.setup()

    async def serve(self, sock: socket) -> None:
        server = self._runner.server
        assert server is not None
        await asyncio.get_running_loop().connect_accepted_socket(server, sock)

    async def stop(self) -> None:
        await self._runner.cleanup()
