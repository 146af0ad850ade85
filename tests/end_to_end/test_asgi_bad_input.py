"""ASGI servers, aiohttp and Tornado: difficult requests and clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from websocket_handler import WebSocketError
from websocket_handler.servers.uvicorn import early_bytes

from ..support.programs import Program
from ..support.raw_client import RawClient, masked, request, text
from .asgi_programs import SERVERS, serve, watched
from .hixie import BODIES, KEYS3, WITH_HEAD, greet_hixie_76, unmasked_by_zeros
from .loop_programs import AIOHTTP, TORNADO
from .loop_programs import serve as serve_other

HELLO = text("hello")
ORDINARY = request("/plain")


class Served:
    """A server, and its paths where a WebSocket sends a greeting and echoes."""

    def __init__(self, program: Program, paths: list[str], refusing: str) -> None:
        self.program = program
        self.address = program.address
        self.paths = paths
        self.refusing = refusing

    def client(self) -> RawClient:
        return RawClient(self.address)


OTHERS = {
    **{f"aiohttp {loop}": command for loop, command in AIOHTTP.items()},
    **{f"tornado {loop}": command for loop, command in TORNADO.items()},
}
WITH_HIXIE = [*SERVERS, *(name for name in OTHERS if name.startswith("tornado"))]
"""aiohttp rejects the keys of hixie-76."""


@pytest.fixture(scope="module", params=[*SERVERS, *OTHERS])
def shared(request: pytest.FixtureRequest) -> Iterator[Served]:
    name: str = request.param
    if name in SERVERS:
        with serve(SERVERS[name]) as program:
            yield Served(program, ["/asked/echo", "/asked/conversation"], "/asked/forbidden")
    else:
        with serve_other(OTHERS[name], "Running on") as program:
            yield Served(program, ["/echo", "/conversation"], "/forbidden")


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    for _ in watched(shared.program):
        yield shared


@pytest.mark.parametrize("payload", ["\r\n\r\n", ORDINARY.decode(), "\r\n" * 40])
def test_early_frames_that_look_like_http_are_echoed_by_loop_servers(
    served: Served, payload: str
) -> None:
    for path in served.paths:
        with served.client() as client:
            early = unmasked_by_zeros(payload.encode()) * 5 + masked(HELLO)
            client.open(path, early=early)
            client.expect(HELLO, *[text(payload)] * 5, HELLO)


@pytest.mark.parametrize("shared", WITH_HIXIE, indirect=True)
@pytest.mark.parametrize("key3", KEYS3)
@WITH_HEAD
def test_hixie_76_third_key_split_anywhere_is_accepted_by_loop_servers(
    served: Served, key3: bytes, with_head: int
) -> None:
    for path in served.paths:
        with served.client() as client:
            greet_hixie_76(client, path, key3, with_head)


@BODIES
def test_handshake_with_a_body_is_rejected_by_loop_servers(
    served: Served, fields: dict[str, str | None], body: bytes
) -> None:
    for path in served.paths:
        with served.client() as client:
            client.sock.sendall(client.handshake(path, fields) + body + ORDINARY)
            response = client.read_response()
            assert response.status == 400
            client.read_body(response)
            client.expect_end()


def test_protocol_that_hides_its_buffer_is_an_error() -> None:
    """For example uvicorn's protocol for zttp, which would lose early frames."""

    class OtherProtocol:
        conn = object()

    with pytest.raises(WebSocketError, match=r"OtherProtocol does not expose .* httptools"):
        early_bytes(OtherProtocol())


def test_http_1_0_handshake_is_rejected_by_loop_servers(served: Served) -> None:
    for path in served.paths:
        with served.client() as client:
            client.sock.sendall(client.handshake(path).replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert client.read_response().status in (400, 426)
            client.read_to_end()


def test_bytes_after_a_handshake_are_not_served_as_http_by_loop_servers(served: Served) -> None:
    with served.client() as client:
        fields: dict[str, str | None] = {"Connection": "keep-alive, Upgrade"}
        client.sock.sendall(client.handshake(served.refusing, fields) + ORDINARY * 3)
        response = client.read_response()
        assert (response.status, client.read_body(response)) == (403, b"not you\n")
        client.expect_end()
