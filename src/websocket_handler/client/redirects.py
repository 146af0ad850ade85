"""Following a redirect of the server, within limits."""

from __future__ import annotations

import re
from urllib.parse import urldefrag, urljoin

from ..errors import HandshakeFailed
from ..protocol.client import Address
from .options import ClientSettings

STATUSES = (301, 302, 303, 307, 308)
CREDENTIALS = ("authorization", "cookie", "proxy-authorization")
"""Headers that are not sent to another origin."""


def location_of(response: HandshakeFailed) -> str | None:
    """Return the Location of a redirect, None for any other response."""
    if response.status not in STATUSES:
        return None
    return next((value for name, value in response.headers if name.lower() == "location"), None)


def target_of(url: str, location: str) -> str:
    """Return the ws: or wss: URL that `location` refers to, in a response from `url`."""
    joined = urldefrag(urljoin(url, location)).url
    return re.sub("^http(?=s?:)", "ws", joined, flags=re.IGNORECASE)


def why_not_followed(old: Address, new: Address, client: ClientSettings) -> str | None:
    """Return the reason why a redirect from `old` to `new` is not followed; None if it is."""
    if old.secure and not new.secure:
        return "it leads from wss: to ws:"
    if client.sock is not None:
        return "the socket was passed as sock="
    if new.host == old.host:
        return None
    if client.unix is not None:
        return "it leads away from the Unix socket"
    if "*" not in client.redirect_hosts and new.host not in client.redirect_hosts:
        return "it leads to another host, which redirect_hosts= does not include"
    return None


def without_credentials(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields if name.lower() not in CREDENTIALS]
