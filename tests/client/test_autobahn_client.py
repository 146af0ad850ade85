"""The Autobahn test suite (as included in kosoku) as the server of our client, in all styles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, aconnect, connect

from ..support.programs import Program, running

ALL = os.environ.get("AUTOBAHN_CLIENT") == "all"
"""All cases take minutes: `make autobahn-client`. By default those about sizes and speed are left
out, and most of those about compression."""

CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", "10.*"]
CASES += ["6.1.*", "6.2.*", "6.3.*", "6.4.*", "9.1.1", "9.2.1"]
COMPRESSED = [f"13.{number}.1" for number in range(1, 8)]
if ALL:
    CASES, COMPRESSED = [f"{section}.*" for section in (*range(1, 8), 9, 10)], ["12.*", "13.*"]

KOSOKU = [str(Path(sys.executable).with_name("kosoku"))]
COMPRESSION = ["-m", "tests.end_to_end.kosoku_compression"]

GOOD = {"OK", "INFORMATIONAL"}
ANSWERED_BEFORE_A_VIOLATION = [
    *("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
]
"""Cases that send a message and break the protocol at once. It is stricter to answer the message
first, but a thread may get it after the connection has failed: "NON-STRICT"."""
LARGEST = 1 << 25
SECONDS = 600.0 if ALL else 60.0


async def echo_in_loop(url: str, compression: bool, listens: bool) -> None:
    async with aconnect(url, compression=compression, max_message_size=LARGEST) as websocket:
        if listens:
            websocket.on("message", websocket.send)
            await asyncio.wait_for(websocket.await_closed(), SECONDS)
        else:
            async for message in websocket:
                websocket.send(message)
                await websocket.adrain()


def echo_in_thread(url: str, compression: bool, listens: bool) -> None:
    with connect(url, compression=compression, max_message_size=LARGEST) as websocket:
        if listens:
            websocket.on("message", websocket.send)
            assert websocket.wait_closed(SECONDS)
        else:
            for message in websocket:
                websocket.send(message)


def receive_in_thread(url: str, compression: bool, _: bool) -> None:
    with connect(url, compression=compression, max_message_size=LARGEST) as websocket:
        while True:
            websocket.send(websocket.receive(SECONDS))


def in_loop(url: str, compression: bool, listens: bool) -> None:
    asyncio.run(echo_in_loop(url, compression, listens))


Style = tuple[Callable[[str, bool, bool], object], bool]
STYLES: dict[str, Style] = {
    "listener in a thread": (echo_in_thread, True),
    "for": (echo_in_thread, False),
    "receive()": (receive_in_thread, False),
    "listener in the loop": (in_loop, True),
    "async for": (in_loop, False),
}


def run_cases(style: Style, cases: list[str], folder: Path, module: list[str]) -> dict[str, str]:
    """Run the cases. Returns the results of those that failed, by their name."""
    run, listens = style
    compression = module is COMPRESSION
    include = [argument for case in cases for argument in ("-i", case)]
    command = [*module, "-m", "fuzzingserver", "127.0.0.1:0", "-o", str(folder), *include]
    with running(Program(command, r"listening on ws://127\.0\.0\.1:(\d+)")) as program:
        with connect(program.url("/getCaseCount")) as websocket:
            count = int(websocket.receive(timeout=20))
        for number in range(1, count + 1):
            url = program.url(f"/runCase?case={number}&agent=ours")
            with contextlib.suppress(ConnectionClosed):  # many cases break the protocol
                run(url, compression, listens)
        with connect(program.url("/updateReports?agent=ours")) as websocket:
            websocket.wait_closed(SECONDS)
        program.wait(SECONDS)
    (report,) = json.loads((folder / "index.json").read_text()).values()
    assert len(report) == count >= len(cases)
    in_thread = run is not in_loop or not IS_NATIVE
    tolerated = {case: {"NON-STRICT"} for case in ANSWERED_BEFORE_A_VIOLATION if in_thread}
    return {
        case: f"{result['behavior']}, {result['behaviorClose']}"
        for case, result in report.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD | tolerated.get(case, set())
    }


@pytest.mark.timeout(1300 if ALL else 120)
@pytest.mark.parametrize("style", STYLES)
def test_client_passes_the_autobahn_cases(style: str, tmp_path: Path) -> None:
    assert run_cases(STYLES[style], CASES, tmp_path, KOSOKU) == {}


@pytest.mark.timeout(1300 if ALL else 120)
@pytest.mark.parametrize("style", STYLES)
def test_client_passes_the_compression_cases(style: str, tmp_path: Path) -> None:
    assert run_cases(STYLES[style], COMPRESSED, tmp_path, COMPRESSION) == {}
