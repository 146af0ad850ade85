# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The engine for Linux: one epoll set, a timerfd and an eventfd for all attached channels.

The engine handles descriptors and timers; `channel` reads and writes.

Threads: everything except waiting runs with the GIL held, so a `send` from any thread is atomic.
A channel is released only in the engine's thread. That may become another thread: if a listener
blocks the engine's thread, the watcher thread takes over (`_watch_for_blocking`).
"""

import logging
from collections import deque
from os import strerror

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit, PyContext_New
from cpython.object cimport PyObject_Size
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EOPNOTSUPP, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, nanosleep, timespec
from posix.unistd cimport close, read, write

from .running_loop import is_in_event_loop
from .stats import Ledger
from .timeouts import DISCARD_TIMEOUT_S
from .linux cimport *
from .tls import Socket, is_tls
from .tls_connection import TlsConnection


cdef enum:
    MAX_EVENTS = 256
    WATCH_TICK_NS = 3000000   # takeover: after a listener has blocked for 2 to 3 ticks
    QUIET_TICKS = 5           # ticks without an iteration before the watcher sleeps


logger: logging.Logger = logging.getLogger("websocket_handler")


cdef uint64_t monotonic_ms() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <uint64_t>time.tv_sec * 1000 + <uint64_t>time.tv_nsec // 1000000


cdef class Pollable:
    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    cdef void ready(self, uint32_t events) noexcept:
        """Called for the events that epoll reports."""

    cdef void end_iteration(self) noexcept:
        """Called at the end of the iteration in which the object was corked (`cork`)."""

    cdef void expired(self) noexcept:
        """Called when its timer has expired."""

    cdef void release(self, str reason) noexcept:
        """Called when the engine is closed."""

    cdef void close_descriptor(self) noexcept:
        close(self.fd)
        self.fd = -1

    cdef void forget_after_fork(self) noexcept:
        """Called in a forked child: close the descriptor, without calls or messages."""
        self.close_descriptor()

    cdef void listener_blocked(self) noexcept:
        """Called when another thread has taken over because a listener of this object blocks. The
        blocked thread calls `listener_returned` when the listener returns."""
        self.busy += 1

    cdef void listener_returned(self) noexcept:
        if self.busy:
            self.busy -= 1


cdef class Timed(Pollable):
    pass


cdef size_t timer_offset(Timed timed) noexcept:
    return <size_t>&timed.timer - <size_t><void *>timed


cdef size_t TIMER_OFFSET = timer_offset(Timed())  # bytes from an object to its timer


cdef class Descriptor(Pollable):
    """A descriptor of the engine itself. It closes itself, because the garbage collector may
    have cleared the engine's attributes before the engine is deallocated."""

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
            self.watched = False


cdef class TimerDescriptor(Descriptor):
    """The timerfd: expires when the earliest timer of all channels may be due."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # `finish_iteration` expires the timers


cdef class WakeupDescriptor(Descriptor):
    """The eventfd: another thread has posted a call."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # `finish_iteration` makes the posted calls


cdef class ListenerContext:
    """The `contextvars` context in which a thread calls message listeners and posted calls. It is
    empty: none of them sees variables that were set by a request or for another connection.

    It is entered at the first call in an iteration. (`Connection` calls the listeners of all other
    events in a context of their own.)
    """

    cdef void enter(self, void *user) noexcept:
        """Enter the context, which is empty again if `user`, a channel, is not the last one."""
        if self.is_entered and not PyObject_Size(self.context):
            self.user = user
            return
        self.leave()
        if self.context is None:
            self.context = PyContext_New()
        PyContext_Enter(self.context)
        self.is_entered = True
        self.user = user

    cdef void leave(self) noexcept:
        """Leave the context if it is entered. Called at the end of an iteration."""
        self.user = NULL
        if self.is_entered:
            self.is_entered = False
            PyContext_Exit(self.context)
            if PyObject_Size(self.context):  # a listener has set a variable
                self.context = None


