"""Rooms of one process in a server with several: the warning, with real servers."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.support.ports import free_port
from tests.support.programs import Program, running, wait_for
from websocket_handler import WebSocketError, connect
from websocket_handler.rooms.workers import find_workers

UVICORN = ["uvicorn", "--ws", "websocket_handler.servers.uvicorn:WebSocketProtocol"]
ASGI = ["-k", "websocket_handler.servers.gunicorn.ASGIWorker"]
THREADS = ["-k", "gthread", "--threads", "4"]

SEVERAL = [
    ["gunicorn", "-w", "2", *THREADS],
    ["gunicorn", "-w", "2", "--preload", *THREADS],
    ["gunicorn", "-w", "2", *ASGI],
    [*UVICORN, "--workers", "2"],
]
SINGLE = [["gunicorn", "-w", "1", *ASGI], ["gunicorn", *THREADS], [*UVICORN, "--reload"]]


def log_after_join(command: list[str]) -> str:
    """Start a server, have a WebSocket join a room, and return the log of its process."""
    port = free_port()
    application = "tests.rooms.worker_program"
    server, *options = command
    if server == "gunicorn":
        is_asgi = ASGI[1] in command
        options += ["-b", f"127.0.0.1:{port}", f"{application}:{'asgi' if is_asgi else 'wsgi'}"]
    else:
        options += ["--port", str(port), f"{application}:asgi"]
    with running(Program(["-m", server, *options], "(?:Listening|running).*:([0-9]+)")) as program:

        def joined() -> str | None:
            try:
                with connect(f"ws://127.0.0.1:{port}/") as ws:
                    assert ws.receive() == "joined"
            except (WebSocketError, OSError):
                return None
            return program.log()

        return str(wait_for(joined, "a WebSocket to join", 30, 0.2))


@pytest.mark.parametrize("command", SEVERAL, ids=" ".join)
def test_rooms_of_one_process_warn_among_several_workers(command: list[str]) -> None:
    log = log_after_join(command)
    assert f"one of 2 workers of {command[0]}" in log
    assert "Rooms('local://NAME')" in log


@pytest.mark.parametrize("command", SINGLE, ids=" ".join)
def test_rooms_of_the_only_worker_do_not_warn(command: list[str]) -> None:
    assert "serves this process only" not in log_after_join(command)


def test_children_of_multiprocessing_are_workers_if_there_are_several() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(find_workers) is None
    with context.Pool(3) as pool:
        found = pool.apply(find_workers)
        assert found is not None
        assert (found.server, found.number) == ("multiprocessing", 3)
