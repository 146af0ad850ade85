"""Every version: worked examples byte by byte, round trips, splits, invalid input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import ALL_VERSIONS, Headers, Request, UnsupportedByVersion, Version
from websocket_handler.errors import HandshakeFailed
from websocket_handler.protocol import handshake
from websocket_handler.protocol.assembly import (
    Close,
    Completed,
    Event,
    Message,
    Ping,
    Pong,
)
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.client import Address, ClientHandshake, Established
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import accept, by_name, challenge, version

from .frames import KEY, Limits
from .messages import LENGTHS, text_of

EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())
HEAD_END = "\r\n\r\n"
LIMITS = Limits(max_message_size=1 << 21)

example = pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{one['version']}-{one['name']}" for one in EXAMPLES]
)
every_version = pytest.mark.parametrize("spoken", ALL_VERSIONS, ids=str)


def data(squeezed: str) -> bytes:
    """ "04+61*3" means 04 61 61 61."""
    start, _, repeated = squeezed.partition("+")
    if not repeated:
        return bytes.fromhex(start)
    byte, _, times = repeated.partition("*")
    return bytes.fromhex(start) + bytes.fromhex(byte) * int(times)


def parse(lines: list[str], **others: Any) -> Request:
    method, target, http = lines[0].split(" ")
    fields = [tuple(line.split(": ", 1)) for line in lines[1:]]
    return Request(method, target, Headers(fields), http.removeprefix("HTTP/"), **others)  # type: ignore[arg-type]


def header(lines: list[str], name: str) -> str | None:
    return next((line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")), None)


def subprotocol_in(lines: list[str]) -> str | None:
    return header(lines, "Sec-WebSocket-Protocol") or header(lines, "WebSocket-Protocol")


def frames_of(example: dict[str, Any], side: str) -> list[bytes]:
    return [data(frame) for sender, frame in example["frames"] if sender == side]


def reply(encoder: version.Encoder, event: Event) -> bytes:
    """The bytes that an echo server sends for an event."""
    if isinstance(event, Message):
        return encoder.message(event.data)
    if isinstance(event, Ping):
        return encoder.frame(Opcode.PONG, event.payload)
    if isinstance(event, Close):
        return encoder.answer_close(Close(event.code, "", event.cookie), False)
    raise AssertionError(event)


# The worked examples


@example
def test_server_answers_as_in_the_example(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = by_name(example["version"])
    nonce = header(example["response"], "Sec-WebSocket-Nonce")
    monkeypatch.setattr(accept, "new_key", lambda: nonce)
    request = parse(example["request"])
    assert [one for one in ALL_VERSIONS if one._matches(request)] == [spoken]
    chosen = subprotocol_in(example["response"])
    outcome = handshake.answer(request, ALL_VERSIONS, ["*"], chosen)
    assert isinstance(outcome, handshake.Accepted)
    assert outcome.response.decode() == "\r\n".join(example["response"]) + HEAD_END

    decoder = spoken._make_decoder(LIMITS, True, outcome.secret)
    encoder = spoken._make_encoder(False, outcome.secret)
    body = data(example["request_body"])
    if body:
        assert decoder.feed(body) == [Completed(data(example["response_body"]))]
    said = b""
    for frame in frames_of(example, "C"):
        for event in decoder.feed(frame):
            said += reply(encoder, event)
    assert said == b"".join(frames_of(example, "S"))


@example
def test_client_sends_as_in_the_example(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = by_name(example["version"])
    established = shake_hands_as_client(example, spoken, monkeypatch)
    assert established.subprotocol == subprotocol_in(example["response"])
    assert established.rest == b"rest"

    server = spoken._make_decoder(LIMITS, True, established.secret)
    if spoken._has_late_handshake:
        server.feed(b"12345678")
    for frame in frames_of(example, "C"):
        (event,) = server.feed(frame)
        assert frame in ways_to_say(spoken, established.secret, event, frame)

    client = spoken._make_decoder(LIMITS, False, established.secret)
    events = [event for frame in frames_of(example, "S") for event in client.feed(frame)]
    assert len(events) == len(frames_of(example, "S"))
    assert not any(isinstance(event, Violation) for event in events)


def shake_hands_as_client(
    example: dict[str, Any], spoken: Version, monkeypatch: pytest.MonkeyPatch
) -> Established:
    lines = example["request"]
    keys = [header(lines, f"Sec-WebSocket-Key{number}") for number in (1, 2)]
    numbered = iter([(key, challenge.key_number(key)) for key in keys if key is not None])
    with monkeypatch.context() as pinned:
        pinned.setattr(challenge, "new_key", lambda: next(numbered))
        pinned.setattr(os, "urandom", lambda _: data(example["request_body"]))
        pinned.setattr(accept, "new_key", lambda: header(lines, "Sec-WebSocket-Key"))
        client = ClientHandshake(
            Address.parse(f"ws://{header(lines, 'Host')}{lines[0].split(' ')[1]}"),
            spoken,
            offered_in(lines),
            origin=header(lines, "Origin") or header(lines, "Sec-WebSocket-Origin"),
        )
    head, _, body = client.request.partition(HEAD_END.encode())
    assert sorted(head.decode().split("\r\n")) == sorted(lines)
    assert body == data(example["request_body"])
    response = "\r\n".join(example["response"]) + HEAD_END
    whole = response.encode() + data(example["response_body"])
    for at in range(len(whole) - 1):
        assert client.feed(whole[at : at + 1]) is None
    established = client.feed(whole[-1:] + b"rest")
    assert established is not None
    return established


def offered_in(lines: list[str]) -> list[str]:
    value = header(lines, "Sec-WebSocket-Protocol") or header(lines, "WebSocket-Protocol") or ""
    return value.replace(",", " ").split()


def ways_to_say(spoken: Version, secret: bytes, event: Event, frame: bytes) -> list[bytes]:
    """The bytes that a client with the masking keys of `frame` sends for `event`."""

    def encoder() -> Any:
        made: Any = spoken._make_encoder(True, secret)
        keys = keys_in(frame, spoken)
        made._random_bytes = lambda _: next(keys)
        return made

    if isinstance(event, Ping):
        return [encoder().frame(Opcode.PING, event.payload)]
    if isinstance(event, Close):
        if event.cookie:
            return [encoder().frame(Opcode.CLOSE, event.cookie)]
        return [encoder().close(None if event.code == 1005 else event.code, event.reason)]
    assert isinstance(event, Message)
    ways = [encoder().message(event.data)]
    if event.data == "Hello" and not spoken.name.startswith("hixie"):
        pieces = encoder()
        first = pieces.frame(Opcode.TEXT, b"Hel", False)
        ways.append(first + pieces.frame(Opcode.CONTINUATION, b"lo", True))
    return ways


def keys_in(frame: bytes, spoken: Version) -> Iterator[bytes]:
    """The masking keys of a client's frame, or of two of which the first has 3 bytes."""
    if spoken._is_native:
        return iter([frame[2:6], frame[11:15] or KEY])
    return iter([frame[:4], frame[9:13] or KEY])


