#include "mask.h"

#include <string.h>

/* memcpy is the portable unaligned load. Compilers vectorize these loops, but only if they know the
 * number of words, and that the stores do not change later loads. */
static void mask_words(uint8_t *restrict to, const uint8_t *restrict from, size_t words,
                       uint64_t pattern)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, from + 8 * i, 8);
        word ^= pattern;
        memcpy(to + 8 * i, &word, 8);
    }
}

static void mask_words_in_place(uint8_t *bytes, size_t words, uint64_t pattern)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, bytes + 8 * i, 8);
        word ^= pattern;
        memcpy(bytes + 8 * i, &word, 8);
    }
}

void mask_apply(uint8_t *to, const uint8_t *from, size_t size, const uint8_t key[4],
                uint64_t position)
{
    uint8_t rotated[4];
    uint32_t half;
    uint64_t pattern;

    memcpy(&half, key, 4);
    if (position & 3) {
        for (size_t k = 0; k < 4; k++)
            rotated[k] = key[(position + k) & 3];
        memcpy(&half, rotated, 4);
    }
    pattern = (uint64_t)half << 32 | half;
    if (to == from)
        mask_words_in_place(to, size / 8, pattern);
    else
        mask_words(to, from, size / 8, pattern);
    for (size_t i = size - size % 8; i < size; i++)
        to[i] = from[i] ^ key[(position + i) & 3];
}
