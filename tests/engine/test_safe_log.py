"""No text from a peer can start a log line of its own or control the operator's terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from websocket_handler import Engine, Headers, Request, Rooms, WebSocket
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import close_payload

from ..support.connections import HANDSHAKE, connect, make_websocket
from ..support.programs import wait_for

FORGED = "x\n2026-01-01 CRITICAL root: forged\x1b[2J\u202e"
KEY = bytes(4)

logger = logging.getLogger("websocket_handler")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All log output of the library, formatted as most programs do."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


def check(log: io.StringIO) -> None:
    lines = log.getvalue().split("\n")
    assert not [line for line in lines if line.startswith("2026-01-01 CRITICAL")], lines
    assert all(line.isprintable() for line in lines), lines
    assert any("forged" in line for line in lines), lines
    assert max(map(len, lines)) < 30_000


def test_close_reason_of_a_peer_stays_on_its_line(engine: Engine, log: io.StringIO) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    peer.sock.sendall(write_frame(Opcode.CLOSE, close_payload(4000, FORGED), key=KEY))
    assert websocket.wait_closed(10)
    wait_for(lambda: "4000" in log.getvalue(), "the close in the log")
    check(log)


def test_exception_with_a_message_of_a_peer_stays_readable(
    engine: Engine, log: io.StringIO
) -> None:
    websocket = make_websocket(engine)

    def fail(message: str) -> None:
        try:
            raise KeyError(message)
        except KeyError as error:
            raise ValueError(message) from error

    websocket.on("message", fail)
    peer = connect(websocket)
    peer.sock.sendall(write_frame(Opcode.TEXT, (FORGED * 20_000).encode(), key=KEY))
    wait_for(lambda: "ValueError: x\\n2026" in log.getvalue(), "the traceback in the log")
    check(log)
    assert "raise ValueError(message) from error\n" in log.getvalue()
    assert "in fail\n" in log.getvalue()


def test_traceback_without_text_of_a_peer_is_left_to_the_formatter(log: io.StringIO) -> None:
    class Shouting(logging.Formatter):
        def formatException(self, ei: object) -> str:  # noqa: N802, ARG002
            return "CUSTOM"

    logger.handlers[-1].setFormatter(Shouting())
    try:
        raise ValueError("ordinary")
    except ValueError:
        logger.exception("a failure")
    assert log.getvalue() == "a failure\nCUSTOM\n"


@pytest.mark.parametrize("field", ["path", "address"])
def test_websocket_repr_is_one_line(engine: Engine, field: str) -> None:
    headers = Headers(HANDSHAKE.items())
    target, address = (f"/{FORGED}", None) if field == "path" else ("/", FORGED)
    request = Request("GET", target, headers, remote_address=address)
    shown = repr(WebSocket(request, engine=engine))
    assert shown.isprintable()
    assert "forged" in shown


def test_subprotocols_and_headers_in_messages_stay_on_their_line(log: io.StringIO) -> None:
    logger.warning("the client offers %s and %s", FORGED, [FORGED])
    logger.warning("failed: %s", ValueError(FORGED))
    check(log)


def test_room_names_in_messages_stay_on_their_line(log: io.StringIO) -> None:
    logger.info("missed messages of %r", Rooms()[FORGED])
    check(log)


def test_message_that_cannot_be_formatted_does_not_raise(log: io.StringIO) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("as the test wants it")

    logger.error("failed: %r", Broken())
    assert "a message that cannot be formatted: failed: %r" in log.getvalue()
