#include "mask.h"

#include <string.h>

void mask_apply(uint8_t *to, const uint8_t *from, size_t size, const uint8_t key[4],
                uint64_t position)
{
    uint8_t turned[8];
    uint64_t pattern;
    size_t i = 0;

    for (size_t k = 0; k < 8; k++)
        turned[k] = key[(position + k) & 3];
    memcpy(&pattern, turned, 8);

    /* memcpy is how C says an unaligned load; compilers turn this loop into vectors. */
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= pattern;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ turned[i & 7];
}
