"""Settings with options: each handshake asks for them."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from websocket_handler import Settings
from websocket_handler.settings import with_options


def test_equal_options_return_one_object() -> None:
    server = Settings(high_water=1000)
    options = {"max_message_size": 77, "allowed_origins": ("https://a.example",)}
    chosen = with_options(server, options)
    assert (chosen.high_water, chosen.max_message_size) == (1000, 77)
    assert with_options(Settings(high_water=1000), dict(options)) is chosen
    assert with_options(server, {**options, "max_message_size": 78}) is not chosen


def test_options_that_are_not_hashable_are_applied() -> None:
    chosen = with_options(None, {"allowed_origins": ["https://a.example"]})
    assert chosen.allowed_origins == frozenset({"https://a.example"})


def test_options_of_equal_values_keep_their_types() -> None:
    assert with_options(None, {"compression": True}).compression
    with pytest.raises(TypeError, match="compression"):
        with_options(None, {"compression": 1})
    with pytest.raises(TypeError, match="did you mean 'compression'"):
        with_options(None, {"compresion": True})


@pytest.mark.parametrize("place", ["options", "settings"])
def test_options_with_around_are_not_kept(place: str) -> None:
    class Application:
        @contextlib.contextmanager
        def context(self) -> Iterator[None]:
            yield

    application = Application()
    if place == "options":
        with_options(None, {"around": application.context})
    else:
        with_options(Settings(around=application.context), {"ping_interval": 7})
    gone = weakref.ref(application)
    del application
    gc.collect()
    assert gone() is None
