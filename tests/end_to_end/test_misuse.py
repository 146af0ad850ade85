"""Misuse by handlers in each family of frameworks: the WebSocket works all the same unless the
framework raises an error, and other connections are unaffected."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..support.programs import Program, wait_for
from ..support.raw_client import RawClient, close, text
from .asgi_programs import SERVERS as ASGI
from .asgi_programs import serve as serve_asgi
from .loop_programs import AIOHTTP, READY, TORNADO
from .loop_programs import serve as serve_other
from .misuse import KINDS
from .wsgi_programs import serve as serve_wsgi

HELLO = text("hello")
FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "Flask": (lambda: serve_wsgi("gunicorn gthread", "with_flask:app"), ""),
    "Django": (lambda: serve_wsgi("gunicorn gthread", "with_django:app"), ""),
    "FastAPI": (lambda: serve_asgi(ASGI["uvicorn"], "with_starlette:app"), "/ordinary"),
    "FastAPI, gunicorn": (lambda: serve_asgi(ASGI["gunicorn"], "with_starlette:app"), "/ordinary"),
    "Django, ASGI": (lambda: serve_asgi(ASGI["uvicorn"], "with_django:app"), "/ordinary"),
    "aiohttp": (lambda: serve_other(AIOHTTP["asyncio"], "Running on"), ""),
    "Tornado": (lambda: serve_other(TORNADO["asyncio"], READY), ""),
}


WANT_A_RESPONSE = ("Flask", "Django", "Django, ASGI", "aiohttp")
"""Frameworks that respond with 500 if a handler returns nothing."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[tuple[Program, str, bool]]:
    serving, prefix = FAMILIES[request.param]
    with serving() as program:

        def is_up() -> bool:
            with contextlib.suppress(OSError), RawClient(program.address) as client:
                return client.get("/plain").status == 200
            return False

        wait_for(is_up, "the server to serve")
        yield program, prefix, request.param in WANT_A_RESPONSE


@pytest.mark.parametrize("kind", KINDS)
def test_handler_misuse_is_reported_or_harmless(
    family: tuple[Program, str, bool], kind: str
) -> None:
    program, prefix, wants_a_response = family
    with RawClient(program.address) as client:
        if kind == "ordinary":
            assert client.get(f"{prefix}/misuse/{kind}").status == 500
        elif kind == "forgets" and wants_a_response:
            client.sock.sendall(client.handshake(f"{prefix}/misuse/{kind}"))
            assert client.read_response().status == 500
        else:
            client.open(f"{prefix}/misuse/{kind}").echo(HELLO, text("again"))
            client.send(close(1000))
            client.expect_closed(1000)
    with RawClient(program.address) as client:
        assert client.get("/plain").status == 200
