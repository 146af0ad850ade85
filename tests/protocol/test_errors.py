"""Errors as values: copies of them, as a process pool makes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from websocket_handler.errors import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionMoved,
    HandshakeFailed,
    ProtocolError,
    ProxyFailed,
    TlsFailed,
)

ERRORS = [
    ConnectionClosed(1009, "message is too big", "our max_message_size=1 MiB"),
    ConnectionFailed("cannot connect", 111),
    TlsFailed("no TLS"),
    ConnectionMoved(),
    HandshakeFailed("refused", 403, [("X-Why", "login")], b"log in"),
    ProxyFailed("refused", 407),
    ProtocolError(1002, "reserved opcode"),
]


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_copy_of_an_error_is_equal(
    error: BaseException, copied: Callable[[BaseException], BaseException]
) -> None:
    other = copied(error)
    assert (type(other), str(other), other.args) == (type(error), str(error), error.args)
    assert vars(other) == vars(error)
    assert getattr(other, "errno", None) == getattr(error, "errno", None)
