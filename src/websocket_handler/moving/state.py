"""The state of a connection that moves, as bytes and JSON.

The two processes may run different versions of this library, or different engines. So the state has
no structures of either: input that a new decoder reads before the peer's next bytes, output that
goes out before the new process's own, and facts of the handshake.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..engine.stats import Traffic
from ..protocol.permessage_deflate import NegotiatedParameters
from ..protocol.request import Forwarded
from ..protocol.versions import ALL_VERSIONS, Version

FORMAT = 1
"""The number of this format. A process refuses any other, and the connection closes with 1012."""


class UnknownFormat(ValueError):
    """The state comes from a version of this library with another format."""


class Facts(NamedTuple):
    """The facts that the new process needs when its application handles the request."""

    version: Version
    secret: bytes
    subprotocol: str | None
    negotiated: NegotiatedParameters | None
    origin: Forwarded
    """Address, scheme and host of the original request, as this library received it."""
    carried: Any

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version.name,
            "secret": self.secret.hex(),
            "subprotocol": self.subprotocol,
            "negotiated": self.negotiated,
            "origin": self.origin,
            "carried": self.carried,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Facts:
        """Raises `UnknownFormat` if the fields are of another format, or not valid."""
        if fields.get("format") != FORMAT:
            raise UnknownFormat(f"the format {fields.get('format')!r}")
        try:
            (version,) = (known for known in ALL_VERSIONS if known.name == fields["version"])
            negotiated, subprotocol = fields["negotiated"], fields["subprotocol"]
            address, scheme, host = fields["origin"]
            return cls(
                version,
                bytes.fromhex(fields["secret"]),
                None if subprotocol is None else str(subprotocol),
                None if negotiated is None else NegotiatedParameters(*negotiated),
                Forwarded(_address(address), str(scheme), None if host is None else str(host)),
                fields["carried"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownFormat(f"facts that are not valid: {error!r}") from None


class State(NamedTuple):
    """The state of the connection when the old process has stopped reading it."""

    input: bytes
    """Bytes for a new decoder: received, but not delivered as messages."""
    output: bytes
    """Bytes that the socket has not accepted yet. May begin within a frame."""
    window: bytes
    """The window of the decompressor, with context takeover."""
    latency: float
    traffic: Traffic
    carried: Any

    def to_json(self) -> dict[str, Any]:
        sizes = [len(part) for part in (self.input, self.output, self.window)]
        return {
            "sizes": sizes,
            "latency": self.latency,
            "traffic": self.traffic,
            "carried": self.carried,
        }

    @property
    def data(self) -> bytes:
        """The three parts in one, for a file."""
        return self.input + self.output + self.window

    @classmethod
    def from_json(cls, fields: dict[str, Any], data: bytes) -> State:
        """Raises `UnknownFormat` if the fields are not valid."""
        try:
            first, second, third = fields["sizes"]
            ends = first, first + second, first + second + third
            if min(first, second, third) < 0 or ends[2] != len(data):
                raise ValueError("sizes")
            parts = data[: ends[0]], data[ends[0] : ends[1]], data[ends[1] :]
            latency, traffic = float(fields["latency"]), Traffic(*map(int, fields["traffic"]))
            return cls(*parts, latency, traffic, fields["carried"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownFormat(f"a state that is not valid: {error!r}") from None


def _address(address: Any) -> Any:
    """JSON has lists instead of tuples."""
    return tuple(address) if isinstance(address, list) else address