# Round trips


def make_pair(spoken: Version) -> tuple[Any, Any, Any, Any]:
    """(client's encoder, server's decoder, server's encoder, client's decoder)"""
    secret = bytes(range(20))
    server_decoder = spoken._make_decoder(LIMITS, True, secret)
    if spoken._has_late_handshake:
        (completed,) = server_decoder.feed(bytes(8))
        assert isinstance(completed, Completed)
    return (
        spoken._make_encoder(True, secret),
        server_decoder,
        spoken._make_encoder(False, secret),
        spoken._make_decoder(LIMITS, False, secret),
    )


@every_version
@pytest.mark.parametrize("size", LENGTHS)
def test_messages_of_every_version_arrive(spoken: Version, size: int) -> None:
    client, from_client, server, from_server = make_pair(spoken)
    messages: list[str | bytes] = [text_of(size)]
    if spoken.name.startswith("hixie"):
        with pytest.raises(UnsupportedByVersion, match=f"^{spoken} has no binary messages$"):
            client.message(b"")
    else:
        messages.append(bytes(range(256)) * (size // 256) + b"\xff" * (size % 256))
    for message in messages:
        assert from_client.feed(client.message(message)) == [Message(message)]
        assert from_server.feed(server.message(message)) == [Message(message)]


@every_version
def test_pings_and_fragments_arrive_or_are_rejected(spoken: Version) -> None:
    client, from_client, server, from_server = make_pair(spoken)
    for encoder, decoder in ((client, from_client), (server, from_server)):
        if spoken.name.startswith("hixie"):
            with pytest.raises(UnsupportedByVersion, match="has no pings"):
                encoder.frame(Opcode.PING, b"")
            with pytest.raises(UnsupportedByVersion, match="has no fragments"):
                encoder.frame(Opcode.TEXT, b"", False)
            continue
        wire = encoder.frame(Opcode.BINARY, b"a", False) + encoder.frame(Opcode.PING, b"p" * 125)
        wire += encoder.frame(Opcode.CONTINUATION, b"", False) + encoder.frame(Opcode.PONG, b"")
        wire += encoder.frame(Opcode.CONTINUATION, b"b" * 70_000)
        assert decoder.feed(wire) == [Ping(b"p" * 125), Pong(b""), Message(b"a" + b"b" * 70_000)]


@every_version
def test_closing_handshake_completes_in_every_version(spoken: Version) -> None:
    client, from_client, server, from_server = make_pair(spoken)
    if not spoken._has_close:
        assert client.close(1000, "") == b""
        return
    for is_client in (True, False):
        client, from_client, server, from_server = make_pair(spoken)
        opener, reader = (client, from_client) if is_client else (server, from_server)
        answerer, answer_reader = (server, from_server) if is_client else (client, from_client)
        (close,) = reader.feed(opener.close(4001, "enough") + b"ignored")
        keeps_codes = spoken.name in ("hybi-06", "hybi-07", "hybi-12", "RFC 6455")
        assert close[:2] == ((4001, "enough") if keeps_codes else (1005, ""))
        (answer,) = answer_reader.feed(answerer.answer_close(close, False))
        assert opener.answer_close(answer, True) == b""


@pytest.mark.parametrize("name", ["hybi-02", "hybi-03", "hybi-04"])
def test_crossing_closes_are_both_answered(name: str) -> None:
    client, from_client, server, from_server = make_pair(by_name(name))
    (from_the_client,) = from_client.feed(client.close())
    (from_the_server,) = from_server.feed(server.close())
    assert from_the_client.cookie != from_the_server.cookie
    to_client = server.answer_close(from_the_client, True)
    assert make_pair(by_name(name))[3].feed(to_client) == [from_the_client]
    assert client.answer_close(from_the_server, True) != b""


@every_version
@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
def test_session_cut_anywhere_gives_the_same_events(spoken: Version, is_server: bool) -> None:
    client, from_client, server, from_server = make_pair(spoken)
    encoder = client if is_server else server
    wire = encoder.message("h\xe9llo") + encoder.message("") + encoder.message("x" * 200)
    if not spoken.name.startswith("hixie"):
        wire += encoder.frame(Opcode.TEXT, b"\xe2\x82", False)
        wire += encoder.frame(Opcode.PING, b"in between")
        wire += encoder.frame(Opcode.CONTINUATION, b"\xac") + encoder.message(b"\x00\xff" * 40)
    wire += encoder.close(1000, "bye")
    whole = (from_client if is_server else from_server).feed(wire)
    assert len(whole) >= 3

    def fresh() -> Any:
        pair = make_pair(spoken)
        return pair[1] if is_server else pair[3]

    for at in range(len(wire) + 1):
        decoder = fresh()
        assert decoder.feed(wire[:at]) + decoder.feed(wire[at:]) == whole
    decoder = fresh()
    assert [event for byte in wire for event in decoder.feed(bytes((byte,)))] == whole


@pytest.mark.parametrize(
    "spoken", [one for one in ALL_VERSIONS if one._has_late_handshake], ids=str
)
def test_third_key_cut_anywhere_is_read(spoken: Version) -> None:
    wire = b"\x00\r\n\r\n\xff \x00" + spoken._make_encoder(True, b"").message("first")
    whole = spoken._make_decoder(LIMITS, True, b"secret").feed(wire)
    assert [type(event) for event in whole] == [Completed, Message]
    for at in range(len(wire)):
        decoder = spoken._make_decoder(LIMITS, True, b"secret")
        assert decoder.feed(wire[:at]) + decoder.feed(wire[at:]) == whole


@given(wire=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_arbitrary_bytes_cut_anywhere_give_the_same_events(wire: bytes, cuts: list[int]) -> None:
    for spoken in ALL_VERSIONS:
        whole = make_pair(spoken)[1].feed(wire)
        decoder, events, start = make_pair(spoken)[1], [], 0
        for cut in [*sorted(cuts), len(wire)]:
            events += decoder.feed(wire[start : max(cut, start)])
            start = max(cut, start)
        assert events == whole


# Invalid input


def violation_of(spoken: Version, wire: bytes) -> Violation:
    (event,) = make_pair(spoken)[1].feed(wire)
    assert isinstance(event, Violation)
    return event


EARLY = [by_name(name) for name in ("hybi-01", "hybi-03", "hybi-04", "hybi-05", "hybi-06")]


@pytest.mark.parametrize("spoken", EARLY, ids=str)
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x14\x00", "reserved bit"),
        (b"\x04\x80", "reserved bit"),
        (b"\x06\x00", "reserved opcode"),
        (b"\x00\x00", "without a message"),
        (b"\x04\x7f\x80" + bytes(7), "most significant bit"),
        (b"\x04\x7f\x7f" + b"\xff" * 7, "too big"),
        (b"\x02\x7e\x00\x7e", "longer than 125"),
        (b"\x04\x01\xff", "UTF-8"),
    ],
)
def test_bad_frame_of_hybi_01_to_06_is_rejected(spoken: Version, frame: bytes, reason: str) -> None:
    if not spoken._has_late_handshake:  # FIN instead of MORE, and a masking key per frame
        frame = bytes((frame[0] ^ 0x80,)) + frame[1:]
        encoder: Any = spoken._make_encoder(True, bytes(range(20)))
        stream = encoder._format.keystream(b"abcd", bytes(range(20))) * 3
        frame = b"abcd" + bytes(a ^ b for a, b in zip(frame, stream, strict=False))
    assert reason in violation_of(spoken, frame).reason


@pytest.mark.parametrize("spoken", EARLY, ids=str)
def test_fragmented_control_frame_is_rejected(spoken: Version) -> None:
    encoder = spoken._make_encoder(True, bytes(range(20)))
    assert "fragmented" in violation_of(spoken, encoder.frame(Opcode.PING, b"", False)).reason


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
@pytest.mark.parametrize("frame", [b"\x01", b"\x7fx\xff", b"\x80", b"\xff\x80\x80", b"\xfe\x00"])
def test_hixie_frame_that_is_not_text_is_a_violation(name: str, frame: bytes) -> None:
    assert violation_of(by_name(name), frame).reason == "frame of an unknown type"


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_endless_hixie_text_is_bounded(name: str) -> None:
    decoder = make_pair(by_name(name))[1]
    assert decoder.feed(b"\x00") == []
    for _ in range(32):
        assert decoder.feed(b"x" * (1 << 16)) == []
    (event,) = decoder.feed(b"x")
    assert event.code == 1009


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_hixie_text_that_is_not_utf_8_is_a_violation(name: str) -> None:
    assert violation_of(by_name(name), b"\x00\xc3\xff").code == 1007


def test_ff_00_closes_in_hixie_76_but_not_in_hixie_75() -> None:
    wire = b"\xff\x00\xff\x00\x00x\xff"
    assert make_pair(by_name("hixie-75"))[1].feed(wire) == [Message("x")]
    assert make_pair(by_name("hixie-76"))[1].feed(wire) == [Close(1005, "")]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("12345", "spaces"),
        ("a b c", "digits"),
        ("1 0 1", "not encode an integer"),
        ("42949672960 ", "more than 32 bits"),
        ("9" * 5000 + " ", "more than 32 bits"),
    ],
)
def test_bad_hixie_76_key_is_an_error(key: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        challenge.key_number(key)


def test_new_hixie_76_keys_encode_their_number() -> None:
    for _ in range(300):
        key, number = challenge.new_key()
        assert challenge.key_number(key) == number
        assert key == key.strip()
        assert 1 <= key.count(" ") <= 12
        assert 1 <= len(re.sub("[ 0-9]", "", key)) <= 12


HIXIE_76_REQUEST = {
    "Upgrade": "WebSocket",
    "Connection": "Upgrade",
    "Host": "example.com",
    "Origin": "http://example.com",
    "Sec-WebSocket-Key1": "4 @1  46546xW%0l 1 5",
    "Sec-WebSocket-Key2": "12998 5 Y3 1  .P00",
}


def request_with(*fields: tuple[str, str], without: Iterable[str] = ()) -> Request:
    kept = [pair for pair in HIXIE_76_REQUEST.items() if pair[0] not in without]
    return Request("GET", "/demo", Headers([*kept, *fields]))


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (request_with(("Sec-WebSocket-Version", "13")), 400, "two versions"),
        (request_with(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")), 400, "two versions"),
        (
            request_with(("Sec-WebSocket-Draft", "2"), ("Sec-WebSocket-Draft", "3")),
            400,
            "at most one Sec-WebSocket-Draft",
        ),
        (request_with(("Sec-WebSocket-Draft", "4")), 400, "Version header is missing"),
        (request_with(("Sec-WebSocket-Draft", "x")), 400, "Version header is missing"),
        (request_with(without=["Sec-WebSocket-Key2"]), 400, "exactly one Sec-WebSocket-Key2"),
        (request_with(("Sec-WebSocket-Key1", "1 2")), 400, "exactly one Sec-WebSocket-Key1"),
        (
            request_with(("Sec-WebSocket-Key1", "12"), without=["Sec-WebSocket-Key1"]),
            400,
            "must have digits and spaces",
        ),
        (request_with(("Origin", "http://evil.example")), 403, "not allowed"),
        (
            request_with(("Sec-WebSocket-Version", "9"), without=[*HIXIE_76_REQUEST][4:]),
            426,
            "13, 8, 7, 6, 5, 4",
        ),
        (
            request_with(
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Version", "8"),
                without=[*HIXIE_76_REQUEST][4:],
            ),
            426,
            "13, 8, 7, 6, 5, 4",
        ),
        (
            request_with(
                ("Sec-WebSocket-Origin", "http://evil.example"),
                ("Sec-WebSocket-Version", "8"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                without=[*HIXIE_76_REQUEST][3:],
            ),
            403,
            "not allowed",
        ),
    ],
)
def test_bad_request_of_any_version_is_rejected(
    request_: Request, status: int, reason: str
) -> None:
    outcome = handshake.answer(request_, ALL_VERSIONS)
    assert isinstance(outcome, handshake.Refused)
    assert outcome.status == status
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("size", "status"), [("8", 101), ("0", 101), ("7", 400), ("8, 8", 400), ("08", 400)]
)
def test_third_key_may_be_announced_as_a_body(size: str, status: int) -> None:
    request = request_with(("Content-Length", size))
    assert handshake.answer(request, ALL_VERSIONS).status == status
    chunked = request_with(("Content-Length", "8"), ("Transfer-Encoding", "chunked"))
    assert handshake.answer(chunked, ALL_VERSIONS).status == 400
    newer = request_with(
        ("Content-Length", "8"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        without=[*HIXIE_76_REQUEST][4:],
    )
    assert handshake.answer(newer, ALL_VERSIONS).status == 400


def test_older_versions_are_rejected_by_default() -> None:
    assert handshake.answer(request_with(), ALL_VERSIONS).status == 101
    refused = handshake.answer(request_with(), ALL_VERSIONS[:1])
    assert isinstance(refused, handshake.Refused)
    assert (refused.status, refused.reason) == (400, "unsupported WebSocket version hixie-76")


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["hybi-07", "RFC 6455", "hixie-75"], b"Sec-WebSocket-Version: 13, 7\r\n"),
        (["hixie-75", "hybi-02"], None),
    ],
)
def test_rejection_lists_versions_newest_first(names: list[str], numbers: bytes | None) -> None:
    asking = request_with(("Sec-WebSocket-Version", "9"), without=[*HIXIE_76_REQUEST][4:])
    refused = handshake.answer(asking, [by_name(name) for name in names])
    assert isinstance(refused, handshake.Refused)
    if numbers is None:
        assert b"Sec-WebSocket-Version" not in refused.response
        assert refused.reason == "unsupported WebSocket version '9'; supported: hybi-02, hixie-75"
    else:
        assert numbers in refused.response


