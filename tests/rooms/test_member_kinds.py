"""Members of every kind in one room, over real brokers."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.programs import wait_for
from websocket_handler import (
    ALL_VERSIONS,
    IS_NATIVE,
    Engine,
    History,
    Rooms,
    WebSocket,
    configure_server,
)
from websocket_handler import connect as connect_client
from websocket_handler.protocol.assembly import Message
from websocket_handler.servers.aiohttp import websocket as aiohttp_websocket

from ..support.connections import client_role
from .brokers import BrokerProcess
from .certificates import Certificates
from .members import join, wait_until_joined

Join = Callable[[WebSocket], None]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


def http_server(join_room: Join, context: ssl.SSLContext | None) -> ThreadingHTTPServer:
    """Accepts every protocol version; with TLS in the native engine, if there is one."""

    class Handler(BaseHTTPRequestHandler):
        websocket: WebSocket | None

        def do_GET(self) -> None:
            assert self.websocket is not None
            self.websocket.connect()
            join_room(self.websocket)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    configure_server(server, versions=ALL_VERSIONS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class AiohttpServer:
    """In its own event loop; with TLS the bytes come from an asyncio transport."""

    def __init__(self, join_room: Join, context: ssl.SSLContext) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._run(self._start(join_room, context))

    async def _start(self, join_room: Join, context: ssl.SSLContext) -> int:
        async def handle(request: web.Request) -> web.StreamResponse:
            websocket = aiohttp_websocket(request)
            assert websocket is not None
            response: web.StreamResponse = websocket.connect()
            join_room(websocket)
            return response

        application = web.Application()
        application.router.add_get("/", handle)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        return int(self._runner.addresses[0][1])

    def _run(self, what: object) -> int:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)  # type: ignore[arg-type]

    def close(self) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def other_engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


@pytest.mark.parametrize("history", [None, History()], ids=["plain", "history"])
def test_members_of_every_kind_receive_what_another_process_sends(
    engine: Engine,
    other_engine: Engine,
    shared: BrokerProcess,
    certificates: Certificates,
    history: History | None,
    request: pytest.FixtureRequest,
) -> None:
    rooms, sender = Rooms(shared.url, history=history), Rooms(shared.url, history=history)
    room = rooms[request.node.name]
    trusted = ssl.create_default_context(cafile=str(certificates.authority))
    servers = [http_server(room.add, None), http_server(room.add, server_context(certificates))]
    aiohttp_server = AiohttpServer(room.add, server_context(certificates))
    clients: list[WebSocket] = []
    try:
        peers = [join(one, room)[1] for one in (engine, other_engine)]
        masking, masked_peer = client_role(engine)
        room.add(masking)
        for version in ALL_VERSIONS:
            url = f"ws://127.0.0.1:{servers[0].server_port}/"
            clients.append(connect_client(url, version=version))
        for port in (servers[1].server_port, aiohttp_server.port) if IS_NATIVE else ():
            clients.append(connect_client(f"wss://127.0.0.1:{port}/", ssl=trusted))
        wait_for(lambda: len(room) == len(clients) + 3, "all members to be in the room")
        wait_until_joined(rooms)
        for text in ("h\xe9llo", "x" * 70_000):
            sender[room.name].send(text)
            assert [peer.read() for peer in (*peers, masked_peer)] == [Message(text)] * 3
            assert [client.receive(20) for client in clients] == [text] * len(clients)
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.shutdown()
            server.server_close()
        aiohttp_server.close()
        rooms.close(5)
        sender.close(5)
