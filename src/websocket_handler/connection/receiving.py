"""Received messages: their way to a listener, a reader or a backlog, and the pauses of reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..engine import Channel
from ..engine.empty_context import in_empty_context
from ..engine.native_locks import native_rlock
from ..protocol.assembly import Close
from ..protocol.close_codes import CloseCode
from ..protocol.state import State
from ..settings import Settings
from .inbox import Backlog, LoopInbox, ThreadInbox

STATES_WITH_MESSAGES = (State.CONNECTING, State.OPEN)


class ReceivingConnection(Channel):
    """Passes each message to the message listener, the inbox of a reader, or, until there is one
    of them, a backlog. Pauses reading while the application does not keep up."""

    __slots__ = ("_inbox", "_settings", "_state")

    _settings: Settings
    _state: State
    _inbox: LoopInbox | ThreadInbox | None

    _state_lock: ClassVar = native_rlock()
    """A lock, shared by all connections and held briefly to change the state of a connection, its
    listeners or its queues."""

    _close: Close = Close(int(CloseCode.ABNORMAL_CLOSURE), "")  # of a connection that nobody closes
    _backlog: Backlog | None = None
    _exceeded_limit = ""  # of which side, and which one, after it has ended the connection
    _holds_too_much = False  # more than high water is queued behind a fragmented message

    def _queue_unclaimed(self, message: Any) -> None:
        """Queue a message until there is a listener or a reader."""
        if self._state is not State.OPEN:
            return
        with self._state_lock:
            listener = self._message_listener  # another thread may just have added one
            if listener is None and self._inbox is not None:  # or have begun to receive
                listener = self._inbox.put
            elif listener is None:
                self._backlog = Backlog(self, self._settings.high_water)
                listener = self._message_listener = self._backlog.put
        listener(message)

    def _deliver_backlog(self) -> None:
        """Pass the backlog and later messages to the listener that was added meanwhile."""
        if self._backlog is not None and self._backlog.listener is not None:
            self._set_message_listener(self._backlog.listener)

    @in_empty_context
    def _set_message_listener(self, listener: Callable[[Any], object] | None) -> None:
        """Pass the backlog, then all later messages, to `listener`, until it is removed or the
        connection is closed."""
        with self._state_lock:
            backlog = self._backlog
            if backlog is not None:
                self._backlog = None
            self._message_listener = listener if self._accepts_messages() else None
        for message in backlog.messages if backlog else ():
            try:
                (self._message_listener or self._queue_unclaimed)(message)
            except BaseException as error:
                self._failed(error)
        if backlog and backlog.is_full:
            self._resume_reading()

    def _set_inbox(self, inbox: LoopInbox | ThreadInbox) -> None:
        if not self._accepts_messages():  # closed: the backlog can still be received
            self._pass_backlog_to(inbox)
        self._set_message_listener(inbox.put)
        if isinstance(inbox, LoopInbox) and inbox.same_loop:
            self._after_messages = inbox.end_read
            inbox.end_read()  # for the messages of the backlog
        if self._state is State.CLOSED:
            self._end_inbox()

    def _end_inbox(self) -> None:
        """Pass the end of the connection to the reader, after the messages that were received
        before: another thread may have begun to receive just now, and not have them yet."""
        inbox = self._inbox
        if inbox is not None and not inbox.is_ended:
            self._pass_backlog_to(inbox)
            inbox.end(self._close.code, self._close.reason, self._exceeded_limit)

    def _pass_backlog_to(self, inbox: LoopInbox | ThreadInbox) -> None:
        backlog, self._backlog = self._backlog, None
        for message in backlog.messages if backlog is not None else ():
            inbox.put(message)

    def _pause_for_backlog(self) -> None:
        """Pause reading: too many messages wait for the application."""
        self._pause_reading(True)
        self._notify_drain_waiters(full=True)

    def _resume_reading(self) -> None:
        """Resume reading, unless there is another reason to pause."""
        is_full = self._holds_too_much and not self._is_client
        self._pause_reading(self._accepts_messages() and (is_full or self._is_reading_paused()))

    def _pause(self, paused: bool) -> None:
        """Pause or resume reading for the application."""
        if self._accepts_messages():
            self._paused = paused
            self._resume_reading()
            if paused:
                self._notify_drain_waiters(full=True)

    def _is_reading_paused(self) -> bool:
        """Whether reading is paused until the application resumes it or takes messages."""
        waiting = self._inbox or self._backlog
        return self._paused or (waiting is not None and waiting.is_full)

    def _accepts_messages(self) -> bool:
        """Whether messages are still delivered: they are discarded once the connection closes."""
        return self._state in STATES_WITH_MESSAGES

    # Implemented by `Connection`

    def _in_engine(self, call: Callable[[], object]) -> None:
        raise NotImplementedError

    def _notify_drain_waiters(self, full: bool = False) -> None:
        raise NotImplementedError
