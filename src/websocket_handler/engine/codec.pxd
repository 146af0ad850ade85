# cython: language_level=3
"""What the engine takes from the codec: `core/` as it is, and its events as objects."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "core/frame.h" nogil:
    enum:
        OPCODE_TEXT
        OPCODE_BINARY
        FRAME_FIN
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

    ctypedef enum decoder_kind:
        DECODER_STARVED
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
        decoder_storage storage

    ctypedef struct decoder:
        const decoder_rules *rules
        uint8_t expect_masked
        uint8_t old_codes

    decoder_kind decoder_next(
        decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event)
    size_t decoder_want(decoder *d, uint64_t least, uint8_t **into)
    decoder_kind decoder_received(decoder *d, size_t size, decoder_event *event)
    void decoder_free(decoder *d)


cdef object take_message(decoder_event *event)
cdef object take_bytes(decoder_event *event)
cdef str take_reason(decoder_event *event)
cdef bint masking_key(uint8_t *key) except -1


cdef class Rules:
    """The limits of `Settings` in the form the C code reads."""
    cdef decoder_rules rules
    cdef size_t high_water
    cdef size_t max_buffered


cdef class Decoder:
    cdef Rules rules
    cdef decoder decoder
