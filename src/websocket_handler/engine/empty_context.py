"""Calls methods in an empty `contextvars` context.

asyncio runs a callback in the context of the code that has scheduled it. So variables that a
request sets, such as the logged-in user, would be visible to listeners of other connections and
stay in memory.
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
