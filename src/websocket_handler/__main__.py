"""The command line: `websocket-handler`, or `python -m websocket_handler`.

Without a command it runs the echo demo, by default on http://localhost:4080.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

EXTRA = ("click", "prompt_toolkit", "rich")
"""The packages of the extra `cli`, which every command but `demo` needs."""

COMPLETION = "_WEBSOCKET_HANDLER_COMPLETE"
"""The environment variable with which click's shell completion calls the program."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code of the process."""
    given = sys.argv[1:] if arguments is None else arguments
    if is_for_demo(given):
        from .cli import demo

        return demo.run(given[1:] if given[:1] == ["demo"] else given)
    if given == ["keep"]:
        from .moving import keeper

        return keeper.run()
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"This command needs {', '.join(missing)}: pip install 'websocket-handler[cli]'. "
            "`websocket-handler demo` works without.\n"
        )
        return 2
    from .cli.commands import run

    return run(given)


def is_for_demo(arguments: list[str]) -> bool:
    """Whether the command is `demo`, which is also the default, with or without options."""
    if COMPLETION in os.environ:
        return False
    first = arguments[0] if arguments else "demo"
    return first == "demo" or (first.startswith("-") and first not in ("-h", "--help", "--version"))


if __name__ == "__main__":
    sys.exit(main())
