#include "utf8.h"

#include <string.h>

static const uint64_t HIGH_BITS = 0x8080808080808080u;

static size_t skip_ascii(const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        uint64_t words[4];
        memcpy(words, bytes + i, 32);
        if ((words[0] | words[1] | words[2] | words[3]) & HIGH_BITS)
            break;
    }
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        if (word & HIGH_BITS)
            break;
    }
    while (i < size && bytes[i] < 0x80)
        i++;
    return i;
}

/* Sets the range of the second byte, by the table in RFC 3629 section 4. */
static int begin_character(utf8_state *state, uint8_t first)
{
    state->low = 0x80;
    state->high = 0xBF;
    if (first >= 0xC2 && first <= 0xDF) {
        state->missing = 1;
    } else if (first >= 0xE0 && first <= 0xEF) {
        state->missing = 2;
        if (first == 0xE0)
            state->low = 0xA0; /* no character that fits in two bytes */
        if (first == 0xED)
            state->high = 0x9F; /* no surrogates */
    } else if (first >= 0xF0 && first <= 0xF4) {
        state->missing = 3;
        if (first == 0xF0)
            state->low = 0x90; /* no character that fits in three bytes */
        if (first == 0xF4)
            state->high = 0x8F; /* no character beyond U+10FFFF */
    } else {
        return 0;
    }
    return 1;
}

int utf8_feed(utf8_state *state, const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    while (i < size) {
        if (state->missing) {
            if (bytes[i] < state->low || bytes[i] > state->high)
                return 0;
            state->low = 0x80;
            state->high = 0xBF;
            state->missing--;
            i++;
            continue;
        }
        i += skip_ascii(bytes + i, size - i);
        if (i < size) {
            state->not_ascii = 1;
            if (!begin_character(state, bytes[i++]))
                return 0;
        }
    }
    return 1;
}
