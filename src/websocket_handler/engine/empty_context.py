"""Calls in an empty `contextvars` context.

asyncio calls back in the context of the code that asked for it. So what a request sets, the
logged-in user for example, would be seen by listeners of other connections, and be kept alive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


def in_empty_context(method: Method) -> Method:
    """Decorate a method so that it always runs in an empty context."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return Context().run(method, *args, **kwargs)

    return cast(Method, call)
