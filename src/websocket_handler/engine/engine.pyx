# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The engine for Linux: one epoll set, a timerfd and an eventfd for everything attached.

Knows descriptors and time, and nothing of what is read and written: that is `channel`.

Threads: everything runs with the GIL held except the wait itself, so a `send` from any
thread is whole. A channel leaves (`release`) in the engine's thread only. Which thread that is
may change: where a listener blocks it, another one takes over (`watch_for_blocking`).
"""

import logging
from asyncio import _get_running_loop
from collections import deque
from os import strerror
from socket import AF_UNIX, IPPROTO_TCP, TCP_NODELAY

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit, PyContext_New
from cpython.object cimport PyObject_Size
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, nanosleep, timespec
from posix.unistd cimport close, read, write

from .stats import Ledger
from .linux cimport *
from .tls import TlsConnection, is_tls


cdef enum:
    EVENTS_PER_TURN = 256
    WATCH_TICK_NS = 3000000   # a listener may block for one to two of these
    QUIET_TICKS = 5           # without a turn, before the watcher sleeps


logger = logging.getLogger("websocket_handler")


cdef uint64_t monotonic_ms() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <uint64_t>time.tv_sec * 1000 + <uint64_t>time.tv_nsec // 1000000


cdef class Pollable:
    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    cdef void ready(self, uint32_t events) noexcept:
        """epoll named it."""

    cdef void end_iteration(self) noexcept:
        """The turn in which it asked for this (`EpollEngine.corked`) comes to its end."""

    cdef void expired(self) noexcept:
        """Its time-out is due."""

    cdef void release(self, str reason) noexcept:
        """Leave the engine, which ends."""

    cdef void close_descriptor(self) noexcept:
        close(self.fd)
        self.fd = -1

    cdef void forget_after_fork(self) noexcept:
        """In a forked child: let go without a word to anyone."""
        self.close_descriptor()

    cdef void listener_blocked(self) noexcept:
        """Another thread turns the engine now; the one in here comes to `listener_returned`."""
        self.busy += 1

    cdef void listener_returned(self) noexcept:
        if self.busy:
            self.busy -= 1


cdef class Descriptor(Pollable):
    """One of the engine's own. It closes itself: when an engine is deallocated, the garbage
    collector may have taken its attributes already."""

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
            self.watched = False


cdef class TimerDescriptor(Descriptor):
    """The timerfd: goes off when the earliest time-out of all channels may be due."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # the timers are looked at in `end_turn`


