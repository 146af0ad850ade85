"""The Python in README.md and docs/*.md, as it stands there.

The programs in the folders of docs/ are run by test_newcomer.py, test_how_to.py and
test_coming_from.py.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import importlib
import inspect
import re
import socket
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import websocket_handler
from websocket_handler import Engine, Reconnecting, Room, Rooms, Settings, WebSocket
from websocket_handler.client import ClientSettings

from ..conftest import ROOT
from ..support.connections import make_websocket
from ..support.documents import blocks_of
from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, binary, text

RUN_ELSEWHERE = ROOT / "docs" / "testing.md"
"""Its `ws` is a client's end; tests/testing/test_document.py runs all of its Python."""

DOCUMENTS = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {RUN_ELSEWHERE})]
PROJECT = "websocket-handler/websocket-handler"
FENCED = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    """A fenced block of Python."""

    document: str
    line: int
    source: str


def snippets() -> Iterator[Snippet]:
    for document in DOCUMENTS:
        prose = document.read_text()
        for found in FENCED.finditer(prose):
            line = prose.count("\n", 0, found.start()) + 2
            yield Snippet(document.name, line, found[1])


SNIPPETS = list(snippets())
every_snippet = pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda one: f"{one[0]}:{one[1]}")


# Names


OURS: dict[str, Any] = {
    "ws": WebSocket,
    "rooms": Rooms,
    "engine": Engine,
    "websocket_handler": websocket_handler,
    "feed": Reconnecting,
}
"""The objects that the documentation calls so."""

THEIRS = {"BaseHTTPRequestHandler", "RequestHandler", "WebSocketProtocol", "LATEST"}
"""Names with a capital that fragments use without an import, and that are not exported."""

SETTINGS = {field.name for field in fields(Settings)}
CLIENT_SETTINGS = {field.name for field in fields(ClientSettings)}
CLIENTS = (websocket_handler.connect, websocket_handler.aconnect, websocket_handler.Reconnecting)


def parse(snippet: Snippet) -> ast.Module:
    """Return the tree of a snippet, which may `await` outside of a function."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(snippet.source, f"{snippet.document}:{snippet.line}", "exec", flags)
    assert isinstance(tree, ast.Module)
    return tree


def object_of(node: ast.expr) -> Any:
    """The object of ours that an expression stands for, None for any other."""
    if isinstance(node, ast.Name):
        exported = node.id in websocket_handler.__all__
        return OURS.get(node.id) or (getattr(websocket_handler, node.id) if exported else None)
    if isinstance(node, ast.Subscript) and object_of(node.value) is Rooms:
        return Room
    if isinstance(node, ast.Attribute) and (owner := object_of(node.value)) is not None:
        return getattr(owner, node.attr, None)
    return None


@every_snippet
def test_snippet_compiles(snippet: Snippet) -> None:
    parse(snippet)


@every_snippet
def test_snippet_imports_names_that_exist(snippet: Snippet) -> None:
    for node in ast.walk(parse(snippet)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("websocket_handler"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@every_snippet
def test_snippet_uses_attributes_that_exist(snippet: Snippet) -> None:
    for node in ast.walk(parse(snippet)):
        if isinstance(node, ast.Attribute) and (owner := object_of(node.value)) is not None:
            assert hasattr(owner, node.attr), ast.unparse(node)


@every_snippet
def test_snippet_passes_keywords_that_exist(snippet: Snippet) -> None:
    for node in ast.walk(parse(snippet)):
        if isinstance(node, ast.Call) and (called := object_of(node.func)) is not None:
            passed = {keyword.arg for keyword in node.keywords}
            parameters = inspect.signature(called).parameters
            takes_settings = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
            known = set(parameters) | (SETTINGS if takes_settings else set())
            known |= CLIENT_SETTINGS if called in CLIENTS else set()
            assert passed <= known, ast.unparse(node)


@every_snippet
def test_snippet_uses_classes_that_exist(snippet: Snippet) -> None:
    tree = parse(snippet)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    known = {*defined, *dir(builtins), *websocket_handler.__all__, *THEIRS}
    used = {node.id for node in names if node.id[0].isupper()}
    assert used <= known, used - known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_attributes_that_exist(document: Path) -> None:
    for name in re.findall(r"\bws\.([a-z_]+)", document.read_text()):
        assert hasattr(WebSocket, name), name


# Fragments


FRAGMENTS = [one for one in SNIPPETS if one.document in ("servers.md", "rooms.md")]


@pytest.mark.parametrize("snippet", FRAGMENTS, ids=lambda one: f"{one[0]}:{one[1]}")
def test_fragment_runs_with_the_objects_that_its_page_names(
    snippet: Snippet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def run() -> None:
        engine = websocket_handler.engine.loop_engine()
        ws = make_websocket(engine)
        ours, theirs = socket.socketpair()
        with theirs, ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            ws.connect()
            ws._take_over(ours)
            names = {
                **{name: getattr(websocket_handler, name) for name in websocket_handler.__all__},
                "__name__": "snippet",
                "LATEST": websocket_handler.SlowConsumers("latest"),
                "asyncio": asyncio,
                "rooms": Rooms(),
                "server": server,
                "websocket_handler": websocket_handler,
                "ws": ws,
            }
            result = eval(compile_fragment(snippet), names)
            if inspect.isawaitable(result):
                await result
            names["rooms"].close()
            ws.abort()
            await ws.await_closed()

    asyncio.run(run())


def compile_fragment(snippet: Snippet) -> Any:
    """Return the code of a snippet, which may `await` outside of a function."""
    name = f"{snippet.document}:{snippet.line}"
    return compile(snippet.source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*/*.md")), ids=lambda one: one.stem)
def test_block_in_a_folder_is_a_file_that_is_run(page: Path) -> None:
    """test_newcomer.py, test_how_to.py and test_coming_from.py run the blocks with a name."""
    for block in blocks_of(page):
        if block.language in ("python", "js", "nginx", "systemd", "dockerfile", "yaml"):
            assert block.file, f"{block}: the line before it must name its file"


def test_links_of_the_readme_name_files_of_the_repository() -> None:
    readme = (ROOT / "README.md").read_text()
    links = re.findall(rf"https://\S*{PROJECT}/(?:blob/)?main/([^\s)]+)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


# Programs


@pytest.fixture(params=["README.md", "index.md"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """The Flask program of a document, served by the command below it."""
    (source,) = [
        snippet.source
        for snippet in SNIPPETS
        if snippet.document == request.param and "from flask" in snippet.source
    ]
    file = tmp_path / "app.py"
    file.write_text(source)
    command = ["-m", "flask", "--app", str(file), "run", "--port", str(free_port())]
    with running(Program(command, r"Running on http://127\.0\.0\.1:(\d+)")) as program:
        wait_for(lambda: is_serving(program), "the snippet to serve")
        yield program


def is_serving(program: Program) -> bool:
    with contextlib.suppress(OSError), RawClient(program.address):
        return True
    return False


def test_program_echoes_and_tells_a_plain_get_to_upgrade(served: Program) -> None:
    with RawClient(served.address) as client:
        client.open("/echo")
        client.echo(text("héllo"), binary(b"\x00\xff"))
    with RawClient(served.address) as client:
        assert client.get("/echo").status == 426
    assert "Traceback" not in served.log(), served.log()
