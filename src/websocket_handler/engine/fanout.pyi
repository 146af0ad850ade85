from collections.abc import Container
from typing import Any

from ..protocol.prepared import PreparedMessage

def fan_out(
    members: tuple[Any, ...], message: PreparedMessage, excluded: Container[Any] = ()
) -> tuple[int, list[Any]]: ...
