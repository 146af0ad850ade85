"""Parses the URL of a broker.

An error names the wrong part and never repeats the URL: a password whose special characters are not
percent-encoded can be in any part of it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    }
)

IGNORED_REDIS_OPTIONS = frozenset(
    {
        "client_name",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "protocol",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_read_size",
        "socket_timeout",
        "timeout",
    }
)
"""Options of redis-py's own client, ignored because a URL may be shared with it. The bus has its
own timeouts, retries and protocol version."""

HOST_NAME = re.compile(r"[\w.-]+")
IPV6_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(%\w+)?")


LOCAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Scheme(NamedTuple):
    """The rules for the URLs of one scheme."""

    port: int
    """The default port."""
    is_tls: bool = False
    is_redis: bool = True
    has_many_hosts: bool = False
    has_database: bool = True
    has_service: bool = False
    """Whether the first part of the path is the name of a Sentinel service."""


SCHEMES = {
    "redis": Scheme(6379),
    "rediss": Scheme(6379, is_tls=True),
    "unix": Scheme(0),
    "redis+cluster": Scheme(6379, has_many_hosts=True, has_database=False),
    "rediss+cluster": Scheme(6379, is_tls=True, has_many_hosts=True, has_database=False),
    "redis+sentinel": Scheme(26379, has_many_hosts=True, has_service=True),
    "rediss+sentinel": Scheme(26379, is_tls=True, has_many_hosts=True, has_service=True),
    "nats": Scheme(4222, is_redis=False, has_many_hosts=True, has_database=False),
    "tls": Scheme(4222, is_tls=True, is_redis=False, has_many_hosts=True, has_database=False),
    "nats+tls": Scheme(4222, is_tls=True, is_redis=False, has_many_hosts=True, has_database=False),
    "local": Scheme(0, is_redis=False, has_database=False),
}


class Host(NamedTuple):
    """The host and port of one server."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class BrokerURL:
    """The parts of a broker's URL, percent-decoded. `str()` of it contains no secrets."""

    scheme: str
    hosts: tuple[Host, ...] = ()
    user: str | None = field(default=None, repr=False)
    """The user name; a token for NATS if there is no password."""
    password: str | None = field(default=None, repr=False)
    path: str = ""
    """The path of a Unix socket; for local://, the name or the absolute path of the directory."""
    service: str = ""
    database: int = 0
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The TLS options."""

    @property
    def is_tls(self) -> bool:
        return SCHEMES[self.scheme].is_tls

    def at(self, host: Host) -> BrokerURL:
        """Return the URL with this host only."""
        return replace(self, hosts=(host,))

    def __str__(self) -> str:
        credentials = "***@" if self.user or self.password else ""
        hosts = ",".join(map(str, self.hosts))
        path = "/".join(filter(None, (self.service, str(self.database or ""))))
        has_path = self.scheme in ("unix", "local")
        place = self.path if has_path else f"/{path}" if path else ""
        return f"{self.scheme}://{credentials}{hosts}{place}"

    def without_secrets(self, text: str) -> str:
        """Return `text`, written by a library or a server, with the password replaced."""
        for secret in (self.password, None if self.password else self.user):
            if secret:
                text = text.replace(secret, "***")
        return text


def parse_broker_url(url: str) -> BrokerURL:
    """Parse the URL of a broker. Raises `ValueError` if it is not valid, or has an unsupported
    option."""
    scheme, separator, rest = url.partition("://")
    rules = SCHEMES.get(scheme) if separator else None
    if rules is None:
        schemes = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"the URL of a broker must begin with one of {schemes}")
    if "#" in rest:
        raise _invalid(scheme, "it must not have a fragment")
    if scheme == "local":
        return _parse_local(rest)
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user, password, hosts = _split_credentials(scheme, authority)
    options = _parse_options(scheme, rules, query)
    database = options.pop("db", None)
    user = options.pop("username", user)
    password = options.pop("password", password)
    found = BrokerURL(scheme, (), user, password, options=options)
    if scheme == "unix":
        if hosts:
            raise _invalid(scheme, "it must have no host, and three slashes")
        return replace(found, path=slash + unquote(path), database=_database(scheme, database))
    if "@" in path:
        raise _invalid(scheme, "there must be no @ after the hosts")
    service, path = _split_service(scheme, rules, path)
    return replace(
        found,
        hosts=tuple(_parse_hosts(scheme, rules, hosts)),
        service=service,
        database=_database(scheme, path if database is None else database, rules.has_database),
    )


def _parse_local(rest: str) -> BrokerURL:
    """Parse the part of a local:// URL after the slashes: a name, or an absolute path."""
    path = unquote(rest)
    if "?" in rest or "\0" in path:
        raise ValueError("not a valid broker URL: local://…: it has no options")
    if not path.startswith("/") and not LOCAL_NAME.fullmatch(path):
        raise ValueError(
            "not a valid broker URL: local://…: it needs a name of up to 64 letters, digits, "
            "'-', '_' and '.', which does not begin with '.', or three slashes and a path"
        )
    return BrokerURL("local", path=path)


