"""`cors_allowed_origins`, for polls and WebSockets: the responses are those of python-socketio."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from ..support.programs import TIMEOUT_S, Program
from ..support.raw_client import RawClient
from .engineio_client import PATH
from .servers import BOTH, serving

ALLOWED, OTHER = "https://allowed.example", "https://other.example"
EVERY = {"allowed", "other", "same", "none"}
SETTINGS: dict[str, tuple[Any, set[str]]] = {
    "same origin": (None, {"same", "none"}),
    "one": (ALLOWED, {"allowed", "none"}),
    "list": (["https://first.example", ALLOWED], {"allowed", "none"}),
    "any": ("*", EVERY),
    "unchecked": ([], EVERY),
}
"""`cors_allowed_origins`, and the requests that it accepts; "none" has no `Origin`."""


class Answer(NamedTuple):
    """The parts of the response to a poll that the setting decides about."""

    status: int
    cors: list[tuple[str, str]]


def origins(program: Program) -> dict[str, dict[str, str]]:
    """Return the header of each origin."""
    same = program.url("", "http")
    chosen = {"allowed": ALLOWED, "other": OTHER, "same": same}
    return {"none": {}, **{name: {"Origin": origin} for name, origin in chosen.items()}}


def poll(program: Program, headers: dict[str, str], method: str) -> Answer:
    http = HTTPConnection(*program.address, timeout=TIMEOUT_S)
    http.request(method, f"{PATH}polling", headers=headers)
    response = http.getresponse()
    response.read()
    http.close()
    fields = sorted((name.lower(), text) for name, text in response.getheaders())
    found = [(name, text) for name, text in fields if name.startswith("access-control")]
    port = str(program.port)
    return Answer(response.status, [(name, text.replace(port, "PORT")) for name, text in found])


def status_of_websocket(program: Program, headers: dict[str, str]) -> int:
    with RawClient(program.address) as client:
        host = f"127.0.0.1:{program.port}"
        client.sock.sendall(client.handshake(f"{PATH}websocket", {"Host": host, **headers}))
        return client.read_response().status


def polls(program: Program) -> dict[str, Answer]:
    """Return the answers to a poll and to a preflight request from each origin."""
    return {
        f"{method} {name}": poll(program, headers, method)
        for name, headers in origins(program).items()
        for method in ("GET", "OPTIONS")
    }


def allow(program: Program, setting: str) -> None:
    program.get(f"/allow?origins={quote(json.dumps(SETTINGS[setting][0]))}")


@pytest.mark.parametrize("server", BOTH)
def test_origins_are_accepted_as_by_the_library_alone(server: str) -> None:
    with serving(server) as program, serving(server, serve="none") as alone:
        for setting, (_, accepted) in SETTINGS.items():
            allow(program, setting)
            allow(alone, setting)
            found = polls(program)
            assert found == polls(alone), setting
            for name, headers in origins(program).items():
                answers = (found[f"GET {name}"].status, status_of_websocket(program, headers))
                assert answers == ((200, 101) if name in accepted else (400, 400)), (setting, name)
