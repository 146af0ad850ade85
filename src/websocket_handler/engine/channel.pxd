# cython: language_level=3
"""Declares the attributes and C methods of `Channel`; `channel.pyx` implements them."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .codec cimport DeflateContext, ConnectionLimits, decoder, decoder_event, decoder_kind
from .engine cimport EpollEngine, Timed, outgoing


ctypedef uint8_t flag


# The values of `SendState` (send_state.py).
cdef enum:
    SEND_INDIRECT = 0
    SEND_DIRECT = 1
    SEND_FRAGMENTED = 2
    SEND_ENDED = 3


# Counts of one connection; the decoder counts the received frames.
ctypedef struct traffic:
    uint64_t messages_received
    uint64_t messages_sent
    uint64_t frames_sent
    uint64_t bytes_received
    uint64_t bytes_sent


# A packed request. It takes 31 bytes less than an object of type `bytes`.
ctypedef struct packed_request:
    uint32_t size
    uint8_t data[1]


# The engine's state that `end_service` restores: the channel that was being served before, the
# user of the context for listeners, and the number of that iteration.
ctypedef struct entry:
    void *current
    void *context_user
    unsigned long iteration


cdef class Channel(Timed):
    cdef readonly EpollEngine _engine
    cdef ConnectionLimits rules
    cdef decoder decoder
    cdef object layer                  # TLS or an asyncio transport; None for a plain socket
    cdef DeflateContext context        # of context takeover, from the first compressed message on
    cdef object large                  # a payload that is being sent without a copy, before `out`
    cdef size_t large_sent             # bytes of it that were sent
    cdef outgoing *out                 # the send buffer; NULL while it is empty
    cdef traffic traffic
    cdef packed_request *request       # NULL before the connection has left the HTTP server
    cdef public object _message_listener
    cdef public object _after_messages # called when all messages of a read were delivered
    cdef uint32_t last_activity        # ms, modulo 2**32 (49 days): last byte received, or space
                                       # in a full send buffer
    cdef uint32_t controls_since       # ms: start of a second in which control frames are counted
    cdef uint32_t controls             # control frames received in that second
    cdef public float _latency         # seconds from the last ping to its pong; -1 before
    cdef public flag _taken_over       # the connection has left the HTTP server
    cdef public flag _paused           # the application has called `pause()`
    cdef public flag _send_state       # a `SendState`
    cdef public flag _discard_input             # received data is discarded
    cdef public flag _tell_when_flushed # call `_flushed` when the send buffer is empty
    cdef flag python_codec                  # the connection has a codec in Python
    cdef flag is_push                      # the layer passes data to us; it is not in the epoll set
    cdef flag input_pending                   # the layer may have data that epoll does not report
    cdef flag hang_up                  # the peer has ended one direction, or both
    cdef flag corked                   # a flush follows: do not send yet
    cdef readonly flag _above_water    # above high water, and not yet at a quarter of it
    cdef flag posted                   # `DRAIN_POSTED` and `FLUSH_POSTED`
    cdef flag paused                   # reading is paused for the application
    cdef flag input_ended              # the peer's FIN was read
    cdef flag finishing                # send the buffered data, then FIN
    cdef flag output_ended             # FIN was sent, or sending has failed

    cdef bint masks(self) noexcept
    cdef bint can_send(self, bint held) noexcept
    cdef size_t copied(self) noexcept
    cdef size_t waiting(self) noexcept
    cdef size_t large_left(self) noexcept
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
    cdef ssize_t send_to_transport(self) noexcept
    cdef ssize_t send_by_tls(self) noexcept
    cdef ssize_t sent_by_layer(self, ssize_t sent) noexcept
    cdef bint receive_from_layer(self) except -1
    cdef size_t read_size(self) noexcept
    cdef ssize_t read_tls(self, bytearray buffer, size_t size) except -2
    cdef bytearray buffer_for_reading(self)
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
    cdef bint waits_for_input(self) noexcept
    cdef bint waits_for_peer(self) noexcept
    cdef void note_hang_up(self, uint32_t events) noexcept
    cdef bint is_overrun(self) noexcept
    cdef bint wait_for(self, uint32_t interest) noexcept
    cdef entry begin_service(self) noexcept
    cdef void end_service(self, entry before) noexcept
    cdef void receive(self) noexcept
    cdef void decode(self, uint8_t *data, size_t size) noexcept
    cdef inline void deliver(self, decoder_kind kind, decoder_event *event) noexcept
    cdef void deliver_other(self, decoder_kind kind, decoder_event *event) noexcept
    cdef void feed_elsewhere(self, const uint8_t *data, size_t size) noexcept
    cdef void tell_all_delivered(self) noexcept
    cdef void deliver_message(self, decoder_event *event) noexcept
    cdef bint call_listener(self, object message) except -1
    cdef bint in_listener_context(self, call, argument) except -1
    cdef void fail(self, error) noexcept
    cdef void input_lost(self, error) noexcept
    cdef void give_up(self) noexcept