@pytest.mark.parametrize("target", ["http://example.com/", "*", "/a b", "/\r\nX: y", "/\u20ac", ""])
@pytest.mark.parametrize("family", [2, 6], ids=["hixie-75", "hixie-76"])
def test_handshake_target_must_be_a_plain_path(target: str, family: int) -> None:
    headers = [("Host", "example.com"), *list(HIXIE_76_REQUEST.items())[:2]]
    headers += list(HIXIE_76_REQUEST.items())[4:family]
    refused = handshake.answer(Request("GET", target, Headers(headers)), ALL_VERSIONS)
    assert isinstance(refused, handshake.Refused)
    assert (refused.status, refused.reason) == (400, "the request target must be a plain path")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("hybi-00", "hixie-76"), ("hybi-08", "hybi-12"), ("hybi-17", "RFC 6455")],
)
def test_drafts_equal_on_the_wire_share_a_version(name: str, meant: str) -> None:
    assert by_name(name).name == meant


def test_unknown_version_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown version 'hybi-18', expected one of RFC 6455"):
        by_name("hybi-18")


# Responses that a client rejects


def damaged(name: str, damage: Callable[[list[str]], list[str]]) -> ClientHandshake:
    """A client that received the first example's response with one error."""
    example = next(one for one in EXAMPLES if one["version"] == name)
    request = parse(example["request"])
    client = ClientHandshake(
        Address.parse(f"ws://{request.headers['Host']}{request.target}"),
        by_name(name),
        ["sample" if name.startswith("hixie") else "chat"],
        origin="http://example.com",
    )
    lines = damage(list(example["response"]))
    response = "\r\n".join(lines) + HEAD_END
    client.feed(response.encode() + bytes(16))
    return client


