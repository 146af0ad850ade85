/* Compression and decompression; README.md lists the checked properties.
 *
 * The input, one byte each: window bits and context takeover, level, memory level, the number of
 * repetitions of the input within a message, and the size of the pieces to inflate. Then messages,
 * each preceded by its size in two bytes. */
#include "deflate.h"

#include <string.h>

#include "assertions.h"

static deflate_pool pool; /* shared by all inputs, as in a process */

/* Inflates in pieces into memory of exactly the expected size, and checks that there is no further
 * byte. */
static void inflate_and_compare(inflater *i, const uint8_t *payload, size_t size, size_t piece,
                                const uint8_t *expected, size_t expected_size)
{
    uint8_t *out = malloc(expected_size + 1), excess;
    size_t written = 0;

    for (int tail = 0; tail < 2; tail++) {
        const uint8_t *in = tail ? deflate_tail : payload;
        size_t left = tail ? sizeof deflate_tail : size;
        ASSERT(!tail || inflater_needs_tail(i));
        for (inflate_status status = INFLATE_FULL; left || status == INFLATE_FULL;) {
            size_t fed = left < piece ? left : piece, kept = left - fed;
            size_t space = expected_size - written, capacity = space ? space : 1;
            capacity = capacity < piece ? capacity : piece;
            size_t before = capacity;
            status = inflater_feed(i, &in, &fed, space ? out + written : &excess, &capacity);
            ASSERT(status == INFLATE_DONE || status == INFLATE_FULL);
            ASSERT(space || capacity == 1);
            written += space ? before - capacity : 0;
            left = kept + fed;
        }
    }
    ASSERT(inflater_finish(i));
    ASSERT(written == expected_size && memcmp(out, expected, written) == 0);
    free(out);
}

static size_t compress(deflater *f, const uint8_t *message, size_t size, uint8_t **out)
{
    *out = malloc(size + sizeof deflate_tail);
    size_t shrunk = deflater_run(f, message, size, *out);
    ASSERT(shrunk < size || shrunk == 0);
    return shrunk;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 5)
        return 0;
    int bits = 8 + (data[0] & 7), takeover = data[0] & 8, level = 1 + data[1] % 9;
    int memory_level = 1 + data[2] % 9;
    size_t repeated = 1 + data[3] % 64, piece = 1 + 4 * data[4];
    deflater *f = deflater_take(&pool, bits, level, memory_level);
    inflater *i = inflater_take(&pool, bits);

    for (size_t at = 5; at + 2 < size;) { /* a message has at least one byte */
        size_t length = (data[at] << 8 | data[at + 1]) & 0x7ff;
        length = length < size - at - 2 ? length + !length : size - at - 2;
        uint8_t *message = malloc(length * repeated + 1), *out;
        for (size_t n = 0; n < repeated; n++)
            memcpy(message + n * length, data + at + 2, length);
        size_t shrunk = compress(f, message, length * repeated, &out);
        if (shrunk)
            inflate_and_compare(i, out, shrunk, piece, message, length * repeated);
        if (!takeover) {
            deflater_give(&pool, f);
            inflater_give(&pool, i);
            f = deflater_take(&pool, bits, level, memory_level);
            i = inflater_take(&pool, bits);
        }
        free(message);
        free(out);
        at += 2 + length;
    }
    deflater_free(f);
    inflater_free(i);
    return 0;
}
