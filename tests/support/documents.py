"""The fenced blocks of the documentation, in order, with the file that each is to be saved as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent.parent / "docs"
FENCED = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"`([\w./-]+\.\w+|Dockerfile|Caddyfile)`:\s*\Z")
"""The end of the text before a block that is to be saved as a file."""


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int
    language: str
    source: str
    file: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path, root: Path = DOCS) -> Iterator[Block]:
    prose = path.read_text()
    end = 0
    for found in FENCED.finditer(prose):
        name = NAME.search(prose, end, found.start())
        line = prose.count("\n", 0, found.start()) + 2
        page = str(path.relative_to(root))
        yield Block(page, line, found[1], found[2], name[1] if name else None)
        end = found.end()


def pages(*folders: str) -> list[Path]:
    """Return the pages of these folders of docs/."""
    return sorted(page for folder in folders for page in (DOCS / folder).glob("*.md"))