cdef class EpollEngine:
    """Serves every attached channel from one thread.

    Any event loop can run the engine: it calls `poll()` whenever the descriptor `fileno()` is
    readable. Raises `OSError` if the system has no descriptors left.
    """

    def __cinit__(self, *args, **kwargs):
        self.epoll_fd = -1
        self.timer = TimerDescriptor()
        self.wakeup = WakeupDescriptor()
        self.watcher_event = Descriptor()
        self.listener_context = ListenerContext()
        self.posted = deque()
        self.corked = []
        self.retired = []
        self.rules_by_settings = {}
        self.sinks = set()
        self.timers_of_calls = set()
        self._ledger = Ledger()
        self.open()

    def open(self):
        """Open the descriptors: for a new engine, and in a forked child after
        `forget_after_fork`."""
        self.closing = self.stopping = False
        if self.receive_buffer is None:
            self.receive_buffer = bytearray(RECEIVE_SIZE)
        self.now = monotonic_ms()
        self.armed = WHEEL_NEVER
        wheel_start(&self.timers, self.now)
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        self.wakeup.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.watcher_event.fd = eventfd(0, EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.watcher_event.fd < 0 or not (
            self.watch(self.timer, EPOLLIN) and self.watch(self.wakeup, EPOLLIN)
        ):
            error = OSError(errno, strerror(errno))
            self.close_descriptors()
            raise error

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        while self.spare_count:
            self.spare_count -= 1
            free(self.spare[self.spare_count])

    cdef void close_descriptors(self) noexcept:
        self.timer.close()
        self.wakeup.close()
        if not self.watching:  # the watcher may read it, when its number could be reused
            self.watcher_event.close()
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
            self.epoll_fd = -1

    def fileno(self):
        """Return the descriptor that is readable when `poll` has work to do, -1 if closed."""
        return self.epoll_fd

    @property
    def is_closed(self):
        """Whether the descriptors are closed; a closed engine has no connections."""
        return self.epoll_fd < 0

    def poll(self, timeout=0):
        """Run one iteration: process events, timers and posted calls.

        Waits up to `timeout` seconds for events; None waits without a limit. Returns whether this
        thread still is the engine's: if a listener has blocked, another thread may have taken
        over (`_watch_for_blocking`). Raises `RuntimeError` if the engine is closed or being polled,
        and a `KeyboardInterrupt` or `SystemExit` that a listener or another call has raised.
        """
        if self.epoll_fd < 0:
            raise RuntimeError("the engine is closed")
        if self.serving:
            raise RuntimeError("the engine is being polled already")
        if not self.run_once(-1 if timeout is None else <int>(timeout * 1000)):
            return False
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            raise interruption
        return True

    def _watch_for_blocking(self):
        """Wait, without the GIL, until a listener blocks the engine's thread, then take over.
        Returns True after the takeover, False if the engine was stopped before it.

        The blocked thread is no longer the engine's. Its connection is not served by another
        thread until the listener returns.
        """
        cdef bint took_over = False
        self.watching = True
        while not (self.stopping or took_over):
            with nogil:
                while not self.is_stuck():
                    if self.stopping:
                        break
            took_over = not self.stopping and self.take_over()
        self.watching = False
        if self.epoll_fd < 0:  # the engine was closed and has left `watcher_event` to this thread
            self.watcher_event.close()
        return took_over  # even if the engine was stopped meanwhile: this thread has to close it

    def _stop_watching(self):
        """Make `_watch_for_blocking` return."""
        self.stopping = True
        self.wake_watcher()

    cdef void wake_watcher(self) noexcept:
        cdef uint64_t one = 1
        self.watcher_sleeps = False
        write(self.watcher_event.fd, &one, sizeof(one))

    cdef bint is_stuck(self) noexcept nogil:
        """Watch the iterations for a while. Returns whether one event was processed for a whole
        tick. Sleeps while the engine is idle."""
        cdef uint64_t count
        cdef unsigned long iteration = self.iteration
        cdef unsigned long dispatched = self.dispatched
        cdef int quiet = 0
        while quiet < QUIET_TICKS:
            self.wait_for_tick()
            if self.stopping:
                return False
            if self.serving and self.dispatched == dispatched:
                self.stuck_at = dispatched
                return True
            quiet = quiet + 1 if self.iteration == iteration else 0
            iteration, dispatched = self.iteration, self.dispatched
        self.watcher_sleeps = True
        self.wait_for_tick()  # an iteration that has just begun may not have seen it
        if self.iteration != iteration or self.stopping:
            self.watcher_sleeps = False
            return False
        read(self.watcher_event.fd, &count, sizeof(count))
        return False

    cdef void wait_for_tick(self) noexcept nogil:
        """Sleep for one tick, or until `_stop_watching` is called."""
        cdef timespec tick
        cdef pollfd event
        cdef uint64_t count
        tick.tv_sec = 0
        tick.tv_nsec = WATCH_TICK_NS
        event.fd = self.watcher_event.fd
        event.events = POLLIN
        if ppoll(&event, 1, &tick, NULL) > 0 and not self.stopping:
            read(event.fd, &count, sizeof(count))  # it was sent when the watcher did not sleep
            nanosleep(&tick, NULL)

    cdef bint take_over(self) noexcept:
        """Make the calling thread, which holds the GIL, the engine's. Returns whether it is."""
        cdef Pollable current
        cdef bytearray buffer
        with nogil:  # the engine's thread may only be waiting for the GIL
            self.wait_for_tick()
        try:  # before the check: an allocation may run other threads
            context, buffer = ListenerContext(), bytearray(RECEIVE_SIZE)
        except MemoryError:
            return False
        if not self.serving or self.dispatched != self.stuck_at or self.stopping:
            return False
        self.receive_buffer = buffer  # the blocked thread still uses the old one
        self.listener_context = context  # the old one is entered in the blocked thread
        self.iteration += 1
        self.listener_takeovers += 1
        self.serving = False
        self.owner = PyThread_get_thread_ident()
        if self.current is not NULL:
            current = <Pollable>self.current
            self.current = NULL
            current.listener_blocked()
        self.wake()  # for the events and calls that the blocked iteration has left
        return True

    def _interrupt(self, error):
        """Make `poll` raise `error`, a `KeyboardInterrupt` or `SystemExit` of a listener or call."""
        self.interruption = error
        self.wake()  # a coroutine may have raised it, outside of `poll`

    def _is_own_thread(self):
        """Whether the calling thread is the engine's."""
        return self.owner == PyThread_get_thread_ident()

    def _may_wait(self):
        """Whether the calling thread may block: not the engine's, nor one with a running loop."""
        return not self._is_own_thread() and not is_in_event_loop()

    def _adopt_thread(self):
        """Make the calling thread the engine's."""
        self.owner = PyThread_get_thread_ident()

    def _post(self, call):
        """Make `call()` soon in the engine's thread. Thread-safe. If the engine is closed, makes it
        at once in the calling thread."""
        if self.epoll_fd < 0:
            call()
        else:
            self.posted.append(call)
            self.wake()

    def _call_later(self, double delay, call):
        """Make `call()` in the engine's thread after `delay` seconds. Thread-safe. The engine drops
        the call if it is closed before."""
        cdef CallTimer timer = CallTimer()
        timer.engine = self
        timer.call = call
        self.timers_of_calls.add(timer)
        self.now = monotonic_ms()
        wheel_set(&self.timers, &timer.timer, self.now + <uint64_t>(delay * 1000))
        if not self.serving:
            self.arm()

    cdef void cancel_calls(self) noexcept:
        for timer in self.timers_of_calls:
            wheel_cancel(&(<CallTimer>timer).timer)
        self.timers_of_calls.clear()

    def _try_to_start(self):
        """Return whether the engine can serve another connection."""
        return not self.closing and self.epoll_fd >= 0

    def _attach(self, channel, sock, early=b""):
        """Attach a connected socket, with the `early` bytes already read from it. Thread-safe.

        Detaches `sock`. The channel is attached in the engine's thread, or here if no listener
        has to be called, which saves waking that thread. Raises `RuntimeError` if the engine is
        closed.
        """
        cdef int enabled = 1
        if not EpollEngine._try_to_start(self):  # a subclass has started its thread already
            raise RuntimeError("the engine is closed")
        # The engine itself joins small writes. A Unix socket does not support the option.
        if (setsockopt(sock.fileno(), IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof(enabled)) != 0
                and errno != EOPNOTSUPP):
            raise OSError(errno, strerror(errno))
        if type(sock) is not Socket and is_tls(sock):
            layer = TlsConnection(sock)
            self._post(Arrival(self, channel, layer.fileno(), early, layer))
        else:
            sock.setblocking(False)
            if early or not channel._can_attach_inline():
                self._post(Arrival(self, channel, sock.detach(), early, None))
            else:
                channel._attach_inline(sock.detach())

    def _watch_hang_up(self, int fd, channel):
        """Call `channel._peer_hung_up` once when the peer ends the connection of a socket that a
        transport reads. Returns an object with `cancel()`, or None if the system refuses."""
        cdef HangUp hang_up = HangUp()
        hang_up.engine = self
        hang_up.channel = channel
        hang_up.fd = fd
        if not self.watch(hang_up, EPOLLRDHUP):
            return None
        return hang_up

    def _discard(self, sock):
        """Take over a socket and discard its input until the peer closes it, at most for
        `DISCARD_TIMEOUT_S` after the first bytes."""
        if not self._try_to_start():
            raise RuntimeError("the engine is closed")
        sock.setblocking(False)
        cdef Sink sink = Sink()
        sink.engine = self
        sink.fd = sock.detach()
        if self.watch(sink, EPOLLIN):
            self.sinks.add(sink)
        else:
            close(sink.fd)

    def stats(self):
        """Return counters of all that the engine has done so far. Thread-safe."""
        return self._ledger.stats(self._channels(), self.listener_takeovers)

    def _channels(self):
        """Return every attached channel."""
        cdef list found = []
        cdef void *item = self.first
        while item is not NULL:
            found.append(<Pollable>item)
            item = (<Pollable>item).next
        return found

    def close(self):
        """Drop every connection and close the descriptors, in the engine's thread. In a callback
        of the engine, that is done at the end of the iteration."""
        self.closing = True
        self._stop_watching()  # no takeover any more: `close` listeners may block
        self.end_if_asked()

    cdef void end_if_asked(self) noexcept:
        """Close the engine if `close` was called and no iteration or callback is in progress."""
        if not self.closing or self.serving or self.current is not NULL or self.epoll_fd < 0:
            return
        self.serving = True  # a listener may call `close` again
        self.run_posted(self.iteration)  # a socket may be waiting to be attached
        self.uncork(self.iteration)
        self.drop_all()
        self.cancel_calls()
        self.close_descriptors()
        self.run_posted(self.iteration)  # from now on, `post` makes the calls itself
        self.drop_all()  # what other threads have attached meanwhile; from now on, that fails
        self.listener_context.leave()
        self.serving = False

    cdef void drop_all(self) noexcept:
        """Release every connection, and close the sockets whose input is discarded."""
        for channel in self._channels():
            (<Pollable>channel).release("the engine was closed")
        for sink in list(self.sinks):
            (<Sink>sink).end()
        self.retired.clear()

    def forget_after_fork(self):
        """In a forked child: forget the parent's connections, without calls or messages.

        The epoll set is shared with the parent and is not changed. `open` makes the engine usable
        again. If a listener has forked, its iteration ends when the listener returns.
        """
        cdef bint is_iterating = self.serving and self._is_own_thread()
        self.watching = False  # the watcher thread is in the parent
        self.close_descriptors()
        for call in self.posted:
            if isinstance(call, Arrival):
                call.forget_after_fork()
        self.posted.clear()
        self.corked.clear()
        inherited = self._channels()
        for channel in inherited:
            (<Pollable>channel).forget_after_fork()
            self.unlink(channel)
        for sink in self.sinks:
            (<Sink>sink).forget_after_fork()
        self.sinks.clear()
        self.cancel_calls()
        self.iteration += 1
        self.listener_context = ListenerContext()  # the old one may be entered at the fork
        self.serving = False
        self.current = NULL
        self.owner = 0
        self.watcher_sleeps = False
        self._ledger = Ledger()
        self.retired.clear()
        if is_iterating:  # the iteration uses its buffer and has pointers to its connections
            self.receive_buffer = None
            self.retired.extend(inherited)

    cdef bint run_once(self, int timeout_ms) except -1:
        """Run one iteration. Returns False if another thread has taken over meanwhile."""
        cdef epoll_event events[MAX_EVENTS]
        cdef int count, i
        cdef unsigned long number
        cdef ListenerContext context = self.listener_context
        with nogil:
            count = epoll_wait(self.epoll_fd, events, MAX_EVENTS, timeout_ms)
        self.owner = PyThread_get_thread_ident()
        self.now = monotonic_ms()
        self.iteration += 1
        number = self.iteration
        self.serving = True
        if self.watcher_sleeps:
            self.wake_watcher()
        i = 0
        while i < count and self.iteration == number:
            self.dispatch(<Pollable>events[i].data.ptr, events[i].events, number)
            i += 1
        if self.iteration == number:
            self.finish_iteration(number)
        if context.is_entered:
            context.leave()
        return self.iteration == number

    # A listener may be called in any of these methods. Afterwards, `iteration` differs from `number`
    # if another thread has taken over.

    cdef void enter(self, Pollable pollable) noexcept:
        """Record that calls until `leave` belong to `pollable`: if one blocks, `take_over` marks
        `pollable` as busy."""
        self.dispatched += 1
        self.current = <void *>pollable

    cdef void leave(self, Pollable pollable, unsigned long number) noexcept:
        if self.iteration == number:
            self.current = NULL
        else:
            pollable.listener_returned()

    cdef void dispatch(self, Pollable pollable, uint32_t events, unsigned long number) noexcept:
        self.enter(pollable)
        pollable.ready(events)
        self.leave(pollable, number)

    cdef void finish_iteration(self, unsigned long number) noexcept:
        self.run_posted(number)
        self.expire_timers(number)
        self.uncork(number)
        if self.iteration != number:
            return
        self.arm()
        self.serving = False
        self.retired.clear()
        self.end_if_asked()

    cdef bint cork(self, Pollable pollable) noexcept:
        """Call `end_iteration` at the end of this iteration, or of the event loop's iteration.
        Returns False if neither is in progress."""
        if not self.serving:
            if self._call_soon is None:
                return False
            if not self.corked:
                self._call_soon(self._uncork)
        self.corked.append(pollable)
        return True

    cdef void uncork(self, unsigned long number) noexcept:
        cdef Pollable pollable
        while self.corked and self.iteration == number:
            pollable = <Pollable>self.corked.pop()
            self.enter(pollable)
            pollable.end_iteration()
            self.leave(pollable, number)

    def _uncork(self):
        self.uncork(self.iteration)
        self.end_if_asked()

    cdef void run_posted(self, unsigned long number) noexcept:
        cdef Py_ssize_t left = len(self.posted)
        while left > 0 and self.posted and self.iteration == number:
            left -= 1
            self.dispatched += 1
            call = self.posted.popleft()
            self.listener_context.enter(NULL)
            try:
                call()
            except BaseException as error:
                self.call_failed("a call posted to the engine failed: %r", call, error)

    cdef void call_failed(self, text, call, error) noexcept:
        """Log the error of a call. `poll` raises it if it is meant for the process."""
        if isinstance(error, KeyboardInterrupt | SystemExit):  # Ctrl-C may be raised anywhere
            self._interrupt(error)
        logger.error(text, call, exc_info=error)

    cpdef void wake(self) noexcept:
        """Make a waiting `poll` return. Thread-safe."""
        cdef uint64_t one = 1
        write(self.wakeup.fd, &one, sizeof(one))

    cdef void expire_timers(self, unsigned long number) noexcept:
        cdef Timed timed
        cdef wheel_timer *timer
        while self.iteration == number:
            timer = wheel_expire(&self.timers, self.now)
            if timer is NULL:
                return
            timed = <Timed><void *>(<char *>timer - TIMER_OFFSET)
            self.enter(timed)
            timed.expired()
            self.leave(timed, number)

    cdef void arm(self) noexcept:
        """Set the timerfd to the earliest timer, if that has changed."""
        cdef itimerspec when
        cdef uint64_t next = wheel_next(&self.timers)
        if next == self.armed:
            return
        self.armed = next
        memset(&when, 0, sizeof(when))  # all zero disarms it
        if next != WHEEL_NEVER:
            when.it_value.tv_sec = next // 1000
            when.it_value.tv_nsec = next % 1000 * 1000000
        timerfd_settime(self.timer.fd, TFD_TIMER_ABSTIME, &when, NULL)

    cdef bint watch(self, Pollable pollable, uint32_t interest) noexcept:
        """Set the events to wait for; adds `pollable` to the epoll set the first time. Returns
        False if the system refuses."""
        cdef epoll_event event
        cdef int operation = EPOLL_CTL_MOD if pollable.watched else EPOLL_CTL_ADD
        if pollable.watched and interest == pollable.interest:
            return True
        event.events = interest
        event.data.ptr = <void *>pollable
        if epoll_ctl(self.epoll_fd, operation, pollable.fd, &event) != 0:
            return False
        pollable.interest = interest
        pollable.watched = True
        return True

    cdef void unwatch(self, Pollable pollable) noexcept:
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, pollable.fd, NULL)
        pollable.interest = 0
        pollable.watched = False

    cdef void link(self, Pollable channel) noexcept:
        """Add the channel to the list of attached channels, and hold a reference to it."""
        Py_INCREF(channel)
        channel.previous = NULL
        channel.next = self.first
        if self.first is not NULL:
            (<Pollable>self.first).previous = <void *>channel
        self.first = <void *>channel

    cdef void unlink(self, Pollable channel) noexcept:
        """Remove the channel from the list and drop the reference. During an iteration it stays
        alive until the end, because epoll may have reported events of it."""
        if channel.previous is NULL:
            self.first = channel.next
        else:
            (<Pollable>channel.previous).next = channel.next
        if channel.next is not NULL:
            (<Pollable>channel.next).previous = channel.previous
        channel.next = channel.previous = NULL
        if self.serving:
            self.retired.append(channel)
        Py_DECREF(channel)

    cdef outgoing *take_buffer(self) noexcept:
        """Return an empty send buffer, or NULL if there is no memory."""
        cdef outgoing *buffer
        if self.spare_count:
            self.spare_count -= 1
            buffer = self.spare[self.spare_count]
        else:
            buffer = <outgoing *>malloc(FIRST_SEND_BUFFER)
            if buffer is NULL:
                return NULL
            buffer.capacity = FIRST_SEND_BUFFER - sizeof(outgoing)
        buffer.start = buffer.end = 0
        return buffer

    cdef void give_buffer(self, outgoing *buffer) noexcept:
        if (buffer.capacity == FIRST_SEND_BUFFER - sizeof(outgoing)
                and self.spare_count < SPARE_BUFFERS):
            self.spare[self.spare_count] = buffer
            self.spare_count += 1
        else:
            free(buffer)