def _invalid(scheme: str, reason: str) -> ValueError:
    return ValueError(
        f"not a valid broker URL: {scheme}://…: {reason}. Percent-encode the special characters "
        f"of a user name and password: urllib.parse.quote(password, safe='')"
    )


def _split_credentials(scheme: str, authority: str) -> tuple[str | None, str | None, str]:
    """Return user, password and hosts."""
    credentials, at, hosts = authority.rpartition("@")
    if not at:
        return None, None, hosts
    if "@" in credentials and "," in credentials:
        raise _invalid(scheme, "user and password must be given once, before the first host")
    user, colon, password = credentials.partition(":")
    user, password = unquote(user), unquote(password)
    try:
        (user + password).encode()
    except UnicodeEncodeError:
        pass
    else:
        return user or None, password if colon else None, hosts
    raise _invalid(scheme, "user and password must be text that UTF-8 can encode")


def _parse_hosts(scheme: str, rules: Scheme, hosts: str) -> list[Host]:
    found = [_parse_host(scheme, rules, host) for host in hosts.split(",")]
    if len(found) > 1 and not rules.has_many_hosts:
        raise _invalid(scheme, "it must have one host")
    return found


def _parse_host(scheme: str, rules: Scheme, host: str) -> Host:
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        is_valid = bool(bracket) and IPV6_ADDRESS.fullmatch(name) and port[:1] in ("", ":")
        port = port[1:]
    else:
        name, _, port = host.partition(":")
        is_valid = bool(HOST_NAME.fullmatch(name))
    if not is_valid:
        raise _invalid(scheme, "it needs a host name or an address")
    if not port:
        return Host(name, rules.port)
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        raise _invalid(scheme, "a port must be a number from 1 to 65535")
    return Host(name, int(port))


def _split_service(scheme: str, rules: Scheme, path: str) -> tuple[str, str]:
    """Return the Sentinel service, and the rest of the path."""
    if not rules.has_service:
        return "", path
    service, _, path = path.partition("/")
    if not service:
        raise _invalid(scheme, "the name of the service must follow the hosts, as in /mymaster")
    return unquote(service), path


def _database(scheme: str, text: str | None, has_database: bool = True) -> int:
    text = (text or "").strip("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise _invalid(scheme, "the database must be a number" if has_database else "it has a path")
    if int(text) and not has_database:
        raise _invalid(scheme, "this scheme has no databases")
    return int(text)


def _parse_options(scheme: str, rules: Scheme, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    allowed = {"db", "username", "password", *IGNORED_REDIS_OPTIONS} if rules.is_redis else set()
    for name in options:
        if name in TLS_OPTIONS and not rules.is_tls:
            raise _invalid(scheme, f"{name} needs a scheme with TLS")
        if name not in TLS_OPTIONS and name not in allowed:
            shown = name if re.fullmatch(r"\w{1,40}", name) and "@" not in query else "an option"
            raise _invalid(scheme, f"{shown} is not supported")
    _check_tls_options(scheme, options)
    return {name: options[name] for name in options if name not in IGNORED_REDIS_OPTIONS}


def _check_tls_options(scheme: str, options: Mapping[str, str]) -> None:
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise _invalid(scheme, "ssl_cert_reqs must be required or none")
    if options.get("ssl_check_hostname", "true").lower() not in ("true", "false"):
        raise _invalid(scheme, "ssl_check_hostname must be true or false")


# TLS


def checks_certificate(url: BrokerURL) -> bool:
    """Whether the server's certificate must be issued by a trusted authority (the default)."""
    return url.options.get("ssl_cert_reqs") != "none"


def checks_host_name(url: BrokerURL) -> bool:
    """Whether the certificate must match the host in the URL (the default)."""
    is_checked = url.options.get("ssl_check_hostname", "true").lower() == "true"
    return is_checked and checks_certificate(url)


def tls_context(url: BrokerURL) -> ssl.SSLContext:
    """Return the TLS context for a URL. Raises `OSError` if a file cannot be read."""
    options = url.options
    context = ssl.create_default_context()
    if "ssl_ca_certs" in options or "ssl_ca_data" in options:
        context.load_verify_locations(options.get("ssl_ca_certs"), None, options.get("ssl_ca_data"))
    context.check_hostname = checks_host_name(url)
    if not checks_certificate(url):
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
