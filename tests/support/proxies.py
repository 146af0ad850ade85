"""The proxy variables of the environment."""

from __future__ import annotations

import os

import pytest


def forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the machine from the environment."""
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
