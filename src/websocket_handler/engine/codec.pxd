# cython: language_level=3
"""The codec's interface for the engine: the C functions of `core/`, and events as objects."""

from cpython.pythread cimport PyThread_type_lock
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "core/deflate.h" nogil:
    ctypedef struct deflater:
        pass

    ctypedef struct inflater:
        pass

    ctypedef struct deflate_pool:
        pass

    enum:
        DEFLATE_MAX_WINDOW
    inflater *inflater_take(deflate_pool *pool, int window_bits)
    size_t inflater_window(inflater *i, uint8_t *out)
    bint inflater_set_window(inflater *i, const uint8_t *window, size_t size)

    int deflate_is_available()
    deflater *deflater_take(
        deflate_pool *pool, int window_bits, int level, int memory_level)
    void deflater_give(deflate_pool *pool, deflater *f)
    void deflater_free(deflater *f)
    size_t deflater_run(deflater *f, const uint8_t *data, size_t size, uint8_t *out)


cdef extern from "core/frame.h" nogil:
    enum:
        OPCODE_TEXT
        OPCODE_BINARY
        OPCODE_CLOSE
        FRAME_CONTROL_BIT
        FRAME_FIN
        FRAME_RSV1
        FRAME_MAX_HEADER
    size_t frame_header_write(uint8_t *out, uint8_t first, uint64_t length, const uint8_t *key)


cdef extern from "core/mask.h" nogil:
    void mask_apply(
        uint8_t *to, const uint8_t *source, size_t size, const uint8_t *key, uint64_t position)


cdef extern from "core/decoder.h" nogil:
    ctypedef struct decoder_storage:
        uint8_t *data
        uint64_t capacity
        void *owner

    ctypedef struct decoder_rules:
        uint64_t max_message_size
        uint32_t max_fragments
        uint32_t max_empty_fragments
        int (*reserve)(decoder_storage *storage, uint64_t capacity) noexcept
        void (*release)(decoder_storage *storage) noexcept
        uint8_t inflate_window_bits
        uint8_t inflate_takeover
        deflate_pool *pool
        void *(*gil_release)() noexcept nogil
        void (*gil_acquire)(void *) noexcept nogil

    ctypedef enum decoder_kind:
        DECODER_NEED_DATA
        DECODER_MESSAGE
        DECODER_PING
        DECODER_PONG
        DECODER_CLOSE
        DECODER_VIOLATION
        DECODER_NO_MEMORY

    ctypedef struct decoder_event:
        uint8_t opcode
        int is_ascii
        uint16_t code
        const char *reason
        uint8_t *data
        uint64_t size
        const uint8_t *key
        decoder_storage storage

    ctypedef struct decoder:
        const decoder_rules *rules
        inflater *inflater
        uint64_t remaining
        uint64_t frames
        uint8_t key[4]
        uint8_t key_position
        uint8_t expect_masked
        uint8_t allow_1004
        uint8_t in_payload
        uint8_t fin

    ctypedef struct decoder_position:
        const uint8_t *payload
        uint64_t size
        uint32_t fragments
        uint32_t empty
        uint8_t opcode
        uint8_t compressed
        const uint8_t *unread
        size_t unread_size

    decoder_position decoder_find_position(const decoder *d)

    decoder_kind decoder_next(
        decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event)
    size_t decoder_want(decoder *d, uint64_t min, uint8_t **into)
    decoder_kind decoder_received(decoder *d, size_t size, decoder_event *event)
    void decoder_free(decoder *d)


cdef object take_message(decoder_event *event)
cdef object take_bytes(decoder_event *event)
cdef str take_reason(decoder_event *event)
cdef bint masking_key(uint8_t *key) except -1


cdef deflate_pool spare_streams   # shared by the process; protected by the GIL


cdef class ConnectionLimits:
    """The limits of `Settings` and the negotiated compression parameters, for C code."""
    cdef decoder_rules rules
    cdef size_t high_water
    cdef size_t max_buffered
    cdef uint32_t max_control_frames
    cdef size_t compress_from      # messages of at least this many bytes are compressed
    cdef int deflate_window_bits   # 0 without compression
    cdef bint deflate_takeover
    cdef int level
    cdef int memory_level


cdef class DeflateContext:
    """The compression context of a connection with context takeover.

    A thread holds the lock from compressing a message until it is sent.
    """
    cdef deflater *deflater
    cdef PyThread_type_lock lock
    cdef void acquire(self) noexcept
    cdef void release(self) noexcept
    cdef void forget(self) noexcept


cdef class Decoder:
    cdef ConnectionLimits rules
    cdef decoder decoder
