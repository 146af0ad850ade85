"""The programs of docs/coming-from, before and after: the same client gets the same echo."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from websocket_handler import WebSocket, connect

from ..conftest import PEERS
from ..support.commands import serving
from ..support.documents import Block, blocks_of, pages
from ..support.ports import free_port
from ..support.served import load

PORT = "8000"
TIMEOUT_S = 10

Program = tuple[Block, Block]
"""A file, and the command that serves it."""


def programs() -> list[Program]:
    """Return each file that is followed by a command."""
    found = []
    for page in pages("coming-from"):
        blocks = list(blocks_of(page))
        for block, following in itertools.pairwise(blocks):
            if block.file and following.language == "bash":
                found.append((block, following))
    return found


def name_of(program: Program) -> str:
    block, _ = program
    return f"{Path(block.page).stem}-{block.file}"


@pytest.mark.parametrize("program", programs(), ids=name_of)
def test_program_answers_the_same_client(
    program: Program, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    block, command = program
    if block.language == "js":
        request.getfixturevalue("node")
        (tmp_path / "node_modules").symlink_to(PEERS / "node_modules")
    port = free_port()
    (tmp_path / str(block.file)).write_text(block.source.replace(PORT, str(port)))
    is_other_library = str(block.file).startswith("before")
    with serving(command.source.strip().replace(PORT, str(port)), tmp_path, port) as log:
        if "flask-socketio" in block.page:
            talk_in_a_room(connect(f"ws://localhost:{port}/chat"))
        else:
            code = echo(connect(f"ws://localhost:{port}/echo"))
            # flask-sock's server may write an HTTP response before its close frame.
            assert code == 1000 or is_other_library
    # Some versions of websockets log the connection with which the test waits for the server.
    assert is_other_library or "Traceback" not in log(), log()


def echo(ws: WebSocket) -> int | None:
    """Returns the code with which the connection was closed."""
    ws.send("héllo")
    assert ws.receive(TIMEOUT_S) == "héllo"
    ws.close()
    assert ws.wait_closed(TIMEOUT_S)
    return ws.close_code


def talk_in_a_room(ws: WebSocket) -> None:
    ws.send(json.dumps({"event": "join", "room": "lobby"}))
    ws.send(json.dumps({"event": "say", "room": "lobby", "text": "hi"}))
    assert json.loads(ws.receive(TIMEOUT_S)) == {"event": "said", "text": "hi"}
    ws.close()


def test_program_for_flask_socketio_is_one(tmp_path: Path) -> None:
    """It serves Socket.IO clients only, so it is run up to its last line."""
    (page,) = (page for page in pages("coming-from") if page.stem == "flask-socketio")
    block = next(iter(blocks_of(page)))
    assert {"join", "say"} <= set(load(block.source, str(block.file), tmp_path))