cdef class Sink(Timed):
    """Discards the input of a socket until its end, at most for `DISCARD_TIMEOUT_S` after the
    first bytes."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef bytearray buffer = self.engine.receive_buffer
        cdef ssize_t count = recv(self.fd, PyByteArray_AS_STRING(buffer), RECEIVE_SIZE, 0)
        if count == 0 or (count < 0 and errno != EAGAIN and errno != EINTR):
            self.end()
        elif count > 0 and not self.is_timed:
            self.is_timed = True
            wheel_set(&self.engine.timers, &self.timer,
                      self.engine.now + <uint64_t>(DISCARD_TIMEOUT_S * 1000))

    cdef void expired(self) noexcept:
        self.end()

    cdef void end(self) noexcept:
        wheel_cancel(&self.timer)
        self.engine.unwatch(self)
        close(self.fd)
        self.fd = -1
        self.engine.retired.append(self)
        self.engine.sinks.discard(self)

    cdef void forget_after_fork(self) noexcept:
        wheel_cancel(&self.timer)
        self.close_descriptor()


cdef class CallTimer(Timed):
    """A call that `EpollEngine._call_later` delays."""

    cdef void expired(self) noexcept:
        self.engine.timers_of_calls.discard(self)
        self.engine.listener_context.enter(NULL)
        try:
            self.call()
        except BaseException as error:
            self.engine.call_failed("a delayed call of the engine failed: %r", self.call, error)


cdef class HangUp(Pollable):
    """Watches for the end of a connection whose socket a transport reads and closes."""

    cdef void ready(self, uint32_t events) noexcept:
        channel = self.channel
        self.cancel()
        channel._peer_hung_up(events)

    def cancel(self):
        """Stop watching. Must be called before the socket is closed."""
        if self.fd < 0:
            return
        self.engine.unwatch(self)
        self.fd = -1
        self.channel = None
        if self.engine.serving:
            self.engine.retired.append(self)


class Arrival:
    """The call, posted to the engine's thread, that attaches a socket to its channel."""

    __slots__ = ("channel", "early", "engine", "fd", "layer")

    def __init__(self, engine, channel, fd, early, layer):
        self.engine = engine
        self.channel = channel
        self.fd = fd
        self.early = early
        self.layer = layer

    def __call__(self):
        self.channel._attach_here(self.engine, self.fd, self.early, self.layer)

    def forget_after_fork(self):
        """In a forked child: close this process's copy of the socket, without messages."""
        if self.layer is None:
            close(<int>self.fd)
        else:
            self.layer.close()
        self.channel._abandoned()
