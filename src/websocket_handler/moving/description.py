"""The request of a connection, with which another process is asked to take the connection."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..protocol.request import Headers, Request
from .state import Facts, UnknownFormat


class Description(NamedTuple):
    """Address, facts and request of a connection."""

    address: Any
    """The address to which the client has connected."""
    facts: Facts
    request: Request

    def to_json(self) -> dict[str, Any]:
        address = self.address
        return {
            **self.facts.to_json(),
            "address": os.fsdecode(address) if isinstance(address, bytes) else address,
            "target": self.request.target,
            "fields": list(self.request.headers.fields()),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Description:
        """Raises `UnknownFormat` if the fields are not valid."""
        facts = Facts.from_json(fields)
        try:
            address, target = fields["address"], str(fields["target"])
            headers = Headers([(str(name), str(value)) for name, value in fields["fields"]])
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownFormat(f"a request that is not valid: {error!r}") from None
        address = tuple(address) if isinstance(address, list) else address
        return cls(address, facts, Request("GET", target, headers))
