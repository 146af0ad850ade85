"""The WebSocket protocol in plain Python, without I/O.

No module in here uses a socket, a thread or an event loop: functions take bytes as arguments and
return bytes. The native codec (engine/core/) is tested against this code, and where the native
codec is not built, this code replaces it. A connection passes through the modules in this order:

    request      the HTTP request as a value
    handshake    the server's decision: a 101 response or an HTTP error response
    versions/    one module per version: how it is detected, its keys, its codec
    frame        the frame header and masking               (RFC 6455 sections 5.2, 5.3)
    check        the rules that a frame must satisfy
    message      bytes -> frames -> messages and back       (RFC 6455 sections 5.4 to 5.6)
    permessage_deflate, deflate   compressed messages       (RFC 7692)
    state        the states of a connection                 (RFC 6455 section 7)
    close_codes  the close codes                            (RFC 6455 section 7.4.1)
"""
