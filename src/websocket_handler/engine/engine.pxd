# cython: language_level=3
"""The engine's table of contents; `engine.pyx` says how."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "core/wheel.h" nogil:
    const uint64_t WHEEL_NEVER

    ctypedef struct wheel_timer:
        uint64_t due
        void *owner

    ctypedef struct wheel:
        pass

    void wheel_start(wheel *w, uint64_t now)
    void wheel_set(wheel *w, wheel_timer *timer, uint64_t due)
    void wheel_cancel(wheel_timer *timer)
    wheel_timer *wheel_expire(wheel *w, uint64_t now)
    uint64_t wheel_next(const wheel *w)


cdef enum:
    RECEIVE_SIZE = 81920      # the receive buffer: a message of 64 KiB fits with its header
    FIRST_SEND_BUFFER = 4096  # with its `outgoing`
    SPARE_BUFFERS = 8         # send buffers of that size that wait for their next use


cdef uint64_t monotonic_ms() noexcept nogil


# What has not been sent yet and was copied, at the start of the buffer it is in: of the bytes
# that follow, those from `start` to `end`.
ctypedef struct outgoing:
    size_t start
    size_t end
    size_t capacity


cdef class Pollable:
    """Something in the epoll set. `fd` is -1 once it has left."""
    cdef int fd
    cdef uint16_t interest             # in these events
    cdef uint8_t watched
    cdef uint8_t busy                  # threads that were left behind in it: a listener blocks
    cdef void *next                    # its neighbours among the attached channels
    cdef void *previous
    cdef void ready(self, uint32_t events) noexcept
    cdef void end_iteration(self) noexcept
    cdef void expired(self) noexcept
    cdef void release(self, str reason) noexcept
    cdef void close_descriptor(self) noexcept
    cdef void forget_after_fork(self) noexcept
    cdef void listener_blocked(self) noexcept
    cdef void listener_returned(self) noexcept


cdef class Descriptor(Pollable):
    cdef void close(self) noexcept


cdef class ListenerContext:
    cdef object context
    cdef void enter(self) noexcept
    cdef void leave(self) noexcept
    cdef void renew(self) noexcept


cdef class EpollEngine:
    cdef int epoll_fd
    cdef Descriptor timer
    cdef Descriptor wakeup
    cdef wheel timers
    cdef uint64_t armed                # when the timerfd goes off
    cdef uint64_t now                  # milliseconds, read once a turn
    cdef unsigned long owner           # the thread that turns the engine
    cdef bint serving                  # whether a turn is under way
    cdef unsigned long turns           # changes also when another thread takes over
    cdef unsigned long served          # events of turns so far
    cdef unsigned long stuck_at        # which of them lasted too long
    cdef readonly unsigned long listener_takeovers
    cdef readonly object ledger
    cdef void *current                 # whose event is being served
    cdef Descriptor watcher_event               # an eventfd: wakes the thread that watches the turns
    cdef bint watcher_sleeps
    cdef bint watching                 # whether a thread is in `watch_for_blocking`
    cdef bint stopping                 # whether it is to leave
    cdef bint closing                  # at the end of this turn, if one is under way
    cdef uint8_t *receive_buffer       # shared by all: a connection owns none
    cdef outgoing *spare[SPARE_BUFFERS] # send buffers for whoever needs one next
    cdef size_t spare_count
    cdef ListenerContext listener_context  # entered for each turn
    cdef object interruption           # a KeyboardInterrupt or SystemExit for who polls
    cdef object posted                 # calls from other threads
    cdef list corked                   # channels to flush at the end of the turn
    cdef public object _call_soon      # that of the loop we live in, if we do
    cdef list retired                  # left in this turn: epoll may have named them already
    cdef dict rules_by_settings
    cdef set sinks
    cdef void *first                   # the attached channels, as a linked list
    cdef object __weakref__

    cdef void close_descriptors(self) noexcept
    cdef bint turn(self, int timeout_ms) except -1
    cdef void enter(self, Pollable pollable) noexcept
    cdef void leave(self, Pollable pollable, unsigned long number) noexcept
    cdef void serve(self, Pollable pollable, uint32_t events, unsigned long number) noexcept
    cdef void end_turn(self, unsigned long number) noexcept
    cdef void end_if_asked(self) noexcept
    cdef bint is_stuck(self) noexcept nogil
    cdef bint take_over(self) noexcept
    cdef void wake_watcher(self) noexcept
    cdef bint cork(self, Pollable pollable) noexcept
    cdef void uncork(self, unsigned long number) noexcept
    cdef bint watch(self, Pollable pollable, uint32_t interest) noexcept
    cdef void unwatch(self, Pollable pollable) noexcept
    cdef void arm(self) noexcept
    cdef void expire_timers(self, unsigned long number) noexcept
    cdef void run_posted(self, unsigned long number) noexcept
    cpdef void wake(self) noexcept
    cdef void link(self, Pollable channel) noexcept
    cdef void unlink(self, Pollable channel) noexcept
    cdef outgoing *take_buffer(self) noexcept
    cdef void give_buffer(self, outgoing *buffer) noexcept


cdef class Sink(Pollable):
    cdef EpollEngine engine


cdef class HangUp(Pollable):
    cdef EpollEngine engine
    cdef object channel
