# cython: language_level=3
"""Table of contents of the native engine; `native.pyx` says how.

    core/       bytes and time in plain C: frame, mask, utf8, decoder, wheel
    codec       core/'s RFC 6455 codec in Python's terms
    linux       system calls
    EpollEngine one epoll set, a timerfd, an eventfd, and everything attached to them
    Channel     one connection: its socket, its decoder, what it still has to send
    Sink        a descriptor whose input is thrown away
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .codec cimport Rules, decoder, decoder_event, decoder_kind


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


# What has not been sent yet and was copied: the bytes from `start` to `end`. No memory
# while empty.
ctypedef struct outgoing:
    uint8_t *data
    size_t start
    size_t end
    size_t capacity


cdef class Pollable:
    """Something in the epoll set. `fd` is -1 once it has left."""
    cdef int fd
    cdef bint watched
    cdef uint32_t interest
    cdef void ready(self, uint32_t events) noexcept


cdef class EpollEngine:
    cdef int epoll_fd
    cdef Pollable timer
    cdef Pollable wakeup
    cdef wheel timers
    cdef uint64_t armed                # when the timerfd goes off
    cdef uint64_t now                  # milliseconds, read once a turn
    cdef unsigned long owner           # the thread that turns the engine
    cdef bint serving                  # whether a turn is under way
    cdef uint8_t *receive_buffer       # shared by all: a connection owns none
    cdef uint8_t *spare[8]             # send buffers for whoever needs one next
    cdef size_t spare_count
    cdef object interruption           # a KeyboardInterrupt or SystemExit for who polls
    cdef object posted                 # calls from other threads
    cdef list corked                   # channels to flush at the end of the turn
    cdef list retired                  # left in this turn: epoll may have named them already
    cdef dict rules_by_settings
    cdef set sinks
    cdef void *first                   # the attached channels, as a linked list
    cdef readonly Py_ssize_t channel_count
    cdef object __weakref__

    cdef void close_descriptors(self) noexcept
    cdef int turn(self, int timeout_ms) except -1
    cdef void end_turn(self) noexcept
    cdef bint watch(self, Pollable pollable, uint32_t interest) noexcept
    cdef void unwatch(self, Pollable pollable) noexcept
    cdef void arm(self) noexcept
    cdef void expire_timers(self) noexcept
    cdef void run_posted(self) noexcept
    cpdef void wake(self) noexcept
    cdef void link(self, Channel channel) noexcept
    cdef void unlink(self, Channel channel) noexcept
    cdef uint8_t *take_buffer(self) noexcept
    cdef void give_buffer(self, uint8_t *buffer, size_t capacity) noexcept


cdef class Channel(Pollable):
    cdef readonly EpollEngine _engine
    cdef Rules rules
    cdef decoder decoder
    cdef object large                  # a payload that is being sent from where it lies,
    cdef size_t large_sent             # up to here; it precedes what is in `out`
    cdef outgoing out
    cdef wheel_timer timer
    cdef uint64_t heard                # when the last byte came, or went out
    cdef void *next
    cdef void *previous
    cdef public object _message_listener
    cdef public bint _sendable         # whether `send` may write a data frame
    cdef public bint _deaf             # whether what arrives is thrown away
    cdef public bint _tell_when_flushed
    cdef bint masks                    # client role
    cdef bint corked                   # a flush will come: do not send yet
    cdef bint above_water
    cdef bint input_ended
    cdef bint finishing                # send what is left, then FIN
    cdef bint output_ended

    cdef size_t waiting(self) noexcept
    cdef bint write_frame(
        self, uint8_t first, const uint8_t *data, size_t size, object owner) except -1
    cdef bint send_through(
        self, const uint8_t *header, size_t header_size,
        const uint8_t *data, size_t size, object owner) except -1
    cdef ssize_t send_waiting(self) noexcept
    cdef bint append(self, const uint8_t *data, size_t size) except -1
    cdef uint8_t *grow(self, size_t size) except NULL
    cdef void flush_or_cork(self) noexcept
    cdef void flush(self) noexcept
    cdef void after_flush(self) noexcept
    cdef void drop_output(self) noexcept
    cdef void receive(self) noexcept
    cdef void decode(self, uint8_t *data, size_t size) noexcept
    cdef void deliver(self, decoder_kind kind, decoder_event *event) noexcept
    cdef void call_listener(self, object message) noexcept
    cdef void release(self, str reason) noexcept


cdef class Sink(Pollable):
    cdef EpollEngine engine
