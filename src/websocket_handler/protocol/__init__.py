"""The WebSocket protocol in plain Python: the specification, the oracle and the fallback.

Nothing in here knows a socket, a thread or an event loop: bytes come in as arguments and
go out as return values. The way of a connection through the files:

    request    what the HTTP server read, as a value
    handshake  may it become a WebSocket, and in which version? -> 101 or a refusal
    versions/  one file a version: what its request looks like, its key, its codec
    frame      the frame header and masking           (RFC 6455 section 5.2, 5.3)
    check      the rules a frame must keep, one sentence of the RFC each
    message    bytes -> frames -> messages and back   (RFC 6455 section 5.4 to 5.6)
    permessage_deflate, deflate  compressed messages  (RFC 7692)
    state      the life of a connection as a table    (RFC 6455 section 7)
"""