cdef class WakeupDescriptor(Descriptor):
    """The eventfd: another thread has posted something."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # the calls are made in `end_turn`


cdef class ListenerContext:
    """The `contextvars` context in which a thread calls listeners: empty, so that no listener
    sees a variable that a request has set, or a listener of another connection."""

    cdef void enter(self) noexcept:
        if self.context is None or PyObject_Size(self.context):
            self.context = PyContext_New()
        PyContext_Enter(self.context)

    cdef void leave(self) noexcept:
        PyContext_Exit(self.context)

    cdef void renew(self) noexcept:
        """Replace it by an empty one if a listener has set a variable in it."""
        if self.context is not None and PyObject_Size(self.context):
            self.leave()
            self.context = None
            self.enter()


cdef class EpollEngine:
    """Serves every attached channel from one thread.

    `fileno()` is readable when something is to be done and `poll()` does it: that is all a
    foreign event loop needs. Raises `OSError` if the kernel has no descriptors left.
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
        self.ledger = Ledger()
        self.open()

    def open(self):
        """Begin without connections: at the start, and in a forked child after `forget_after_fork`."""
        self.closing = self.stopping = False
        if self.receive_buffer is NULL:
            self.receive_buffer = <uint8_t *>malloc(RECEIVE_SIZE)
        if self.receive_buffer is NULL:
            raise MemoryError
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
        free(self.receive_buffer)
        while self.spare_count:
            self.spare_count -= 1
            free(self.spare[self.spare_count])

    cdef void close_descriptors(self) noexcept:
        self.timer.close()
        self.wakeup.close()
        if not self.watching:  # or its number might be another descriptor's when it is read
            self.watcher_event.close()
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
            self.epoll_fd = -1

    def fileno(self):
        """The descriptor that is readable when `poll` has something to do."""
        return self.epoll_fd

    @property
    def is_closed(self):
        """Whether it has no descriptors: then it has no connections either."""
        return self.epoll_fd < 0

    def poll(self, timeout=0):
        """Serve what is ready. Waits up to `timeout` seconds for it, None for ever.

        Returns whether this thread is still the one that turns the engine: if a listener
        blocked in it, another may have taken over (`watch_for_blocking`).
        """
        if self.epoll_fd < 0:
            raise RuntimeError("the engine is closed")
        if self.serving:
            raise RuntimeError("the engine is being polled already")
        if not self.turn(-1 if timeout is None else <int>(timeout * 1000)):
            return False
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            raise interruption
        return True

    def watch_for_blocking(self):
        """Wait, without the GIL, until a listener blocks the thread that turns the engine, and
        take over; returns False if the engine ends before.

        The blocked thread goes on with its own connection when its listener returns, which
        nobody else touches until then, and is no longer the engine's.
        """
        self.watching = True
        while not self.stopping:
            with nogil:
                while not self.is_stuck():
                    if self.stopping:
                        break
            if not self.stopping and self.take_over():
                break
        self.watching = False
        if self.epoll_fd < 0:  # and the bell was left to us
            self.watcher_event.close()
        return not self.stopping

    def stop_watching(self):
        """Have `watch_for_blocking` return."""
        self.stopping = True
        self.wake_watcher()

    cdef void wake_watcher(self) noexcept:
        cdef uint64_t one = 1
        self.watcher_sleeps = False
        write(self.watcher_event.fd, &one, sizeof(one))

    cdef bint is_stuck(self) noexcept nogil:
        """Look at the turns for a while: whether one event was being served all the time.
        Sleeps while there are no turns at all."""
        cdef timespec tick
        cdef uint64_t count
        cdef unsigned long turns = self.turns
        cdef unsigned long served = self.served
        cdef int quiet = 0
        tick.tv_sec = 0
        tick.tv_nsec = WATCH_TICK_NS
        while quiet < QUIET_TICKS:
            nanosleep(&tick, NULL)
            if self.stopping:
                return False
            if self.serving and self.served == served:
                self.stuck_at = served
                return True
            quiet = quiet + 1 if self.turns == turns else 0
            turns, served = self.turns, self.served
        self.watcher_sleeps = True
        read(self.watcher_event.fd, &count, sizeof(count))
        return False

    cdef bint take_over(self) noexcept:
        """The calling thread, which has the GIL, turns the engine from now on."""
        cdef Pollable current
        cdef uint8_t *buffer
        cdef timespec tick
        tick.tv_sec = 0
        tick.tv_nsec = WATCH_TICK_NS
        with nogil:  # for a thread that only waits for the GIL itself
            nanosleep(&tick, NULL)
        if not self.serving or self.served != self.stuck_at or self.stopping:
            return False
        buffer = <uint8_t *>malloc(RECEIVE_SIZE)
        if buffer is NULL:
            return False
        self.receive_buffer = buffer  # what is in the old one, the blocked thread still needs
        self.listener_context = ListenerContext()  # the old one is entered in that thread
        self.turns += 1
        self.listener_takeovers += 1
        self.serving = False
        self.owner = PyThread_get_thread_ident()
        if self.current is not NULL:
            current = <Pollable>self.current
            self.current = NULL
            current.listener_blocked()
        self.wake()  # what the blocked turn has left over
        return True

    def interrupt(self, error):
        """Have `poll` raise what is meant for the program and not for us: Ctrl-C, exit."""
        self.interruption = error
        self.wake()  # it may be a coroutine's, outside of `poll`

    def is_own_thread(self):
        """Whether the caller runs in the thread that turns the engine."""
        return self.owner == PyThread_get_thread_ident()

    def may_wait(self):
        """Whether the calling thread may wait for a peer: none that serves others may."""
        return not self.is_own_thread() and _get_running_loop() is None

    def adopt_thread(self):
        """Declare the calling thread the one that turns the engine."""
        self.owner = PyThread_get_thread_ident()

    def post(self, call):
        """Have `call()` made in the engine's thread, soon. Safe from any thread. Once the engine
        is closed it has no thread any more: the call is made here."""
        if self.epoll_fd < 0:
            call()
        else:
            self.posted.append(call)
            self.wake()

    def try_to_start(self):
        """Returns whether the engine can serve another connection."""
        return not self.closing and self.epoll_fd >= 0

    def attach(self, channel, sock, early=b""):
        """Give a connected socket to the engine, with bytes already read from it.

        Takes the socket away from `sock`, in any thread; the rest happens in the engine's, or
        here if nobody would be called: that thread need not wake for it.
        """
        if not self.try_to_start():
            raise RuntimeError("the engine is closed")
        if sock.family != AF_UNIX:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, True)  # what is sent together leaves together
        if is_tls(sock):
            layer = TlsConnection(sock)
            self.post(Arrival(self, channel, layer.fileno(), early, layer))
        else:
            sock.setblocking(False)
            if early or not channel._can_attach_inline():
                self.post(Arrival(self, channel, sock.detach(), early, None))
            else:
                channel._attach_inline(sock.detach())

    def watch_hang_up(self, int fd, channel):
        """Have `channel._peer_hung_up` called, once, when the peer of a socket that others
        read ends the connection; until the result is `cancel`led. None if that cannot be."""
        cdef HangUp hang_up = HangUp()
        hang_up.engine = self
        hang_up.channel = channel
        hang_up.fd = fd
        if not self.watch(hang_up, EPOLLRDHUP):
            return None
        return hang_up

    def discard(self, sock):
        """Take a socket over to throw away what arrives on it, until its end."""
        if not self.try_to_start():
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
        """An account of what happened so far; from any thread."""
        return self.ledger.stats(self.channels(), self.listener_takeovers)

    def channels(self):
        """Every attached channel."""
        cdef list found = []
        cdef void *item = self.first
        while item is not NULL:
            found.append(<Pollable>item)
            item = (<Pollable>item).next
        return found

    def close(self):
        """Drop every connection as it is and give back the descriptors: now, or at the end of
        the iteration in which one of its callbacks asks for it. In the thread that polls."""
        self.closing = True
        self.stop_watching()  # listeners that are called at the end may block
        self.end_if_asked()

    cdef void end_if_asked(self) noexcept:
        """Close the engine if `close` was called and nothing here is in the middle of it."""
        if not self.closing or self.serving or self.current is not NULL or self.epoll_fd < 0:
            return
        self.serving = True  # a listener may call `close` again
        self.run_posted(self.turns)  # a socket may be waiting to be taken in
        self.uncork(self.turns)
        for channel in self.channels():
            (<Pollable>channel).release("the engine was closed")
        self.retired.clear()
        for sink in self.sinks:
            close((<Sink>sink).fd)
        self.sinks.clear()
        self.close_descriptors()
        self.run_posted(self.turns)  # from here on, `post` makes the calls itself
        self.serving = False

    def forget_after_fork(self):
        """In a forked child: let go of what belongs to the parent, without a word to anyone.

        The epoll set is shared with the parent, so nothing is taken out of it. `open` begins
        anew. An iteration that has forked, in a listener, ends when that returns.
        """
        cdef bint is_iterating = self.serving and self.is_own_thread()
        self.watching = False  # that thread is the parent's
        self.close_descriptors()
        for call in self.posted:
            if isinstance(call, Arrival):
                call.forget_after_fork()
        self.posted.clear()
        self.corked.clear()
        inherited = self.channels()
        for channel in inherited:
            (<Pollable>channel).forget_after_fork()
            self.unlink(channel)
        for sink in self.sinks:
            close((<Sink>sink).fd)
        self.sinks.clear()
        self.turns += 1
        self.listener_context = ListenerContext()  # the old one may be entered in that process
        self.serving = False
        self.current = NULL
        self.owner = 0
        self.watcher_sleeps = False
        self.ledger = Ledger()
        self.retired.clear()
        if is_iterating:  # which frees its buffer, and has pointers to its connections
            self.receive_buffer = NULL
            self.retired.extend(inherited)

    cdef bint turn(self, int timeout_ms) except -1:
        """Returns False if another thread has taken over meanwhile."""
        cdef epoll_event events[EVENTS_PER_TURN]
        cdef int count, i
        cdef unsigned long number
        cdef uint8_t *buffer = self.receive_buffer
        cdef ListenerContext context = self.listener_context
        with nogil:
            count = epoll_wait(self.epoll_fd, events, EVENTS_PER_TURN, timeout_ms)
        self.owner = PyThread_get_thread_ident()
        self.now = monotonic_ms()
        self.turns += 1
        number = self.turns
        self.serving = True
        if self.watcher_sleeps:
            self.wake_watcher()
        context.enter()
        i = 0
        while i < count and self.turns == number:
            self.serve(<Pollable>events[i].data.ptr, events[i].events, number)
            i += 1
        if self.turns == number:
            self.end_turn(number)
        context.leave()
        if self.turns == number:
            return True
        free(buffer)  # the thread that has taken over has one of its own
        return False

    # Wherever a listener may be called: afterwards `turns` says whether another thread has taken
    # over meanwhile.

    cdef void enter(self, Pollable pollable) noexcept:
        """Whatever is called until `leave` is in the name of `pollable`: if it blocks, `take_over`
        knows that another thread is in there."""
        self.served += 1
        self.current = <void *>pollable

    cdef void leave(self, Pollable pollable, unsigned long number) noexcept:
        if self.turns == number:
            self.current = NULL
            self.listener_context.renew()
        else:
            pollable.listener_returned()

    cdef void serve(self, Pollable pollable, uint32_t events, unsigned long number) noexcept:
        self.enter(pollable)
        pollable.ready(events)
        self.leave(pollable, number)

    cdef void end_turn(self, unsigned long number) noexcept:
        self.run_posted(number)
        self.expire_timers(number)
        self.uncork(number)
        if self.turns != number:
            return
        self.arm()
        self.serving = False
        self.retired.clear()
        self.end_if_asked()

    cdef bint cork(self, Pollable pollable) noexcept:
        """Call `end_iteration` at the end of this turn, or of this turn of the loop we live in;
        returns whether there is such an end."""
        if not self.serving:
            if self._call_soon is None:
                return False
            if not self.corked:
                self._call_soon(self._uncork)
        self.corked.append(pollable)
        return True

    cdef void uncork(self, unsigned long number) noexcept:
        cdef Pollable pollable
        while self.corked and self.turns == number:
            pollable = <Pollable>self.corked.pop()
            self.enter(pollable)
            pollable.end_iteration()
            self.leave(pollable, number)

    def _uncork(self):
        cdef ListenerContext context = self.listener_context
        context.enter()
        self.uncork(self.turns)
        context.leave()
        self.end_if_asked()

    cdef void run_posted(self, unsigned long number) noexcept:
        cdef Py_ssize_t left = len(self.posted)
        while left > 0 and self.posted and self.turns == number:
            left -= 1
            self.served += 1
            call = self.posted.popleft()
            try:
                call()
            except BaseException:
                logger.exception("a call posted to the engine failed: %r", call)
            if self.turns == number:
                self.listener_context.renew()

    cpdef void wake(self) noexcept:
        """Let a waiting `poll` return. Safe from any thread."""
        cdef uint64_t one = 1
        write(self.wakeup.fd, &one, sizeof(one))

    cdef void expire_timers(self, unsigned long number) noexcept:
        cdef Pollable pollable
        cdef wheel_timer *timer
        while self.turns == number:
            timer = wheel_expire(&self.timers, self.now)
            if timer is NULL:
                return
            pollable = <Pollable>timer.owner
            self.enter(pollable)
            pollable.expired()
            self.leave(pollable, number)

    cdef void arm(self) noexcept:
        """Set the timerfd to the earliest time-out, if that has changed."""
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
        """Wait for other events of `pollable`; puts it into the epoll set the first time."""
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
        """Hold a reference to the channel for as long as it is attached."""
        Py_INCREF(channel)
        channel.previous = NULL
        channel.next = self.first
        if self.first is not NULL:
            (<Pollable>self.first).previous = <void *>channel
        self.first = <void *>channel

    cdef void unlink(self, Pollable channel) noexcept:
        """Let it go; what epoll may already have named in this turn lives until its end."""
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
        """An empty one, or NULL."""
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


cdef class Sink(Pollable):
    cdef void ready(self, uint32_t events) noexcept:
        cdef ssize_t count = recv(self.fd, self.engine.receive_buffer, RECEIVE_SIZE, 0)
        if count > 0 or (count < 0 and (errno == EAGAIN or errno == EINTR)):
            return
        self.engine.unwatch(self)
        close(self.fd)
        self.fd = -1
        self.engine.retired.append(self)
        self.engine.sinks.discard(self)


cdef class HangUp(Pollable):
    """The end of a connection whose socket somebody else reads, and closes."""

    cdef void ready(self, uint32_t events) noexcept:
        channel = self.channel
        self.cancel()
        channel._peer_hung_up(events)

    def cancel(self):
        """Wait no longer. Before the socket is closed."""
        if self.fd < 0:
            return
        self.engine.unwatch(self)
        self.fd = -1
        self.channel = None
        if self.engine.serving:
            self.engine.retired.append(self)


class Arrival:
    """The call that takes a socket in, posted to the engine's thread."""

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
        """In a forked child: close its copy of the socket, without a word to the peer."""
        if self.layer is None:
            close(<int>self.fd)
        else:
            self.layer.close()
        self.channel._abandoned()
