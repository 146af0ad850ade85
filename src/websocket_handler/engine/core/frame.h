/* Reads and writes the frame header of RFC 6455 section 5.2.
 * No state and no memory of its own. The Python counterpart is protocol/frame.py. */
#ifndef WEBSOCKET_HANDLER_FRAME_H
#define WEBSOCKET_HANDLER_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum {
    OPCODE_CONTINUATION = 0x0,
    OPCODE_TEXT = 0x1,
    OPCODE_BINARY = 0x2,
    OPCODE_CLOSE = 0x8,
    OPCODE_PING = 0x9,
    OPCODE_PONG = 0xA
};

enum {
    FRAME_FIN = 0x80,
    FRAME_RESERVED_BITS = 0x70,
    FRAME_RSV1 = 0x40,
    FRAME_OPCODE_BITS = 0x0F,
    FRAME_CONTROL_BIT = 0x08,
    FRAME_MASK = 0x80,
    FRAME_LENGTH_BITS = 0x7F,
    FRAME_LENGTH_IN_2_BYTES = 126,
    FRAME_LENGTH_IN_8_BYTES = 127,
    FRAME_MAX_CONTROL = 125,
    FRAME_MAX_HEADER = 14
};

/* Returns the size of a header including the masking key, from its second byte: 2 to 14. */
size_t frame_header_size(uint8_t second);

/* Returns the payload length, 0 to 2^64 - 1, from a complete header. */
uint64_t frame_payload_length(const uint8_t *header);

/* Writes a header into at least FRAME_MAX_HEADER bytes and returns its size.
 * `first` is the first byte (FIN and opcode), `key` is the masking key or NULL. */
size_t frame_header_write(uint8_t *out, uint8_t first, uint64_t length, const uint8_t *key);

#endif