def replacing(old: str, new: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [line.replace(old, new) for line in lines]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("hixie-75", replacing("Origin: http://", "Origin: https://"), "WebSocket-Origin must be"),
        ("hixie-75", replacing("ws://example.com", "ws://example.com:80"), "Location must be"),
        ("hixie-75", replacing("Protocol: sample", "Protocol: other"), "was not offered"),
        ("hixie-76", lambda lines: lines, "did not answer the challenge"),
        ("hybi-04", replacing("s3pPL", "S3pPL"), "does not answer the key"),
        ("hybi-06", replacing("Upgrade: websocket", "Upgrade: h2c"), "must be 'websocket'"),
        ("RFC 6455", replacing("Connection: Upgrade", "Connection: close"), "must contain"),
        ("RFC 6455", lambda lines: [*lines, " folded"], "invalid header line"),
        ("RFC 6455", lambda lines: ["SSH-2.0 hello", *lines[1:]], "not HTTP"),
    ],
)
def test_wrong_response_fails_the_client_handshake(
    name: str, damage: Callable[[list[str]], list[str]], reason: str
) -> None:
    with pytest.raises(HandshakeFailed, match=reason):
        damaged(name, damage)


def test_http_rejection_is_reported_with_its_body() -> None:
    client = ClientHandshake(Address.parse("ws://localhost:1/"), ALL_VERSIONS[0])
    client.feed(b"HTTP/1.1 401 Unauthorized\r\nX-Why: login\r\n\r\nlog in first")
    with pytest.raises(HandshakeFailed) as caught:
        client.feed(b"")
    error = caught.value
    assert (error.status, error.headers, error.body) == (
        401,
        [("X-Why", "login")],
        b"log in first",
    )


def test_endless_response_head_fails_the_handshake() -> None:
    client = ClientHandshake(Address.parse("ws://localhost:1/"), ALL_VERSIONS[0])
    client.feed(b"HTTP/1.1 200 OK\r\n")
    field = b"X: " + b"y" * 1000 + b"\r\n"
    for _ in range(65):
        client.feed(field)
    with pytest.raises(HandshakeFailed, match="too long"):
        client.feed(field)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://example.com", Address(False, "example.com", 80, "/")),
        ("wss://example.com:80/a?b=c", Address(True, "example.com", 80, "/a?b=c")),
        ("ws://[::1]:8080/x", Address(False, "::1", 8080, "/x")),
    ],
)
def test_url_is_parsed_to_its_address(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "http://x/",
        "ws:///",
        "ws://x/#y",
        "ws://x/\xe9",
        "ws://x:99999/",
        "ws://x/ y",
    ],
)
def test_invalid_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(url)


def test_version_repr_is_its_name() -> None:
    assert [repr(version) for version in ALL_VERSIONS[:2]] == [
        "Version('RFC 6455')",
        "Version('hybi-12')",
    ]
