"""The cookies of the test client, and those of the frameworks' own test clients."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import pytest

from websocket_handler.testing import Client, HandshakeFailed
from websocket_handler.testing.cookies import Cookies

from ..support.programs import TIMEOUT_S
from .applications import with_flask


def test_session_of_a_flask_test_client_is_handed_over() -> None:
    app = with_flask.make_app()
    logged_in = app.test_client()
    logged_in.post("/login", data={"user": "alice"})
    client = Client(app, cookies=logged_in, timeout=TIMEOUT_S)
    with client, client.connect("/greeting") as ws:
        assert ws.receive() == "hello alice"


def test_session_transaction_of_flask_is_handed_over() -> None:
    app = with_flask.make_app()
    prepared = app.test_client()
    with prepared.session_transaction() as session:
        session["user"] = "bob"
    with Client(app, timeout=TIMEOUT_S) as client:
        with client.connect("/greeting", cookies=prepared) as ws:
            assert ws.receive() == "hello bob"
        with pytest.raises(HandshakeFailed):
            client.connect("/greeting")


class OtherClient:
    """As Django's, Starlette's and httpx's clients."""

    def __init__(self, cookies: Any) -> None:
        self.cookies = cookies


@pytest.mark.parametrize(
    "source",
    [
        {"name": "value"},
        SimpleCookie("name=value"),
        OtherClient({"name": "value"}),
        OtherClient(SimpleCookie("name=value")),
        Cookies({"name": "value"}),
    ],
)
def test_cookies_of_a_source(source: object) -> None:
    assert dict(Cookies(source)) == {"name": "value"}


def test_response_changes_the_cookies() -> None:
    cookies = Cookies({"a": "1", "b": "2", "c": "3"})
    cookies.store(
        [
            "a=new; Path=/; HttpOnly; Secure; SameSite=Lax",
            "b=; Max-Age=0",
            "c=; expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
            'd="quoted value"',
            "e=below; Path=/below",
        ]
    )
    assert cookies.header("/", {}) == 'a=new; d="quoted value"'
    assert cookies.header("/below/it", {"a": "given"}) == 'a=given; d="quoted value"; e=below'
    assert cookies.header("/belowish", {}) == cookies.header("/", {})


def test_cookies_can_be_changed_as_a_mapping() -> None:
    cookies = Cookies()
    cookies["a"] = "1"
    cookies.store(["a=2; Path=/below"])
    assert (len(cookies), cookies["a"]) == (1, "2")
    del cookies["a"]
    with pytest.raises(KeyError):
        cookies["a"]
