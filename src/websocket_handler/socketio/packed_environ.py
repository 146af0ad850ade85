"""Compact storage of the WSGI environ that python-socketio keeps for each client.

An environ has some forty strings and objects of the server. Its plain values are packed into one
`bytes`. Objects of the HTTP server, which are of no use after the request, are dropped. All other
objects are kept.
"""

from __future__ import annotations

import io
import marshal
import sys
import weakref
import zlib
from typing import Any

WINDOW_BITS = -12  # a raw stream, and a window of 4 KiB
MEMORY_LEVEL = 4

DROPPED = frozenset(
    (
        "asgi.receive",
        "asgi.send",
        "eventlet.input",
        "gunicorn.socket",
        "waitress.client_disconnected",
        "werkzeug.request",
        "werkzeug.socket",
        "wsgi.errors",
        "wsgi.input",
        "wsgi.websocket",
    )
)
"""Objects of the HTTP server, or of one request. `wsgi.errors` and `wsgi.input` are replaced."""

SCOPE = "asgi.scope"

PLAIN = frozenset(("wsgi.version", "asgi", "client", "headers", "http_version", "server"))
"""Names in an environ or an ASGI scope whose values are tuples, lists or dictionaries of plain
values."""

ZLIB_DICTIONARY = b"\n".join(
    (
        b"HTTP_X_FORWARDED_FOR HTTP_X_FORWARDED_PROTO HTTP_X_FORWARDED_HOST HTTP_X_REAL_IP",
        b"HTTP_AUTHORIZATION Bearer HTTP_COOKIE session= csrftoken= sessionid= HTTP_ORIGIN",
        b"HTTP_SEC_FETCH_MODE cors HTTP_SEC_FETCH_SITE same-origin HTTP_SEC_FETCH_DEST empty",
        b"HTTP_SEC_CH_UA_PLATFORM HTTP_SEC_CH_UA_MOBILE HTTP_SEC_CH_UA HTTP_REFERER",
        b"HTTP_ACCEPT_LANGUAGE en-US,en;q=0.9 HTTP_CACHE_CONTROL HTTP_PRAGMA no-cache",
        b"HTTP_SEC_WEBSOCKET_EXTENSIONS permessage-deflate; client_max_window_bits",
        b"HTTP_SEC_WEBSOCKET_KEY HTTP_SEC_WEBSOCKET_VERSION 13 HTTP_UPGRADE websocket Upgrade",
        b"HTTP_ACCEPT_ENCODING gzip, deflate, br, zstd HTTP_ACCEPT */* application/json",
        b"HTTP_USER_AGENT Mozilla/5.0 (Windows NT 10.0; Win64; x64) (Macintosh; Intel Mac OS X ",
        b"(X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138 Safari/537.36",
        b"SERVER_SOFTWARE gunicorn/27.0.1 Werkzeug/3.1 SERVER_NAME SERVER_PORT 5000 8000",
        b"RAW_URI /socket.io/?EIO=4&transport=polling&t= REQUEST_URI transport=websocket&sid=",
        b"REMOTE_ADDR 127.0.0.1 REMOTE_PORT HTTP_HOST localhost:8000 HTTP_CONNECTION keep-alive",
        b"wsgi.version wsgi.url_scheme http wsgi.multithread wsgi.multiprocess wsgi.run_once",
        b"wsgi.input_terminated CONTENT_LENGTH CONTENT_TYPE SCRIPT_NAME SERVER_PROTOCOL HTTP/1.1",
        b"REQUEST_METHOD GET PATH_INFO /socket.io/ QUERY_STRING EIO=4&transport=polling&t=",
    )
)
"""Frequent parts of an environ, the most frequent last (a preset dictionary, RFC 1950). It can be
changed at any time, because packed bytes never leave the process."""


class PackedEnvirons(dict[str, Any]):
    """Replaces `socketio.Server.environ`, the dictionary of environs by session."""

    def __setitem__(self, sid: str, environ: dict[str, Any]) -> None:
        super().__setitem__(sid, PackedEnviron(environ))

    def __getitem__(self, sid: str) -> Environ:
        packed: PackedEnviron = super().__getitem__(sid)
        return packed.environ()

    def get(self, sid: str, default: Any = None) -> Any:
        packed: PackedEnviron | None = super().get(sid)
        return packed.environ() if packed is not None else default


class PackedEnviron:
    """The environ of one client."""

    __slots__ = ("_plain", "_unpacked", "objects")

    def __init__(self, environ: dict[str, Any]) -> None:
        plain: dict[str, Any] = {}
        self.objects: dict[str, Any] | None = None
        """Values that are not packed, and those that were set later; None if there are none."""
        for name, item in environ.items():
            if is_plain(name, item):
                plain[name] = item
            elif name == SCOPE:
                plain[name], others = split_scope(item)
                self.keep(name, others)
            else:
                self.keep(name, item)
        self._plain = pack(plain)
        self._unpacked: weakref.ref[Environ] | None = None

    def keep(self, name: str, item: Any) -> None:
        if name not in DROPPED:
            if self.objects is None:
                self.objects = {}
            self.objects[name] = item

    def environ(self) -> Environ:
        """Return the environ: the same object as long as it is in use."""
        environ = self._unpacked() if self._unpacked is not None else None
        if environ is None:
            environ = Environ(unpack(self._plain))
            scope = environ.get(SCOPE)
            dict.update(environ, self.objects or {})
            if scope is not None:
                dict.__setitem__(environ, SCOPE, {**scope, **environ[SCOPE]})
            dict.__setitem__(environ, "wsgi.input", io.BytesIO())
            dict.__setitem__(environ, "wsgi.errors", sys.stderr)
            environ.packed = self
            self._unpacked = weakref.ref(environ)
        return environ

    def replace_all(self, environ: dict[str, Any]) -> None:
        """Pack an environ again, after a change that is more than an added object."""
        changed = PackedEnviron(environ)
        self._plain, self.objects = changed._plain, changed.objects


class Environ(dict[str, Any]):
    """An unpacked environ. Its changes are stored."""

    __slots__ = ("__weakref__", "packed")

    packed: PackedEnviron

    def __setitem__(self, name: str, item: Any) -> None:
        super().__setitem__(name, item)
        self.packed.keep(name, item)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.packed.replace_all(self)

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *others: Any, **items: Any) -> None:
        for name, item in dict(*others, **items).items():
            self[name] = item

    def pop(self, name: str, *default: Any) -> Any:
        is_present = name in self
        item = super().pop(name, *default)
        if is_present:
            self.packed.replace_all(self)
        return item

    def copy(self) -> dict[str, Any]:
        return dict(self)


def is_plain(name: str, item: Any) -> bool:
    """Whether a value of an environ or a scope is packed."""
    return type(item) in (str, bytes, bool, int) or name in PLAIN


def split_scope(scope: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the items of an ASGI scope that are packed, and the others."""
    plain = {name: item for name, item in scope.items() if is_plain(name, item)}
    others = {
        name: item for name, item in scope.items() if name not in plain and name != "websocket"
    }
    return plain, others


def pack(plain: dict[str, Any]) -> bytes:
    deflater = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zdict=ZLIB_DICTIONARY)
    return deflater.compress(marshal.dumps(plain)) + deflater.flush()


def unpack(packed: bytes) -> dict[str, Any]:
    plain = zlib.decompressobj(WINDOW_BITS, zdict=ZLIB_DICTIONARY).decompress(packed)
    unpacked: dict[str, Any] = marshal.loads(plain)  # noqa: S302 (our own bytes)
    return unpacked
