"""The request as a value: headers, and whether it asks for a WebSocket."""

from __future__ import annotations

from email.parser import Parser
from http.client import HTTPMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import Headers, Request, is_websocket_request


def test_header_names_are_case_insensitive() -> None:
    headers = Headers([("Host", "a"), ("X-One", "1"), ("x-one", "2")])
    assert headers["host"] == "a"
    assert headers["X-ONE"] == "1, 2"
    assert headers.get_all("x-One") == ["1", "2"]
    assert headers.get("none") is None
    assert len(headers) == 2
    assert {name.lower() for name in headers} == {"host", "x-one"}


def test_headers_are_set_added_and_deleted() -> None:
    headers = Headers()
    headers["Set-Cookie"] = "a=1"
    headers.add("set-cookie", "b=2")
    assert headers.fields() == [("Set-Cookie", "a=1"), ("set-cookie", "b=2")]
    headers["SET-COOKIE"] = "c=3"
    assert headers.get_all("Set-Cookie") == ["c=3"]
    del headers["set-cookie"]
    assert "Set-Cookie" not in headers
    with pytest.raises(KeyError):
        del headers["set-cookie"]


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\x0b", "\x7f", "\x1b", "Ā", "a\r\nEvil: 1"])
def test_header_with_a_line_break_is_an_error(bad: str) -> None:
    headers = Headers()
    for name, value in (("X", bad), (bad, "x"), ("X" + bad, "x")):
        with pytest.raises(ValueError, match="header"):
            headers[name] = value
        with pytest.raises(ValueError, match="header"):
            headers.add(name, value)
    assert not headers.fields()


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "ä"])
def test_header_name_must_be_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="invalid header name"):
        Headers().add(name, "x")


def test_request_parts_are_parsed() -> None:
    request = Request(
        "GET",
        "/a%20b?x=1&x=2&y=",
        Headers([("Cookie", "a=1; b=two")]),
        scheme="https",
    )
    assert request.path == "/a%20b"
    assert request.query == {"x": ["1", "2"], "y": [""]}
    assert request.cookies == {"a": "1", "b": "two"}
    assert request.tls


def test_unreadable_cookie_leaves_the_others_readable() -> None:
    assert Request("GET", "/", Headers([("Cookie", "(=\x00")])).cookies == {}


@pytest.mark.parametrize(
    ("method", "upgrade", "is_one"),
    [
        ("GET", "websocket", True),
        ("GET", "WebSocket", True),
        ("GET", "h2c, websocket", True),
        ("GET", "websockets", False),
        ("GET", "h2c", False),
        ("GET", None, False),
        ("POST", "websocket", False),
        ("HEAD", "websocket", False),
    ],
)
def test_websocket_request_is_recognised(method: str, upgrade: str | None, is_one: bool) -> None:
    fields = {"Host": "a"} | ({"Upgrade": upgrade} if upgrade else {})
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    assert is_websocket_request(method, fields) is is_one
    assert is_websocket_request(method, Headers(fields.items())) is is_one
    assert is_websocket_request(method, Parser(_class=HTTPMessage).parsestr(text)) is is_one


FIELDS = st.lists(
    st.tuples(st.sampled_from(["Host", "host", "X-One", "x-one", "X-Two"]), st.sampled_from("ab")),
    max_size=6,
)


@given(fields=FIELDS, default=st.sampled_from([None, "", "c", ["d", "e"]]))
def test_headers_find_the_values_of_all_fields_with_a_name(
    fields: list[tuple[str, str]], default: object
) -> None:
    headers = Headers(fields)
    for name in ("HOST", "x-one", "X-Two"):
        values = [value for other, value in fields if other.lower() == name.lower()]
        assert headers.get_all(name) == values
        headers.get_all(name).append("changed")
        assert headers.get_all(name) == values
        assert headers.get(name, default) == (", ".join(values) if values else default)
        assert (name in headers) == bool(values)
        assert headers.has_none_of(frozenset([name.lower()])) == (not values)
