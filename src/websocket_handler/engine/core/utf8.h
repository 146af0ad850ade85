/* Incremental validation of UTF-8 (RFC 3629), in pieces of any size. */
#ifndef WEBSOCKET_HANDLER_UTF8_H
#define WEBSOCKET_HANDLER_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* All fields are zero at the start of a text. */
typedef struct {
    uint8_t missing;   /* continuation bytes that the current character still needs */
    uint8_t low, high; /* the range of the next continuation byte */
    uint8_t not_ascii; /* whether any byte so far was 0x80 or more */
} utf8_state;

/* Reads `size` more bytes; returns 0 at the first invalid byte, else 1. */
int utf8_feed(utf8_state *state, const uint8_t *bytes, size_t size);

/* Whether the text may end here. */
static inline int utf8_is_complete(const utf8_state *state)
{
    return state->missing == 0;
}

#endif
