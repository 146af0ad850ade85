"""The proxy of a connection: its URL, and the choice from the environment."""

from __future__ import annotations

from typing import NamedTuple

from ..protocol.client import (
    Address,
    basic_authorization,
    host_and_port,
    split_url,
    user_and_password,
)

DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}

IN_ENVIRONMENT = {True: ("wss", "https", "socks", "all"), False: ("ws", "http", "socks", "all")}
"""The names before `_PROXY` in the environment, for wss: and for ws: URLs; the first one counts."""


class ProxyUrl(NamedTuple):
    """The parts of a proxy's URL."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = None
    authorization: str | None = None
    """The value of a Proxy-Authorization header, None without user and password."""

    @classmethod
    def parse(cls, url: str) -> ProxyUrl:
        """Parse `url`. Raises `ValueError` unless it is the URL of a proxy."""
        parts = split_url(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            known = ", ".join(f"{scheme}:" for scheme in DEFAULT_PORTS)
            raise ValueError(f"the URL of a proxy begins with one of {known} and has a host")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("the URL of a proxy has no path, query or fragment")
        host, port = host_and_port(parts, DEFAULT_PORTS[parts.scheme])
        user, password = user_and_password(parts) or (None, None)
        return cls(parts.scheme, host, port, user, password, basic_authorization(parts))

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(address: Address, proxy: str | bool | None) -> ProxyUrl | None:
    """Return the proxy for `address`: `proxy`, or with True the one of the environment.

    Raises `ValueError` for an invalid URL.
    """
    if isinstance(proxy, str):
        return ProxyUrl.parse(proxy)
    if not proxy:
        return None
    from urllib.request import getproxies, proxy_bypass  # imports the HTTP client of Python

    proxies = getproxies()
    names = [name for name in IN_ENVIRONMENT[address.secure] if proxies.get(name)]
    if not names or proxy_bypass(f"{address.host}:{address.port}"):
        return None
    url = proxies[names[0]]
    if names[0] == "socks":  # some systems report it with http:
        url = url.replace("http://", "socks5h://", 1)
    try:
        return ProxyUrl.parse(url if "://" in url else f"http://{url}")
    except ValueError as error:
        variable = f"{names[0].upper()}_PROXY"
        raise ValueError(f"{variable} of the environment is not valid: {error}") from None
