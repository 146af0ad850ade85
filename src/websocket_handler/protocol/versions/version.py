"""What a version of the protocol is, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..message import Decoder, Encoder, Limits
from ..request import Headers, Request


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version: how its request is recognised and answered, and its codec.

    `number` is what `Sec-WebSocket-Version` carries, None before that header existed.
    `find_defect` gives the first thing wrong with a request of this version, or None.
    `answer` gives the head of the response and whatever follows it.
    """

    name: str
    number: int | None
    is_asked_for: Callable[[Request], bool]
    find_defect: Callable[[Request], str | None]
    answer: Callable[[Request, str | None, Headers], bytes]
    decoder: Callable[[Limits, bool], Decoder]
    encoder: Callable[[bool], Encoder]

    def __str__(self) -> str:
        return self.name
