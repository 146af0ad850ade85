/* UTF-8 (RFC 3629) checked as it arrives, in pieces of any size. */
#ifndef WEBSOCKET_HANDLER_UTF8_H
#define WEBSOCKET_HANDLER_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* All zero is the start of a text. */
typedef struct {
    uint8_t missing;   /* continuation bytes that the character under way still needs */
    uint8_t low, high; /* what the next of them may be */
    uint8_t not_ascii; /* whether any byte so far was 0x80 or more */
} utf8_state;

/* Reads `size` more bytes; returns 0 as soon as one of them cannot stand where it does. */
int utf8_feed(utf8_state *state, const uint8_t *bytes, size_t size);

/* Whether the text may end here. */
static inline int utf8_is_complete(const utf8_state *state)
{
    return state->missing == 0;
}

#endif
