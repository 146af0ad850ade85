"""The close codes of the public interface."""

from __future__ import annotations

import json

import pytest

from websocket_handler import CloseCode, ConnectionClosed, ProtocolError
from websocket_handler.protocol.check import is_valid_close_code

LOCAL_ONLY = {CloseCode.NO_CODE_RECEIVED, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE}


def test_close_code_equals_and_prints_as_its_number() -> None:
    code: int = CloseCode.GOING_AWAY
    assert code == 1001
    assert CloseCode(1001) is code
    assert {1001: "found"}[code] == "found"
    assert [str(code), f"{code}", f"{code:>6}", json.dumps(code)] == [
        "1001",
        "1001",
        "  1001",
        "1001",
    ]
    assert repr(code) == "<CloseCode.GOING_AWAY: 1001>"


@pytest.mark.parametrize("code", list(CloseCode), ids=lambda code: code.name)
def test_close_code_may_be_sent_unless_it_is_local_only(code: CloseCode) -> None:
    assert is_valid_close_code(code) == (code not in LOCAL_ONLY)


@pytest.mark.parametrize("error", [ConnectionClosed, ProtocolError])
def test_error_code_is_a_plain_int(error: type[ConnectionClosed | ProtocolError]) -> None:
    assert type(error(CloseCode.POLICY_VIOLATION, "reason").code) is int
