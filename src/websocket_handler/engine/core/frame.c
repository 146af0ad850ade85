#include "frame.h"

#include <string.h>

static size_t length_size(uint8_t second)
{
    switch (second & FRAME_LENGTH_BITS) {
    case FRAME_LENGTH_IN_2_BYTES:
        return 2;
    case FRAME_LENGTH_IN_8_BYTES:
        return 8;
    default:
        return 0;
    }
}

size_t frame_header_size(uint8_t second)
{
    return 2 + length_size(second) + (second & FRAME_MASK ? 4 : 0);
}

static uint64_t read_big_endian(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

static void write_big_endian(uint8_t *bytes, uint64_t value, size_t count)
{
    for (size_t i = count; i > 0; i--, value >>= 8)
        bytes[i - 1] = (uint8_t)value;
}

uint64_t frame_payload_length(const uint8_t *header)
{
    size_t extended = length_size(header[1]);
    return extended ? read_big_endian(header + 2, extended) : header[1] & FRAME_LENGTH_BITS;
}

size_t frame_header_write(uint8_t *out, uint8_t first, uint64_t length, const uint8_t *key)
{
    uint8_t mask = key ? FRAME_MASK : 0;
    size_t size = 2;

    out[0] = first;
    if (length < FRAME_LENGTH_IN_2_BYTES) {
        out[1] = (uint8_t)(mask | length);
    } else if (length <= UINT16_MAX) {
        out[1] = mask | FRAME_LENGTH_IN_2_BYTES;
        write_big_endian(out + 2, length, 2);
        size = 4;
    } else {
        out[1] = mask | FRAME_LENGTH_IN_8_BYTES;
        write_big_endian(out + 2, length, 8);
        size = 10;
    }
    if (key) {
        memcpy(out + size, key, 4);
        size += 4;
    }
    return size;
}
