"""The reference in docs/ is complete: exported names, settings, close codes, events, errors."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_type_hints

import pytest

import websocket_handler
from websocket_handler import ALL_VERSIONS, CloseCode, Settings
from websocket_handler.connection.listeners import EVENTS
from websocket_handler.rooms import rooms

from ..support.documents import DOCS
from ..support.error_texts import WORD, error_texts

REFERENCE = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))


@pytest.mark.parametrize("name", websocket_handler.__all__)
def test_exported_name_has_its_place(name: str) -> None:
    directive = r"^\.\. (?:auto\w+|py:\w+):: "
    assert re.search(directive + re.escape(name) + "$", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_setting_has_its_row(setting: str) -> None:
    assert rows("settings", setting) == 1


def test_settings_page_lists_no_other_setting() -> None:
    listed = re.findall(r"^\| `(\w+)`", (DOCS / "reference/settings.md").read_text(), re.MULTILINE)
    assert listed == [name for name in listed if name in get_type_hints(Settings)]


@pytest.mark.parametrize("event", EVENTS)
def test_event_has_its_row(event: str) -> None:
    assert rows("events", event) == 1


@pytest.mark.parametrize("event", rooms.EVENTS)
def test_event_of_rooms_has_its_row(event: str) -> None:
    assert rows("events", event) == 1


@pytest.mark.parametrize("code", CloseCode)
def test_close_code_has_its_row(code: CloseCode) -> None:
    page = (DOCS / "reference/close-codes.md").read_text()
    assert f"| {code} | `{code.name}` |" in page


def test_version_has_its_row() -> None:
    page = (DOCS / "reference/versions.md").read_text()
    for version in ALL_VERSIONS:
        prefix, _, number = version.name.rpartition("-")
        assert version.name in page or f"-{number}" in page, version
        assert prefix in page


def rows(page: str, name: str) -> int:
    text = (DOCS / f"reference/{page}.md").read_text()
    return len(re.findall(rf"^\| `{name}` \|", text, re.MULTILINE))


# Errors


def entries() -> list[re.Pattern[str]]:
    """The texts in docs/reference/errors.md; "…" stands for anything."""
    spans = re.findall(r"`([^`]+)`", (DOCS / "reference/errors.md").read_text())
    return [
        re.compile(".*".join(map(re.escape, span.split("…"))), re.DOTALL)
        for span in spans
        if len(WORD.findall(span)) > 1
    ]


def test_each_error_and_warning_is_explained() -> None:
    known = entries()
    missing = [
        f"{place}: {text}"
        for place, text in error_texts()
        if not any(entry.fullmatch(text) for entry in known)
    ]
    assert not missing, "docs/reference/errors.md lacks:\n" + "\n".join(missing)
