"""The edge cases of ASGI's WebSocket messages, on uvicorn's own class and on ours: the application
and its client see the same, except for the differences listed in docs/servers.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..support.programs import Program, running, wait_for
from ..support.raw_client import Frame, RawClient, close, text
from .asgi.edges import ROUTES, SENT
from .asgi_programs import OURS, UVICORN

NAMES = [*SENT, *ROUTES]
SHOWN = ("sec-websocket-protocol", "x-a", "x-b", "set-cookie", "content-type")
PEER_CLOSES = ("peer-closes", "peer-closes-then-send")
DOES_NOT_CLOSE = 1006


END = ["websocket.disconnect", 1000, "", None]
DIFFERENCES: dict[str, dict[str, object]] = {
    # a subprotocol that was not offered: RFC 6455 forbids it, and browsers fail the connection
    "accept-other-subprotocol": {
        "status": 403,
        "headers": {"content-type": ["text/plain; charset=utf-8"]},
        "closed": (0, ""),
        "journal": ["another error", ["websocket.disconnect", 1006, "", None], "end"],
    },
    # a header with a line break is rejected and changes nothing
    "accept-after-a-failure": {
        "headers": {"x-a": ["2"]},
        "journal": ["another error", END, "end"],
    },
    # a message without data is an error
    "send-nothing": {"journal": ["another error", "another error", END, "end"]},
    # a close that cannot be sent changes nothing
    "close-bad-code": {"journal": ["another error", "another error", END, "end"]},
    "close-long-reason": {"journal": ["another error", END, "end"]},
    # the end can be received repeatedly
    "peer-closes": {
        "journal": [*[["websocket.disconnect", 4000, "the peer's reason", None]] * 2, "end"]
    },
    # the client gets the close code of the application's failure
    "raise-after": {"closed": (1011, "internal error")},
    "return-after": {"closed": (1000, "")},
    # a header with a line break is rejected
    "respond-bad-header": {
        "status": 500,
        "headers": {"content-type": ["text/plain; charset=utf-8"]},
        "body": b"Internal Server Error",
        "journal": ["another error", "nothing", "end"],
    },
    # a response without a body is sent all the same
    "respond-without-body": {
        "status": 404,
        "headers": {"content-type": ["text/plain; charset=utf-8"]},
    },
}
"""The differences of our implementation, as docs/servers.md lists them."""

if int(version("websockets").partition(".")[0]) < 17:  # it encodes header values in UTF-8
    DIFFERENCES["accept-headers"] = {
        "headers": {"x-a": ["1", "2"], "x-b": ["\xe9"], "set-cookie": ["a"]}
    }


class Seen(NamedTuple):
    """The results of one visit, for the client and for the application."""

    status: int | None
    headers: dict[str, list[str]]
    body: bytes
    frames: list[str | bytes]
    closed: tuple[int, str]
    journal: list[Any]


def visit(program: Program, name: str) -> Seen:
    before = len(program.get(f"/journal?{name}"))
    with RawClient(program.address) as client:
        fields = {"Sec-WebSocket-Protocol": "a, b"}
        client.sock.sendall(client.handshake(f"/{name}", fields))
        try:
            response = client.read_response()
        except (AssertionError, EOFError, IndexError):
            status, headers, body = None, {}, b""
        else:
            status = response.status
            headers = {key: response.headers[key] for key in SHOWN if key in response.headers}
            body = client.read_to_end() if status != 101 else b""
        frames, closed = (
            run_over_asgi_messages(program, client, name) if status == 101 else ([], (0, ""))
        )
    journal = wait_for_end(program, name, before)
    return Seen(status, headers, body, frames, closed, journal)


def run_over_asgi_messages(
    program: Program, client: RawClient, name: str
) -> tuple[list[str | bytes], tuple[int, str]]:
    """Answer each "hello" with a message, and read until the server closes."""
    frames: list[str | bytes] = []
    with contextlib.suppress(OSError):
        if name in PEER_CLOSES:
            client.send(close(4000, "the peer's reason"))
        elif name == "close-before-receiving":
            client.send(text("one"))
            program.get("/continue")
    try:
        while (frame := client.read_frame()).opcode != Opcode.CLOSE:
            frames.append(shown(frame))
            if name in ROUTES and frames[-1] == "hello":
                client.send(text(str(len(frames))))
    except (AssertionError, EOFError, OSError):
        return frames, (DOES_NOT_CLOSE, "")
    code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
    with contextlib.suppress(OSError):
        client.send(close(code if frame.payload else None))
        client.read_to_end()
    if name == "peer-closes-then-send":
        program.get("/continue")
    return frames, (code, frame.payload[2:].decode())


def shown(frame: Frame) -> str | bytes:
    return frame.payload.decode() if frame.opcode == Opcode.TEXT else frame.payload


def wait_for_end(program: Program, name: str, before: int) -> list[Any]:
    def journal() -> list[Any]:
        found: list[Any] = program.get(f"/journal?{name}")
        return found[before:]

    wait_for(lambda: journal()[-1:] == ["end"], f"the end in {journal()}")
    return journal()


def serve(*options: str) -> contextlib.AbstractContextManager[Program]:
    command = [*UVICORN, *options, "tests.end_to_end.asgi.edges:app"]
    ready = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"
    return running(Program(command, ready, not IS_NATIVE))


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def ours(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(*OURS, "--loop", request.param) as program:
        yield program


@pytest.fixture(scope="module")
def theirs() -> Iterator[Program]:
    with serve("--ws", "websockets-sansio") as program:
        yield program


@pytest.mark.parametrize("name", NAMES)
def test_edge_is_as_with_uvicorns_own_class(ours: Program, theirs: Program, name: str) -> None:
    seen, expected = visit(ours, name), visit(theirs, name)
    assert seen._asdict() == {**expected._asdict(), **DIFFERENCES.get(name, {})}


def test_documented_differences_still_differ(theirs: Program) -> None:
    for name, fields in DIFFERENCES.items():
        expected = visit(theirs, name)._asdict()
        for field, value in fields.items():
            assert expected[field] != value, f"{name}: {field} is no difference any more"
