"""URLs of brokers: parsed strictly, and never repeated in an error."""

from __future__ import annotations

import contextlib
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import Rooms
from websocket_handler.brokers.broker import KINDS
from websocket_handler.brokers.broker_url import SCHEMES, Host, checks_host_name, parse_broker_url

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT, st.sampled_from(["redis", "rediss", "redis+cluster", "nats", "tls"]))
def test_user_and_password_are_percent_decoded(user: str, password: str, scheme: str) -> None:
    url = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@host"
    parsed = parse_broker_url(url)
    assert (parsed.user, parsed.password) == (user, password)
    assert parsed.hosts == (Host("host", SCHEMES[scheme].port),)
    assert str(parsed) == f"{scheme}://***@host:{SCHEMES[scheme].port}"


@given(st.text(), st.sampled_from(sorted(SCHEMES)))
def test_any_text_is_a_url_or_a_value_error(text: str, scheme: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_broker_url(f"{scheme}://{text}").scheme == scheme


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel", "nats"])
@pytest.mark.parametrize("special", ["/", "?", "#", "/?#", ":", "@,", "?db=", "/0?", "[", "%zz/"])
def test_error_does_not_repeat_a_password_with_special_characters(
    scheme: str, special: str
) -> None:
    for password in (f"hunter{special}secret", f"6379{special}secret", f"{special}secret"):
        for url in (f"{scheme}://user:{password}@host", f"{scheme}://:{password}@host/0"):
            try:
                parsed = parse_broker_url(url)
            except ValueError as error:
                shown = "".join(traceback.format_exception(error))
            else:
                shown = f"{parsed} {parsed!r}"
                assert parsed.password == password
                assert parsed.hosts == (Host("host", SCHEMES[scheme].port),)
            assert "hunter" not in shown
            assert "secret" not in shown


@pytest.mark.parametrize("url", ["reds://user:secret@host", "user:secret@host", "://:secret@h"])
def test_unknown_scheme_is_an_error_without_the_url(url: str) -> None:
    with pytest.raises(ValueError, match="URL of a broker must begin with") as error:
        parse_broker_url(url)
    assert "secret" not in str(error.value)


def test_empty_broker_url_is_an_error() -> None:
    with pytest.raises(ValueError, match="URL of a broker must begin with"):
        Rooms("")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://host?ssl_ca_certs=x", "ssl_ca_certs needs a scheme with TLS"),
        ("nats://host?ssl_certfile=x", "ssl_certfile needs a scheme with TLS"),
        ("rediss://host?ssl_ca_cert=x", "ssl_ca_cert is not supported"),
        ("redis://host?ssl=true", "ssl is not supported"),
        ("nats://host?tls=1", "tls is not supported"),
        ("nats://host?db=1", "db is not supported"),
        ("nats://host/0x", "it has a path"),
        ("nats://host/1", "no databases"),
        ("redis+cluster://host/1", "no databases"),
        ("redis://host/one", "the database must be a number"),
        ("redis://host?db=-1", "the database must be a number"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs must be required or none"),
        ("rediss://host?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("redis+sentinel://host", "name of the service"),
        ("redis://host:0", "a port must be a number"),
        ("redis://host:99999", "a port must be a number"),
        ("redis://a,b", "one host"),
        ("nats://u:p@a,u:p@b", "before the first host"),
        ("unix://host/path", "no host"),
    ],
)
def test_unsupported_url_part_is_named_in_the_error(url: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_broker_url(url)


def test_options_of_another_client_are_ignored() -> None:
    url = parse_broker_url("redis://host/2?socket_timeout=1&protocol=3&decode_responses=true")
    assert (url.database, url.options) == (2, {})


def test_every_part_of_the_url_is_parsed() -> None:
    url = parse_broker_url("rediss+sentinel://u:p@a,[::1]:7/main/3?ssl_cert_reqs=none")
    assert url.hosts == (Host("a", 26379), Host("::1", 7))
    assert (url.service, url.database, url.is_tls) == ("main", 3, True)
    assert not checks_host_name(url)
    assert str(url) == "rediss+sentinel://***@a:26379,[::1]:7/main/3"
    assert checks_host_name(parse_broker_url("tls://host"))
    assert parse_broker_url("unix:///a/b?db=4&password=p").password == "p"


def test_every_url_scheme_has_a_broker() -> None:
    assert SCHEMES.keys() == KINDS.keys()
