"""The cookies of a client, and those of other test clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any


class Cookies(MutableMapping[str, str]):
    """The cookies of a client by name.

    Like test clients of frameworks, it ignores Domain, Secure and SameSite of a cookie;
    the Path and the expiry count.
    """

    def __init__(self, source: object = None) -> None:
        """Copy the cookies of `source`: see `cookies_of`."""
        self._values: dict[tuple[str, str], str] = {}  # by name and path
        self.update(cookies_of(source))

    def __getitem__(self, name: str) -> str:
        found = [key for key in self._values if key[0] == name]
        if not found:
            raise KeyError(name)
        return self._values[found[-1]]

    def __setitem__(self, name: str, value: str) -> None:
        self._values[name, "/"] = value

    def __delitem__(self, name: str) -> None:
        found = [key for key in self._values if key[0] == name]
        if not found:
            raise KeyError(name)
        for key in found:
            del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._values))

    def __len__(self) -> int:
        return len({name for name, _ in self._values})

    def __repr__(self) -> str:
        return f"Cookies({dict(self)!r})"

    def header(self, path: str, others: Mapping[str, str]) -> str:
        """Return the Cookie header for a request of `path`; `others` override these cookies."""
        own = {name: value for (name, scope), value in self._values.items() if covers(scope, path)}
        return "; ".join(f"{name}={value}" for name, value in {**own, **others}.items())

    def store(self, set_cookies: Iterable[str]) -> None:
        """Follow the Set-Cookie headers of a response."""
        for field in set_cookies:
            pair, *rest = field.split(";")
            name, _, value = pair.strip().partition("=")
            attributes = {
                attribute.strip().lower(): text.strip()
                for attribute, _, text in (part.partition("=") for part in rest)
            }
            path = attributes.get("path", "/")
            key = (name, path if path.startswith("/") else "/")
            if is_expired(attributes):
                self._values.pop(key, None)
            else:
                self._values[key] = value


def covers(scope: str, path: str) -> bool:
    """Whether a cookie with the Path `scope` is sent to `path` (RFC 6265 section 5.1.4)."""
    return path == scope or path.startswith(scope.rstrip("/") + "/")


def is_expired(attributes: Mapping[str, str]) -> bool:
    with contextlib.suppress(KeyError, ValueError):
        return int(attributes["max-age"]) <= 0
    with contextlib.suppress(KeyError, ValueError, TypeError):
        expires = parsedate_to_datetime(attributes["expires"])
        return expires.replace(tzinfo=timezone.utc) <= datetime.now(timezone.utc)
    return False


def cookies_of(source: Any) -> dict[str, str]:
    """Return the cookies of `source` by name.

    `source` is a mapping of names to values, Flask's `app.test_client()`, Django's `Client`, or
    another client with a mapping `cookies`, such as those of Starlette and httpx. Raises
    `TypeError` for anything else.
    """
    if source is None:
        return {}
    jar = source if isinstance(source, Mapping) else getattr(source, "cookies", None)
    if jar is None:  # werkzeug has no public list of its cookies
        jar = getattr(source, "_cookies", None)
    if not isinstance(jar, Mapping):
        raise TypeError(f"{source!r} is neither a mapping of cookies nor a client that has one")
    return dict(_pair(name, cookie) for name, cookie in jar.items())


def _pair(name: Any, cookie: Any) -> tuple[str, str]:
    """Return name and value of an entry: a str, a `http.cookies.Morsel` or a werkzeug `Cookie`."""
    if isinstance(cookie, str):
        return name, cookie
    return cookie.key, getattr(cookie, "coded_value", cookie.value)
