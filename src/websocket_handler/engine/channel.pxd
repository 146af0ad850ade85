# cython: language_level=3
"""A connection's table of contents; `channel.pyx` says how."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .codec cimport DeflateContext, ConnectionLimits, decoder, decoder_event, decoder_kind
from .engine cimport EpollEngine, Pollable, outgoing, wheel_timer


ctypedef uint8_t flag


# What went over the connection; the decoder counts the frames that came.
ctypedef struct traffic:
    uint64_t messages_received
    uint64_t messages_sent
    uint64_t frames_sent
    uint64_t bytes_received
    uint64_t bytes_sent


# What `end_service` puts back: the channel that was being served before, and the turn it was in.
ctypedef struct entry:
    void *current
    unsigned long turns


cdef class Channel(Pollable):
    cdef readonly EpollEngine _engine
    cdef ConnectionLimits rules
    cdef decoder decoder
    cdef object layer                  # what the bytes go through: TLS, an asyncio transport
    cdef DeflateContext context        # kept for the next message, once one was compressed
    cdef object large                  # a payload that is being sent from where it lies,
    cdef size_t large_sent             # up to here; it precedes what is in `out`
    cdef outgoing *out                 # NULL while there is nothing
    cdef traffic traffic
    cdef wheel_timer timer
    cdef uint64_t heard                # when the last byte came, or went out
    cdef uint32_t controls_since       # a second of control frames began here,
    cdef uint32_t controls             # and so many have come in it
    cdef public object _message_listener
    cdef public object _after_messages # called once all messages of a read were delivered
    cdef public float _latency         # seconds from the last ping to its pong; -1 before
    cdef public flag _taken_over       # whether the connection has left the HTTP server
    cdef public flag _paused           # whether the application has asked for that
    cdef public flag _sendable         # whether `send` may write a data frame
    cdef public flag _discard_input             # whether what arrives is thrown away
    cdef public flag _tell_when_flushed
    cdef public flag _fragmenting      # whether a message is under way, which others wait for
    cdef flag close_sent               # after which no data frame may follow
    cdef flag masks                    # client role
    cdef flag python_codec                  # of a version whose codec is elsewhere
    cdef flag is_push                      # the layer calls us; epoll knows nothing of it
    cdef flag input_pending                   # the layer may have more, which epoll does not see
    cdef flag hang_up                  # the peer has ended its half of the connection, or both
    cdef flag corked                   # a flush will come: do not send yet
    cdef readonly flag _above_water    # more than high water was waiting
    cdef flag drain_due
    cdef flag flush_due                # another thread has asked the engine's for it
    cdef flag paused                   # the application reads nothing
    cdef flag input_ended
    cdef flag finishing                # send what is left, then FIN
    cdef flag output_ended

    cdef size_t copied(self) noexcept
    cdef size_t waiting(self) noexcept
    cdef bint write_frame(
        self, uint8_t first, const uint8_t *data, size_t size, object owner) except -1
    cdef bint write_message(
        self, uint8_t first, const uint8_t *data, size_t size,
        object message, object compress, bint held) except -1
    cdef bint send_deflated(
        self, uint8_t first, const uint8_t *data, size_t size,
        object message, bint held) except -1
    cdef size_t deflate(
        self, DeflateContext context, const uint8_t *data, size_t size, uint8_t *out) noexcept
    cdef void forget_context(self) noexcept
    cdef bint write_prepared(self, bytes frame) except -1
    cdef bint can_send_through(self) noexcept
    cdef bint send_through(
        self, const uint8_t *header, size_t header_size,
        const uint8_t *data, size_t size, object owner) except -1
    cdef ssize_t send_waiting(self) noexcept
    cdef ssize_t send_by_layer(self) noexcept
    cdef bint receive_from_layer(self) except -1
    cdef void serve_layer(self) noexcept
    cdef void read_layer(self) noexcept
    cdef bint append(self, const uint8_t *data, size_t size) except -1
    cdef uint8_t *grow(self, size_t size) except NULL
    cdef void flush_or_cork(self) noexcept
    cdef void flush_or_delegate(self) noexcept
    cdef void flush_here(self) noexcept
    cdef void flush(self) noexcept
    cdef void lose_output(self, str reason) noexcept
    cdef void after_flush(self) noexcept
    cdef void drop_output(self) noexcept
    cdef void update_interest(self) noexcept
    cdef bint is_reading_paused(self) noexcept
    cdef bint waits_for_peer(self) noexcept
    cdef void note_hang_up(self, uint32_t events) noexcept
    cdef bint is_overrun(self) noexcept
    cdef bint wait_for(self, uint32_t interest) noexcept
    cdef entry begin_service(self) noexcept
    cdef void end_service(self, entry before) noexcept
    cdef void receive(self) noexcept
    cdef void decode(self, uint8_t *data, size_t size) noexcept
    cdef void deliver(self, decoder_kind kind, decoder_event *event) noexcept
    cdef void feed_elsewhere(self, const uint8_t *data, size_t size) noexcept
    cdef void tell_all_delivered(self) noexcept
    cdef void call_listener(self, object message) noexcept
    cdef void fail(self, error) noexcept
    cdef void input_lost(self, error) noexcept
    cdef void give_up(self) noexcept
