#include "mask.h"

#include <string.h>

void mask_apply(uint8_t *to, const uint8_t *from, size_t size, const uint8_t key[4],
                uint64_t position)
{
    uint8_t rotated[8];
    uint64_t pattern;
    size_t i = 0;

    for (size_t k = 0; k < 8; k++)
        rotated[k] = key[(position + k) & 3];
    memcpy(&pattern, rotated, 8);

    /* memcpy is the portable unaligned load; compilers vectorize this loop. */
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= pattern;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ rotated[i & 7];
}
