"""WebSocket routes of Starlette, FastAPI and Channels on a real uvicorn: with our class, clients
and handlers see the same as with uvicorn's own class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..support.programs import Program, running, wait_for
from ..support.raw_client import Frame, RawClient, binary, close, text
from .asgi_programs import SERVERS, UVICORN

JSON = [text('{"a": [1, null]}'), text("[]")]
BYE = close(1001, "bye")


class Visit(NamedTuple):
    """The actions of a client: it sends `frames`, reads `answers` frames for each data frame, and
    then reads until the server closes."""

    path: str
    frames: tuple[Frame, ...] = ()
    answers: int = 0
    headers: tuple[tuple[str, str], ...] = ()


VISITS = [
    Visit("about?a=%20b&c=", headers=(("Cookie", "x=1; y=2"), ("X-Test", "t"))),
    Visit("texts", (text("one"), text(""), text("€" * 1000), BYE), 1),
    Visit("binaries", (binary(b"\x00\xff"), binary(b""), BYE), 1),
    Visit("objects", (*JSON, BYE), 2),
    Visit("objects", (binary(b"[1]"),)),
    Visit("wrong_kind", (text("one"),)),
    Visit("two_tasks", (text("one"), text("two"), BYE), 1),
    Visit("waits_for_the_end", (text("one"), BYE)),
    Visit("waits_for_the_end", (close(),)),
    Visit("waits_for_the_end", (close(4000, "the peer's reason"),)),
    Visit("sends_for_ever", (close(1000),)),
    Visit("closes"),
    Visit("closes_twice"),
    Visit("sends_after_close"),
    Visit("receives_after_the_end", (text("one"), BYE)),
    Visit("receives_before_accept"),
    Visit("sends_before_accept"),
    Visit("rejects"),
    Visit("rejects_after_receiving"),
    Visit("responds"),
    Visit("responds_with_a_stream"),
    Visit("responds_with_cookies"),
    Visit("raises"),
    Visit("raises_after_accept"),
    Visit("raises_before_accept"),
    Visit("http_exception"),
    Visit("subprotocol"),
    Visit("accept_headers"),
    Visit("neither"),
    Visit("nowhere"),
    Visit("endpoint", (*JSON, close(4000)), 1),
    Visit("endpoint", (text("no JSON"),)),
    Visit("depends"),
    Visit("depends?token=t"),
    Visit("depends", headers=(("Cookie", "session=s"),)),
    Visit("depends_http"),
    Visit("items/1?size=2", headers=(("X-Test", "t"),)),
    Visit("items/one"),
    Visit("items/1?size=-1"),
    Visit("channels/async", (text("one"), binary(b"two"), close(4000)), 1),
    Visit("channels/async", (close(),)),
    Visit("channels/sync", (text("one"), binary(b"two"), BYE), 1),
    Visit("channels/async_json", (*JSON, BYE), 1),
    Visit("channels/sync_json", (*JSON, BYE), 1),
    Visit("channels/subprotocol", (BYE,)),
    Visit("channels/rejects"),
    Visit("channels/denies"),
    Visit("channels/accepts", (text("one"), BYE), 1),
    Visit("channels/closes", (text("one"),)),
]
NO_LISTENER = ("subprotocol", "rejects", "denies", "accepts")
SHOWN = ("content-type", "set-cookie", "sec-websocket-protocol", "x-a")
SILENT = ("nowhere", "depends", "items", *(f"channels/{name}" for name in NO_LISTENER))
"""Routes that record nothing."""


class Seen(NamedTuple):
    status: int
    headers: dict[str, list[str]]
    body: bytes
    frames: list[Frame]
    closed: tuple[int, str] | None
    journal: list[Any]


def visit(program: Program, does: Visit) -> Seen:
    name = does.path.partition("?")[0]
    before = len(journal(program, name))
    frames: list[Frame] = []
    closed, body = None, b""
    with RawClient(program.address) as client:
        headers = {"Sec-WebSocket-Protocol": "a, b", **dict(does.headers)}
        client.sock.sendall(client.handshake(f"/{does.path}", headers))
        response = client.read_response()
        if response.status == 101:
            for frame in does.frames:
                client.send(frame)
                if frame.opcode != Opcode.CLOSE:
                    frames += [client.read_frame() for _ in range(does.answers)]
            others, closed = read_to_close(client)
            frames += others
        else:
            body = client.read_to_end()
    if not name.startswith(SILENT):
        wait_for(lambda: ["end"] in journal(program, name)[before:], f"the end of {name}")
    shown = {key: response.headers[key] for key in SHOWN if key in response.headers}
    return Seen(response.status, shown, body, frames, closed, journal(program, name)[before:])


def read_to_close(client: RawClient) -> tuple[list[Frame], tuple[int, str] | None]:
    """The frames up to and including the close frame; None if the server just disconnects."""
    frames: list[Frame] = []
    try:
        while (frame := client.read_frame()).opcode != Opcode.CLOSE:
            frames.append(frame)
    except (AssertionError, EOFError, OSError):
        return frames, None
    code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
    with contextlib.suppress(OSError):
        client.send(close(code if frame.payload else None))
        client.read_to_end()
    return frames, (code, frame.payload[2:].decode())


def journal(program: Program, name: str) -> list[Any]:
    found: list[Any] = program.get(f"/journal?websocket_route={name}")
    return found


def serve(command: list[str]) -> contextlib.AbstractContextManager[Program]:
    ready = r"(?:Uvicorn running on|Listening at:) http://127\.0\.0\.1:(\d+)"
    arguments = [*command, "tests.end_to_end.asgi.frameworks:application"]
    return running(Program(arguments, ready, not IS_NATIVE))


@pytest.fixture(scope="module", params=["uvicorn", "uvicorn uvloop h11", "gunicorn"])
def ours(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(SERVERS[request.param]) as program:
        yield program


@pytest.fixture(scope="module")
def theirs() -> Iterator[Program]:
    with serve([*UVICORN, "--ws", "websockets-sansio"]) as program:
        yield program


INTERNAL_ERROR = (1011, "internal error")


@pytest.mark.parametrize("does", VISITS, ids=lambda does: f"{does.path} {len(does.frames)}")
def test_route_is_as_with_uvicorns_own_class(ours: Program, theirs: Program, does: Visit) -> None:
    seen, expected = visit(ours, does), visit(theirs, does)
    if (
        expected.status == 101 and expected.closed is None
    ):  # the handler failed, its client gets a close frame
        expected = expected._replace(closed=INTERNAL_ERROR)
    if does.path == "sends_for_ever":
        seen, expected = (each._replace(frames=each.frames[:1]) for each in (seen, expected))
    assert seen == expected
