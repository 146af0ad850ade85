"""The situations: one function each, which plays the client and checks the response."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.request import urlopen

from ..support.programs import TIMEOUT_S, Program, wait_for
from ..support.raw_client import RawClient, Response, binary, close, masked, text

HELLO = text("hello")
FOREIGN = "https://other.example"

Check = Callable[[Program], None]


class Situation(NamedTuple):
    """One row of the table."""

    title: str
    check: Check


SITUATIONS: dict[str, Situation] = {}


def situation(title: str) -> Callable[[Check], Check]:
    """Make a function a row of the table."""

    def add(check: Check) -> Check:
        SITUATIONS[check.__name__] = Situation(title, check)
        return check

    return add


@contextmanager
def opened(
    program: Program, path: str, headers: Mapping[str, str] | None = None, early: bytes = b""
) -> Iterator[RawClient]:
    """A client whose WebSocket at `path` is open, and which closes it in the end."""
    with RawClient(program.address) as client:
        client.open(path, headers, early)
        yield client
        client.send(close(1000))
        client.expect_close(1000)


def response_of(
    program: Program, path: str, headers: Mapping[str, str | None] | None = None
) -> tuple[Response, bytes]:
    """The response to a handshake that is to fail, with its body."""
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake(path, headers))
        response = client.read_response()
        if response.status == 101:
            return response, b""
        length = response.headers.get("content-length")
        return response, client.read(int(length[0])) if length else client.read_to_end()


def codes(program: Program, path: str) -> list[int]:
    """The codes of the `close` events of `path`."""
    found: list[int] = program.get("/closed").get(path, [])
    return found


def check_rejected_after_connect(program: Program, path: str, status: int) -> None:
    """The client gets `status`, and the handler a `close` event."""
    before = len(codes(program, path))
    assert response_of(program, path)[0].status == status
    wait_for_codes(program, path, before, 1006)


def wait_for_codes(program: Program, path: str, before: int, code: int) -> None:
    """Wait for one more `close` event of `path`, with that code."""
    wait_for(lambda: len(codes(program, path)) > before, f"a close event of {path}")
    found = codes(program, path)[before:]
    assert found == [code], found


def check_log_is_clean(program: Program, seen: int) -> None:
    log = program.log()[seen:]
    assert "Traceback" not in log, log
    assert "ERROR" not in log, log


# Ordinary requests


@situation("A plain GET to the route: `WebSocket.of(request)` is None, and it gets its page")
def plain_get(program: Program) -> None:
    with urlopen(program.url("/echo", "http"), timeout=TIMEOUT_S) as response:
        assert response.read() == b"plain"


@situation("A plain GET beside an open WebSocket gets its page")
def plain_get_beside_a_websocket(program: Program) -> None:
    with opened(program, "/echo") as client:
        plain_get(program)
        client.echo(HELLO)


# Messages


@situation("Text and binary messages are echoed")
def messages(program: Program) -> None:
    with opened(program, "/echo") as client:
        client.echo(text("héllo"), binary(b"\x00" * 100_000))


@situation("Frames that arrive together with the handshake are not lost")
def early_frames(program: Program) -> None:
    frames = [text(f"{number}") for number in range(20)]
    with opened(program, "/echo", early=masked(*frames)) as client:
        client.expect(*frames)


@situation("A handler that stays receives messages itself")
def handler_receives(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/receives").echo(HELLO)
        client.expect_close(1000)  # the handler has returned


# The response decides


@situation("403 before `connect()` reaches the client with its body")
def refused_before_connect(program: Program) -> None:
    response, body = response_of(program, "/refuses")
    assert response.status == 403
    assert b"not you" in body, body


@situation("The handler raises after `connect()`: 500")
def handler_raises(program: Program) -> None:
    check_rejected_after_connect(program, "/raises", 500)


@situation("The handler responds with 401 after `connect()`: 401")
def handler_aborts(program: Program) -> None:
    check_rejected_after_connect(program, "/aborts", 401)


@situation("A second `connect()`: 500")
def second_connect(program: Program) -> None:
    check_rejected_after_connect(program, "/connects-twice", 500)


@situation("A hook or middleware raises after the handler's response: 500")
def hook_raises(program: Program) -> None:
    check_rejected_after_connect(program, "/hook-raises", 500)


@situation("The session cookie of the response is on the 101")
def session_cookie(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/logs-in"))
        cookies = client.expect_opened().headers.get("set-cookie", [])
        assert ["session" in cookie for cookie in cookies] == [True]
        client.echo(HELLO)


@situation("Another header of the response is on the 101")
def response_header(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/echo"))
        assert client.expect_opened().headers.get("x-request-id") == ["seven"]
        client.echo(HELLO)


@situation("Work after the response does not delay the 101")
def work_after_the_response(program: Program) -> None:
    with opened(program, "/works-on") as client:
        client.echo(HELLO)


@situation("A handler that registers listeners and does not connect: WARNING with its path")
def handler_forgets_to_connect(program: Program) -> None:
    seen = len(program.log())
    response_of(program, "/forgets")
    log = program.wait_for_log("did not call connect()", seen)
    assert "/forgets" in log


@situation("`reject(4003)`: 101, then a close frame with 4003")
def rejected_with_a_code(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/closes-at-once").expect_close(4003, "not yours")


# Listeners


def check_user(program: Program, path: str, user: str) -> None:
    with opened(program, path) as client:
        client.send(HELLO)
        client.expect(text(user))


@situation("A listener sees no context variable of a request")
def empty_context(program: Program) -> None:
    check_user(program, "/context", "nobody")


@situation("`keep_context=True`: a listener sees those of its own request")
def kept_context(program: Program) -> None:
    check_user(program, "/keeps-context", "of the request")


@situation("`around=` is entered around each listener")
def around_listeners(program: Program) -> None:
    check_user(program, "/around", "around")


@situation("`send()` in a listener after the end: no traceback in the log")
def send_after_close(program: Program) -> None:
    seen, before = len(program.log()), len(codes(program, "/sends-when-closed"))
    with opened(program, "/sends-when-closed") as client:
        client.echo(HELLO)
    wait_for(lambda: len(codes(program, "/sends-when-closed")) > before, "the close event")
    check_log_is_clean(program, seen)


# Proxies and origins


@situation("Proxy headers are believed: `ws.request` has the client's address and scheme")
def proxy_headers(program: Program) -> None:
    fields = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    with opened(program, "/client", fields) as client:
        client.expect(text(json.dumps(["203.0.113.7", "https"])))


@situation("The own origin is allowed")
def own_origin(program: Program) -> None:
    with opened(program, "/echo", {"Origin": "http://127.0.0.1"}) as client:
        client.echo(HELLO)


@situation("A foreign origin: 403 that names it, in the response and in the log")
def foreign_origin(program: Program) -> None:
    response, body = response_of(program, "/echo", {"Origin": FOREIGN})
    assert response.status == 403
    program.wait_for_log(FOREIGN)
    assert FOREIGN.encode() in body


@situation("An origin in `allowed_origins` is allowed")
def allowed_origin(program: Program) -> None:
    with opened(program, "/some-origins", {"Origin": FOREIGN}) as client:
        client.echo(HELLO)


@situation('`allowed_origins="*"` allows every origin')
def every_origin(program: Program) -> None:
    with opened(program, "/any-origin", {"Origin": FOREIGN}) as client:
        client.echo(HELLO)


# Handshakes and ends that are out of order


@situation("A handshake without a key: 400")
def bad_handshake(program: Program) -> None:
    response, _ = response_of(program, "/echo", {"Sec-WebSocket-Key": None})
    assert response.status == 400


@situation("More than `max_connections`: 503")
def too_many_connections(program: Program) -> None:
    with opened(program, "/echo") as client:
        assert response_of(program, "/limited")[0].status == 503
        client.echo(HELLO)


@situation("A close frame without a code is answered without one; the event has 1005")
def close_without_code(program: Program) -> None:
    before = len(codes(program, "/closed-without-code"))
    with RawClient(program.address) as client:
        client.open("/closed-without-code").send(close())
        client.expect_close(None)
    wait_for_codes(program, "/closed-without-code", before, 1005)


@situation("A client that leaves before `connect()`: no traceback; 1006 if the handler goes on")
def client_leaves_before_connect(program: Program) -> None:
    seen, before = len(program.log()), len(codes(program, "/client-gone"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake("/client-gone", {"X-Folder": name}))
            wait_for((folder / "entered").exists, "the handler to run")
            client.reset()
        (folder / "left").touch()
        ends = [folder / "connected", folder / "cancelled"]
        wait_for(lambda: any(end.exists() for end in ends), "the handler to end")
        if ends[0].exists():
            wait_for_codes(program, "/client-gone", before, 1006)
    messages(program)
    check_log_is_clean(program, seen)
