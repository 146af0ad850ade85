"""The texts of the errors and warnings of the library, found in its source.

A placeholder in a text is written "…".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent.parent.parent / "src/websocket_handler"
LEVELS = {"warning", "error", "exception"}
REFUSALS = {"http_refusal": 1, "Violation": 1, "_refusal": 1, "_invalid": 1}
"""Functions that take the reason of a refusal, and the position of the argument."""

WORD = re.compile("[A-Za-z]{2,}")
PLACEHOLDER = re.compile(r"%(?:\([a-z_]+\))?[-+ 0]*[\d.]*[a-z]")
NOT_FOR_USERS = {"demo", "__main__.py"}


class Text(NamedTuple):
    """A text and the place where it is raised or logged."""

    place: str
    text: str


def error_texts() -> Iterator[Text]:
    """Yield each text of an exception, of a log record from WARNING on, and of a refusal."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE)
        if name.parts[0] in NOT_FOR_USERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for expression in _texts_in(node):
                for text in _written(expression):
                    if len(WORD.findall(text)) > 1:
                        yield Text(f"{name}:{expression.lineno}", text)


def _texts_in(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        if _name_of(node.exc) not in REFUSALS:
            yield from (
                one for one in node.exc.args[:1] if _name_of(node.exc) != "ConnectionClosed"
            )
    elif isinstance(node, ast.Call):
        called = _name_of(node)
        if called in REFUSALS:
            yield from node.args[REFUSALS[called] : REFUSALS[called] + 1]
        elif called in LEVELS and _is_of_logger(node):
            yield from node.args[:1]
    elif isinstance(node, ast.FunctionDef) and node.name.endswith(("_error", "_versions")):
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and inner.value is not None:
                yield inner.value


def _is_of_logger(call: ast.Call) -> bool:
    owner = ast.unparse(call.func).split(".")[:-1]
    return owner[-1:] in (["logger"], ["log"])


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def _written(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may have; nothing if it is not a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield PLACEHOLDER.sub("…", node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        yield "".join(parts)
    elif isinstance(node, ast.IfExp):
        yield from _written(node.body)
        yield from _written(node.orelse)
