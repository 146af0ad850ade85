"""The handshake in both roles: any bytes lead to a response or to a documented error.

byte 0: the role (server, client, or URL parser); byte 1: settings and offers. For a client,
byte 2 is the version and byte 3 the size of the pieces in which the response arrives. In it,
"{accept}" and "{answer}" are placeholders for the server's correct reply.
"""

from __future__ import annotations

import re

from websocket_handler.protocol import handshake, permessage_deflate
from websocket_handler.protocol.handshake import Accepted, Refused
from websocket_handler.protocol.packed_request import pack, unpack
from websocket_handler.protocol.permessage_deflate import Compression, NegotiatedParameters
from websocket_handler.protocol.request import Headers, Request, is_websocket_request
from websocket_handler.protocol.versions import ALL_VERSIONS, DEFAULT_VERSIONS

from .client_handshake import ask, parse_url

HEAD = re.compile(rb"HTTP/1\.1 [1-5][0-9][0-9] [ -~]+\r\n([!-9;-~]+: [\t -~\x80-\xff]*\r\n)*\r\n")
COMPRESSIONS: tuple[Compression | bool, ...] = (
    False,
    Compression(),
    Compression(server_no_context_takeover=False, client_no_context_takeover=False),
    Compression(server_max_window_bits=10, client_max_window_bits=9),
)


def test_one_input(source: bytes) -> None:
    if len(source) < 4:
        return
    role, options = source[0] % 3, source[1]
    if role == 0:
        serve(options, source[2:])
    elif role == 1:
        ask(COMPRESSIONS[options >> 4 & 3], options, source[2], source[3], source[4:])
    else:
        parse_url(source[2:].decode("utf-8", "replace"))


def read_request(text: bytes, scheme: str) -> Request:
    """Parse the request like a lenient HTTP server."""
    lines = text.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.rpartition(" HTTP/")
    pairs = (line.partition(":") for line in lines[1:])
    fields = [(name, value.strip(" \t")) for name, _, value in pairs]
    return Request(method, target, Headers(fields), version, ("127.0.0.1", 80), scheme)


def serve(options: int, text: bytes) -> None:
    request = read_request(text, "https" if options & 1 else "http")
    packed = pack(request)
    if isinstance(packed, bytes):
        assert unpack(packed).headers.fields() == request.headers.fields()
    else:
        assert b"\n" in text.replace(b"\r\n", b"")
    assert request.target.startswith(request.path)
    assert isinstance(request.cookies, dict)
    assert isinstance(request.query, dict)
    is_websocket_request(request.method, request.headers)
    offered = [name for version in ALL_VERSIONS for name in version._offered_subprotocols(request)]
    subprotocol = offered[0] if offered and options & 2 else None
    compression = COMPRESSIONS[options >> 4 & 3]
    try:
        outcome = handshake.answer(
            request,
            ALL_VERSIONS if options & 4 else DEFAULT_VERSIONS,
            ["*"] if options & 8 else ["https://example.org"],
            subprotocol,
            Headers([("Set-Cookie", "a=b")]),
            compression,
        )
    except ValueError as error:
        if subprotocol is None or "does not offer the subprotocol" not in str(error):
            raise
        return
    head = HEAD.match(outcome.response)
    assert head is not None
    if isinstance(outcome, Refused):
        assert 400 <= outcome.status < 500
        assert b"\r\nConnection: close\r\n" in head[0]
        size = len(outcome.response) - head.end()
        assert b"\r\nContent-Length: %d\r\n" % size in head[0]
    else:
        assert head.end() == len(outcome.response)
        check_accepted(outcome, request, compression)


def check_accepted(outcome: Accepted, request: Request, compression: Compression | bool) -> None:
    negotiated = outcome.negotiated
    if negotiated is None:
        return
    assert isinstance(compression, Compression)
    parameters = permessage_deflate.endpoint_parameters(negotiated, compression, is_client=False)
    assert 8 <= parameters.deflate_window_bits <= compression.server_max_window_bits
    assert 8 <= parameters.inflate_window_bits <= 15
    offers = ", ".join(request.headers.get_all(permessage_deflate.HEADER))
    if negotiated.client_max_window_bits is not None:  # RFC 7692 section 7.1.2.2: only if offered
        assert permessage_deflate.CLIENT_WINDOW in offers
    response = permessage_deflate.parse([str(negotiated)])
    assert response[0][0] == permessage_deflate.NAME
    assert isinstance(negotiated, NegotiatedParameters)
