"""The prompt of an interactive connection: a line editor with history."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout

from ..errors import ConnectionClosed
from .connect import Session

MAX_HISTORY_SIZE = 1 << 20
"""The size of the history's file in bytes, from which a new one is begun."""


def converse(session: Session) -> None:
    """Perform the lines that the user types, until Ctrl-C, Ctrl-D or the end of the connection."""
    prompt: PromptSession[str] = PromptSession(
        history=history(),
        completer=WordCompleter(["/ping", "/close", "/help"], sentence=True),
        complete_while_typing=False,
        key_bindings=key_bindings(),
    )

    def exit_if_ended() -> None:
        app = prompt.app
        if session.ended.is_set() and app.future is not None and not app.future.done():
            app.exit(exception=EOFError())

    def on_end() -> None:
        loop = prompt.app.loop
        if loop is not None:  # the prompt is shown
            with contextlib.suppress(RuntimeError):  # its event loop has just ended
                loop.call_soon_threadsafe(exit_if_ended)

    session.on_end = on_end
    with (
        patch_stdout(raw=True),
        prompt.input.raw_mode(),  # also between two prompts, so that no key is lost
        contextlib.suppress(EOFError, KeyboardInterrupt, ConnectionClosed),
    ):
        while not session.ended.is_set():
            session.perform_line(prompt.prompt("> ", pre_run=exit_if_ended))


def key_bindings() -> KeyBindings:
    """Ctrl-C clears the line; on an empty line it ends the prompt."""
    bindings = KeyBindings()

    @bindings.add("c-c")
    def _interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


def history() -> History:
    """Return the history of former sessions, which only the user can read."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state, "websocket-handler", "history")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        if path.stat().st_size > MAX_HISTORY_SIZE:
            path.unlink()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
