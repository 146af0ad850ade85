"""kosoku's command line, for the Autobahn cases about permessage-deflate (sections 12 and 13).

These cases need the bytes of a message. If the answer is not compressed, which is allowed for short
or incompressible messages, kosoku 0.1.0 passes them a str: the text, or one character per byte of a
binary message.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from kosoku._caseindex import initialize_shims
from kosoku._cli import main


def with_bytes(on_message: Callable[..., None]) -> Callable[..., None]:
    def on_bytes(case: Any, message: str | bytes, is_binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if is_binary else "utf-8")
        on_message(case, message, is_binary)

    return on_bytes


if __name__ == "__main__":
    initialize_shims()
    cases = importlib.import_module("case12_x_x")
    for case in (*cases.Case12_X_X, *cases.Case13_X_X):
        case.onMessage = with_bytes(case.onMessage)
    main()
