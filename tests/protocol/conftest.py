from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .frames import DECODERS, INFLATING, Codec, Limits


@pytest.fixture(params=list(DECODERS))
def new_decoder(request: pytest.FixtureRequest) -> Callable[..., Codec]:
    """Creates decoders of a server (or a client), in Python and native in turn."""
    make = DECODERS[request.param]

    def new(expect_masked: bool = True, **limits: Any) -> Codec:
        return make(Limits(**limits), expect_masked)

    return new


@pytest.fixture(params=list(INFLATING))
def new_inflating_decoder(request: pytest.FixtureRequest) -> Callable[..., Codec]:
    """The same, for connections with permessage-deflate."""
    make = INFLATING[request.param]

    def new(takeover: bool = True, window_bits: int = 15, **limits: Any) -> Codec:
        return make(Limits(**limits), True, window_bits, takeover)

    return new
