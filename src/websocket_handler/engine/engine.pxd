# cython: language_level=3
"""Declares the attributes and C methods of the engine; `engine.pyx` implements them."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "core/wheel.h" nogil:
    const uint64_t WHEEL_NEVER

    ctypedef struct wheel_timer:
        void *link
        uint64_t due

    ctypedef struct wheel:
        pass

    void wheel_start(wheel *w, uint64_t now)
    void wheel_set(wheel *w, wheel_timer *timer, uint64_t due)
    void wheel_cancel(wheel_timer *timer)
    wheel_timer *wheel_expire(wheel *w, uint64_t now)
    uint64_t wheel_next(const wheel *w)


cdef enum:
    RECEIVE_SIZE = 81920      # bytes of the receive buffer: fits a 64 KiB message with its header
    FIRST_SEND_BUFFER = 4096  # bytes of a new send buffer, `outgoing` included
    SPARE_BUFFERS = 8         # unused send buffers of that size that are kept


cdef uint64_t monotonic_ms() noexcept nogil


# The head of a send buffer, which follows it in memory: the bytes from `start` to `end` are unsent.
ctypedef struct outgoing:
    size_t start
    size_t end
    size_t capacity


cdef class Pollable:
    """An object with a descriptor in the epoll set. `fd` is -1 after it has left the engine."""
    cdef int fd
    cdef uint16_t interest             # requested epoll events
    cdef uint8_t watched               # whether it is in the epoll set
    cdef uint8_t busy                  # number of threads blocked in its listeners
    cdef void *next                    # neighbours in the list of attached channels
    cdef void *previous
    cdef void ready(self, uint32_t events) noexcept
    cdef void end_iteration(self) noexcept
    cdef void expired(self) noexcept
    cdef void release(self, str reason) noexcept
    cdef void close_descriptor(self) noexcept
    cdef void forget_after_fork(self) noexcept
    cdef void listener_blocked(self) noexcept
    cdef void listener_returned(self) noexcept


cdef class Timed(Pollable):
    """An object with a timer, which calls `expired`."""
    cdef wheel_timer timer


cdef class Descriptor(Pollable):
    cdef void close(self) noexcept


cdef class ListenerContext:
    cdef object context
    cdef bint is_entered
    cdef void *user                    # the channel whose listeners are called in it
    cdef void enter(self, void *user) noexcept
    cdef void leave(self) noexcept


cdef class EpollEngine:
    cdef int epoll_fd
    cdef Descriptor timer
    cdef Descriptor wakeup
    cdef wheel timers
    cdef uint64_t armed                # ms: when the timerfd expires
    cdef uint64_t now                  # ms, read once per iteration
    cdef unsigned long owner           # the thread that polls the engine
    cdef bint serving                  # an iteration is in progress
    cdef unsigned long iteration       # number of the iteration; also changed by a takeover
    cdef unsigned long dispatched      # number of calls to channels and posted calls so far
    cdef unsigned long stuck_at        # the one of them that blocks the engine's thread
    cdef readonly unsigned long listener_takeovers
    cdef readonly object _ledger
    cdef void *current                 # the object whose event is being served
    cdef Descriptor watcher_event               # an eventfd that wakes the watcher thread
    cdef bint watcher_sleeps           # the watcher thread reads `watcher_event`
    cdef bint watching                 # a thread is in `_watch_for_blocking`
    cdef bint stopping                 # `_watch_for_blocking` must return
    cdef bint closing                  # close now, or at the end of the iteration in progress
    cdef bytearray receive_buffer      # shared: a connection has none of its own
    cdef outgoing *spare[SPARE_BUFFERS] # unused send buffers
    cdef size_t spare_count
    cdef ListenerContext listener_context  # of the thread that polls
    cdef object interruption           # a KeyboardInterrupt or SystemExit that `poll` raises
    cdef object posted                 # calls for the engine's thread
    cdef list corked                   # channels to flush at the end of the iteration
    cdef public object _call_soon      # of the event loop that the engine runs in, if it does
    cdef list retired                  # released in this iteration; epoll may have reported them
    cdef dict rules_by_settings        # one `ConnectionLimits` for connections with equal settings
    cdef set sinks                     # sockets whose input is discarded
    cdef set timers_of_calls           # one `CallTimer` for each `call_later`
    cdef void *first                   # linked list of the attached channels
    cdef object __weakref__

    cdef void close_descriptors(self) noexcept
    cdef bint run_once(self, int timeout_ms) except -1
    cdef void enter(self, Pollable pollable) noexcept
    cdef void leave(self, Pollable pollable, unsigned long number) noexcept
    cdef void dispatch(self, Pollable pollable, uint32_t events, unsigned long number) noexcept
    cdef void finish_iteration(self, unsigned long number) noexcept
    cdef void end_if_asked(self) noexcept
    cdef void drop_all(self) noexcept
    cdef void cancel_calls(self) noexcept
    cdef bint is_stuck(self) noexcept nogil
    cdef bint take_over(self) noexcept
    cdef void wait_for_tick(self) noexcept nogil
    cdef void wake_watcher(self) noexcept
    cdef bint cork(self, Pollable pollable) noexcept
    cdef void uncork(self, unsigned long number) noexcept
    cdef bint watch(self, Pollable pollable, uint32_t interest) noexcept
    cdef void unwatch(self, Pollable pollable) noexcept
    cdef void arm(self) noexcept
    cdef void expire_timers(self, unsigned long number) noexcept
    cdef void run_posted(self, unsigned long number) noexcept
    cdef void call_failed(self, text, call, error) noexcept
    cpdef void wake(self) noexcept
    cdef void link(self, Pollable channel) noexcept
    cdef void unlink(self, Pollable channel) noexcept
    cdef outgoing *take_buffer(self) noexcept
    cdef void give_buffer(self, outgoing *buffer) noexcept


cdef class Sink(Timed):
    cdef EpollEngine engine
    cdef bint is_timed                 # the first bytes have arrived
    cdef void end(self) noexcept


cdef class CallTimer(Timed):
    cdef EpollEngine engine
    cdef object call


cdef class HangUp(Pollable):
    cdef EpollEngine engine
    cdef object channel
