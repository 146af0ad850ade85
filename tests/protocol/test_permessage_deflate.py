"""Negotiating permessage-deflate (RFC 7692 section 7.1): offers, answers, confirmations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import Headers, Request
from websocket_handler.errors import HandshakeFailed
from websocket_handler.protocol import handshake
from websocket_handler.protocol.client import Address, ClientHandshake
from websocket_handler.protocol.permessage_deflate import (
    MAX_KNOWN_OFFER_CHARACTERS,
    Compression,
    NegotiatedParameters,
    accept,
    confirm,
    endpoint_parameters,
    offer,
    parse,
)
from websocket_handler.protocol.versions import ALL_VERSIONS, by_name
from websocket_handler.protocol.versions.accept import accept_value

LIBERAL = Compression(server_no_context_takeover=False, client_no_context_takeover=False)
SMALL = Compression(server_max_window_bits=10, client_max_window_bits=11)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        # The examples of section 7.1.3; a server without settings of its own grants them unchanged
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=8",
        ),
        # A value may be quoted (RFC 6455 section 9.1)
        (
            'permessage-deflate; server_max_window_bits="8"',
            "permessage-deflate; server_max_window_bits=8",
        ),
        (
            'permessage-deflate ;server_max_window_bits="1\\0"',
            "permessage-deflate; server_max_window_bits=10",
        ),
        # The first valid offer is accepted
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            "permessage-deflate; server_max_window_bits=9",
        ),
        ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
    ],
)
def test_valid_offer_is_granted(offered: str, answer: str) -> None:
    assert str(accept([offered], LIBERAL)) == answer


@pytest.mark.parametrize(
    "offered",
    [
        "",
        " , ",
        "x-webkit-deflate-frame",
        "x-webkit-deflate-frame; no_context_takeover",
        "deflate-stream",
        "Permessage-Deflate",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_max_window_bits",
        *(f"permessage-deflate; server_max_window_bits={bits}" for bits in (0, 7, 16, "08", "1e1")),
        *(f"permessage-deflate; client_max_window_bits={bits}" for bits in (-8, 7, 16, "015")),
        'permessage-deflate; server_max_window_bits=""',
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; server_max_window_bits=\u0661\u0660",
        "permessage-deflate; =10",
        "permessage-deflate;",
        "permessage deflate",
    ],
)
def test_invalid_offer_is_declined(offered: str) -> None:
    assert accept([offered], LIBERAL) is None


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ("permessage-deflate", NegotiatedParameters(True, True, 10, None)),
        ("permessage-deflate; client_max_window_bits", NegotiatedParameters(True, True, 10, 11)),
        ("permessage-deflate; client_max_window_bits=9", NegotiatedParameters(True, True, 10, 9)),
        ("permessage-deflate; client_max_window_bits=12", NegotiatedParameters(True, True, 10, 11)),
        ("permessage-deflate; server_max_window_bits=9", NegotiatedParameters(True, True, 9, None)),
        (
            "permessage-deflate; server_max_window_bits=12",
            NegotiatedParameters(True, True, 10, None),
        ),
    ],
)
def test_server_settings_limit_the_granted_parameters(
    offered: str, answer: NegotiatedParameters
) -> None:
    assert accept([offered], SMALL) == answer


def test_offers_in_several_header_lines_are_read() -> None:
    assert accept(["mux", "permessage-deflate"], LIBERAL) == NegotiatedParameters()


@pytest.mark.parametrize(
    ("compression", "offered"),
    [
        (LIBERAL, "permessage-deflate; client_max_window_bits"),
        (
            Compression(),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
                "client_max_window_bits"
            ),
        ),
        (
            Compression(server_no_context_takeover=False, server_max_window_bits=9),
            (
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=9; "
                "client_max_window_bits"
            ),
        ),
        (
            Compression(client_no_context_takeover=False, client_max_window_bits=8),
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=8",
        ),
    ],
)
def test_client_offer_matches_its_settings(compression: Compression, offered: str) -> None:
    assert offer(compression) == offered


SETTINGS = st.builds(
    Compression,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(8, 15),
    client_max_window_bits=st.integers(8, 15),
)


@given(client=SETTINGS, server=SETTINGS)
def test_both_ends_negotiate_the_same_parameters(client: Compression, server: Compression) -> None:
    negotiated = accept([offer(client)], server)
    assert negotiated is not None
    assert confirm([str(negotiated)], client) == negotiated
    ours, theirs = (
        endpoint_parameters(negotiated, server, False),
        endpoint_parameters(negotiated, client, True),
    )
    assert ours.deflate_window_bits == theirs.inflate_window_bits
    assert ours.deflate_window_bits <= min(client.server_max_window_bits, 15)
    assert ours.deflate_takeover == theirs.inflate_takeover
    assert theirs.deflate_window_bits <= ours.inflate_window_bits
    assert theirs.deflate_window_bits <= client.client_max_window_bits
    assert theirs.deflate_takeover <= ours.inflate_takeover


@pytest.mark.parametrize(
    ("response", "compression", "reason"),
    [
        ("x-other", LIBERAL, "not offered"),
        ("permessage-deflate, permessage-deflate", LIBERAL, "not offered"),
        ("permessage-deflate, x-other", LIBERAL, "not offered"),
        ("permessage-deflate; unknown", LIBERAL, "no parameter 'unknown'"),
        ("permessage-deflate; client_max_window_bits", LIBERAL, "from 8 to 15"),
        ("permessage-deflate; server_max_window_bits", LIBERAL, "from 8 to 15"),
        ("permessage-deflate; server_max_window_bits=16", LIBERAL, "from 8 to 15"),
        ("permessage-deflate; server_no_context_takeover=1", LIBERAL, "has no value"),
        ("permessage-deflate; a; a", LIBERAL, "twice"),
        ("permessage-deflate; server_max_window_bits=9=9", LIBERAL, "cannot be the parameter"),
        ("permessage-deflate; \x00", LIBERAL, "cannot be the parameter"),
        ("perm\xe9ssage", LIBERAL, "cannot be the name"),
        ("permessage-deflate", Compression(), "does not agree to server_no_context_takeover"),
        (
            "permessage-deflate; server_no_context_takeover",
            SMALL,
            "does not agree to server_max_window_bits",
        ),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            SMALL,
            "does not agree to server_max_window_bits",
        ),
        (
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; "
                "client_max_window_bits=12"
            ),
            SMALL,
            "more than was offered",
        ),
    ],
)
def test_response_that_does_not_match_the_offer_is_an_error(
    response: str, compression: Compression, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        confirm([response], compression)


def test_server_may_decline_the_offer() -> None:
    assert confirm([], LIBERAL) is None
    assert confirm([""], LIBERAL) is None


@given(st.lists(st.text(max_size=60), max_size=3))
def test_arbitrary_header_never_crashes_a_server(values: list[str]) -> None:
    accept(values, LIBERAL)


@given(st.text(alphabet='a=;," \\\t1', max_size=30))
def test_parsed_extensions_consist_of_tokens(value: str) -> None:
    try:
        found = parse([value])
    except ValueError:
        return
    for name, parameters in found:
        assert name.isalnum()
        assert all(key.isalnum() for key in parameters or ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server_max_window_bits", 7),
        ("client_max_window_bits", 16),
        ("level", 0),
        ("memory_level", 10),
        ("threshold", -1),
    ],
)
def test_setting_out_of_range_is_an_error(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} cannot be {value}"):
        Compression(**{field: value})


# In the handshakes


def answer(version: str, offered: str, **others: Any) -> handshake.Accepted:
    headers = {**HEADERS, "Sec-WebSocket-Version": version, "Sec-WebSocket-Extensions": offered}
    request = Request("GET", "/", Headers(headers.items()))
    outcome = handshake.answer(request, ALL_VERSIONS, **others)
    assert isinstance(outcome, handshake.Accepted)
    return outcome


@pytest.mark.parametrize("version", ["13", "8", "7"])
def test_server_response_confirms_an_offer(version: str) -> None:
    accepted = answer(version, "permessage-deflate", compression=LIBERAL)
    assert accepted.negotiated == NegotiatedParameters()
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in accepted.response


@pytest.mark.parametrize(
    ("version", "offered", "others"),
    [
        ("13", "permessage-deflate", {}),
        ("13", "permessage-deflate", {"compression": False}),
        ("13", "x-webkit-deflate-frame", {"compression": LIBERAL}),
        ("8", "deflate-stream", {"compression": LIBERAL}),
        ("6", "permessage-deflate", {"compression": LIBERAL}),
    ],
)
def test_server_declines_by_omitting_the_header(version: str, offered: str, others: Any) -> None:
    accepted = answer(version, offered, **others)
    assert accepted.negotiated is None
    assert b"Extensions" not in accepted.response


def test_application_headers_stay_in_the_response() -> None:
    extra = Headers([("Set-Cookie", "a=1")])
    accepted = answer("13", "permessage-deflate", compression=LIBERAL, extra=extra)
    assert b"\r\nSet-Cookie: a=1\r\n" in accepted.response
    assert extra.fields() == [("Set-Cookie", "a=1")]


def new_client(version: str = "RFC 6455", **others: Any) -> ClientHandshake:
    return ClientHandshake(Address.parse("ws://localhost/"), by_name(version), **others)


def response_to(client: ClientHandshake, extensions: str) -> bytes:
    lines = client.request.decode().split("\r\n")
    key = next(line for line in lines if line.startswith("Sec-WebSocket-Key")).partition(": ")[2]
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key)}\r\n"
        f"Sec-WebSocket-Extensions: {extensions}\r\n\r\n"
    ).encode()


def test_client_offers_and_accepts_the_answer() -> None:
    client = new_client(compression=LIBERAL)
    line = b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    assert line in client.request
    established = client.feed(response_to(client, "permessage-deflate; client_no_context_takeover"))
    assert established is not None
    assert established.negotiated == NegotiatedParameters(client_no_context_takeover=True)


def test_client_accepts_that_its_offer_is_declined() -> None:
    client = new_client(compression=LIBERAL)
    established = client.feed(response_to(client, ""))
    assert established is not None
    assert established.negotiated is None


@pytest.mark.parametrize("compression", [False, LIBERAL])
def test_client_fails_on_an_unoffered_extension(compression: Compression | bool) -> None:
    client = new_client(compression=compression)
    with pytest.raises(HandshakeFailed, match="not offered"):
        client.feed(response_to(client, "x-webkit-deflate-frame"))


@pytest.mark.parametrize("version", ["hybi-06", "hixie-76"])
def test_client_of_an_older_version_offers_nothing(version: str) -> None:
    assert b"deflate" not in new_client(version, compression=LIBERAL).request


def test_client_repeats_its_offer_without_a_flag() -> None:
    client = new_client(compression=Compression())
    second = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
    first = second.replace("; ", "; server_no_context_takeover; ", 1)
    assert f"\r\nSec-WebSocket-Extensions: {first}, {second}\r\n".encode() in client.request
    established = client.feed(response_to(client, "permessage-deflate"))
    assert established is not None
    assert established.negotiated == NegotiatedParameters()
    other = new_client(compression=Compression())
    with pytest.raises(HandshakeFailed, match="no parameter"):
        other.feed(response_to(other, "permessage-deflate; unheard_of"))


@pytest.mark.parametrize("padding", ["", " " * MAX_KNOWN_OFFER_CHARACTERS])
def test_answer_to_a_known_offer_follows_the_parameters_of_the_server(padding: str) -> None:
    values = [f"permessage-deflate;{padding} client_max_window_bits"]
    for _ in range(2):
        for bits in (15, 10, 9):
            agreed = accept(values, Compression(client_max_window_bits=bits))
            assert agreed is not None
            assert agreed.client_max_window_bits == (None if bits == 15 else bits)
        assert accept([*values, "?"], Compression()) is None
