"""Close codes (RFC 6455 section 7.4.1 and the IANA registry of close codes)."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """The registered close codes. A member equals its number: `CloseCode.GOING_AWAY == 1001`.

    Applications may also send 3000 to 3999 (registered with IANA) and 4000 to 4999 (private
    use), which have no name here.
    """

    NORMAL_CLOSURE = 1000
    """The purpose of the connection has been fulfilled."""

    GOING_AWAY = 1001
    """The server is shutting down, or the browser has left the page."""

    PROTOCOL_ERROR = 1002
    """The peer violated the protocol."""

    UNSUPPORTED_DATA = 1003
    """The message has a type that the endpoint does not accept, such as binary."""

    NO_CODE_RECEIVED = 1005
    """The close frame had no code. Never sent; reported locally."""

    ABNORMAL_CLOSURE = 1006
    """The connection was lost without a close frame. Never sent; reported locally."""

    INVALID_DATA = 1007
    """The data does not match the type of its message, such as invalid UTF-8 in text."""

    POLICY_VIOLATION = 1008
    """The message violates a policy of the endpoint."""

    MESSAGE_TOO_BIG = 1009
    """The message is too big to process."""

    MANDATORY_EXTENSION = 1010
    """The client required an extension that the server did not negotiate."""

    INTERNAL_ERROR = 1011
    """The server met an unexpected condition."""

    SERVICE_RESTART = 1012
    """The server restarts; the client may reconnect after a random delay."""

    TRY_AGAIN_LATER = 1013
    """The server is overloaded; the client may reconnect later."""

    BAD_GATEWAY = 1014
    """A gateway received an invalid response from the server behind it."""

    TLS_HANDSHAKE = 1015
    """The TLS handshake failed. Never sent; reported locally."""

    def __str__(self) -> str:
        """Return the number, in every version of Python."""
        return str(self.value)

    def __format__(self, specification: str) -> str:
        """Format the number, in every version of Python."""
        return format(self.value, specification)
