#include "deflate.h"

const uint8_t deflate_tail[4] = {0x00, 0x00, 0xFF, 0xFF};

#ifdef WITHOUT_ZLIB

int deflate_is_available(void)
{
    return 0;
}

inflater *inflater_take(deflate_pool *pool, int window_bits)
{
    (void)pool, (void)window_bits;
    return NULL;
}

void inflater_give(deflate_pool *pool, inflater *i)
{
    (void)pool, (void)i;
}

void inflater_free(inflater *i)
{
    (void)i;
}

inflate_status inflater_feed(inflater *i, const uint8_t **in, size_t *size, uint8_t *out,
                             size_t *space)
{
    (void)i, (void)in, (void)size, (void)out, (void)space;
    return INFLATE_NO_MEMORY;
}

int inflater_needs_tail(const inflater *i)
{
    (void)i;
    return 0;
}

size_t inflater_window(inflater *i, uint8_t *out)
{
    (void)i, (void)out;
    return 0;
}

int inflater_set_window(inflater *i, const uint8_t *window, size_t size)
{
    (void)i, (void)window, (void)size;
    return 0;
}

int inflater_finish(inflater *i)
{
    (void)i;
    return 0;
}

deflater *deflater_take(deflate_pool *pool, int window_bits, int level, int memory_level)
{
    (void)pool, (void)window_bits, (void)level, (void)memory_level;
    return NULL;
}

void deflater_give(deflate_pool *pool, deflater *f)
{
    (void)pool, (void)f;
}

void deflater_free(deflater *f)
{
    (void)f;
}

size_t deflater_run(deflater *f, const uint8_t *data, size_t size, uint8_t *out)
{
    (void)f, (void)data, (void)size, (void)out;
    return 0;
}

#else

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

enum { MAX_IDLE = 8 };

/* zlib cannot compress with a window of 256 bytes. But it looks back over 262 bytes less than its
 * window size. With 9 bits this is 250 bytes, which a peer can decompress with 8 bits. */
enum { MIN_DEFLATE_BITS = 9 };

/* Bits of data_type, by which zlib describes the position at which inflate() stopped. */
enum { UNUSED_BITS = 63, AT_BLOCK_END = 128 };

struct inflater {
    z_stream stream;
    inflater *next;
    int window_bits;
    int begun;          /* the message has data in the current stream */
    int between_blocks; /* the stream is at the end of a block and on a byte boundary */
};

struct deflater {
    z_stream stream;
    deflater *next;
    int window_bits, level, memory_level;
};

static uInt to_uint(size_t size)
{
    return size < UINT_MAX ? (uInt)size : UINT_MAX;
}

int deflate_is_available(void)
{
    return 1;
}

inflater *inflater_take(deflate_pool *pool, int window_bits)
{
    inflater *i;

    for (inflater **link = &pool->inflaters; *link; link = &(*link)->next) {
        i = *link;
        if (i->window_bits == window_bits) {
            *link = i->next;
            return i;
        }
    }
    i = calloc(1, sizeof *i);
    if (i && inflateInit2(&i->stream, -window_bits) != Z_OK) {
        free(i);
        return NULL;
    }
    if (i)
        i->window_bits = window_bits;
    return i;
}

void inflater_give(deflate_pool *pool, inflater *i)
{
    inflater **link = &pool->inflaters;

    inflateReset(&i->stream);
    i->begun = 0;
    i->next = pool->inflaters;
    pool->inflaters = i;
    for (int kept = 0; *link && kept < MAX_IDLE; kept++)
        link = &(*link)->next;
    if (*link) {
        inflater_free(*link);
        *link = NULL;
    }
}

void inflater_free(inflater *i)
{
    inflateEnd(&i->stream);
    free(i);
}

inflate_status inflater_feed(inflater *i, const uint8_t **in, size_t *size, uint8_t *out,
                             size_t *space)
{
    z_stream *s = &i->stream;

    for (;;) {
        uInt avail_in = to_uint(*size), avail_out = to_uint(*space), read, written;
        s->next_in = (Bytef *)*in;
        s->avail_in = avail_in;
        s->next_out = out;
        s->avail_out = avail_out;
        int result = inflate(s, Z_SYNC_FLUSH);
        read = avail_in - s->avail_in;
        written = avail_out - s->avail_out;
        *in += read;
        *size -= read;
        out += written;
        *space -= written;
        if (s->data_type & AT_BLOCK_END)
            i->between_blocks = !(s->data_type & UNUSED_BITS);
        else if (read || written)
            i->between_blocks = 0;
        if (read)
            i->begun = 1;
        if (result == Z_STREAM_END) { /* a block with BFINAL: another stream may follow */
            inflateReset(s);
            i->begun = 0;
        } else if (result == Z_MEM_ERROR) {
            return INFLATE_NO_MEMORY;
        } else if (result != Z_OK && (result != Z_BUF_ERROR || (*size && *space))) {
            return INFLATE_BAD;
        }
        if (*size == 0 && (*space || result == Z_STREAM_END))
            return INFLATE_DONE;
        if (*space == 0)
            return INFLATE_FULL;
    }
}

int inflater_needs_tail(const inflater *i)
{
    return i->begun;
}

int inflater_finish(inflater *i)
{
    int is_complete = !i->begun || i->between_blocks;

    i->begun = 0;
    return is_complete;
}

size_t inflater_window(inflater *i, uint8_t *out)
{
    uInt size = DEFLATE_MAX_WINDOW;

    return inflateGetDictionary(&i->stream, out, &size) == Z_OK ? size : 0;
}

int inflater_set_window(inflater *i, const uint8_t *window, size_t size)
{
    return size <= DEFLATE_MAX_WINDOW &&
           inflateSetDictionary(&i->stream, window, (uInt)size) == Z_OK;
}

deflater *deflater_take(deflate_pool *pool, int window_bits, int level, int memory_level)
{
    deflater *f;
    int bits = window_bits < MIN_DEFLATE_BITS ? MIN_DEFLATE_BITS : window_bits;

    for (deflater **link = &pool->deflaters; *link; link = &(*link)->next) {
        f = *link;
        if (f->window_bits == bits && f->level == level && f->memory_level == memory_level) {
            *link = f->next;
            return f;
        }
    }
    f = calloc(1, sizeof *f);
    if (f && deflateInit2(&f->stream, level, Z_DEFLATED, -bits, memory_level,
                          Z_DEFAULT_STRATEGY) != Z_OK) {
        free(f);
        return NULL;
    }
    if (f) {
        f->window_bits = bits;
        f->level = level;
        f->memory_level = memory_level;
    }
    return f;
}

void deflater_give(deflate_pool *pool, deflater *f)
{
    deflater **link = &pool->deflaters;

    deflateReset(&f->stream);
    f->next = pool->deflaters;
    pool->deflaters = f;
    for (int kept = 0; *link && kept < MAX_IDLE; kept++)
        link = &(*link)->next;
    if (*link) {
        deflater_free(*link);
        *link = NULL;
    }
}

void deflater_free(deflater *f)
{
    deflateEnd(&f->stream);
    free(f);
}

size_t deflater_run(deflater *f, const uint8_t *data, size_t size, uint8_t *out)
{
    z_stream *s = &f->stream;
    size_t left = size, space = size + sizeof deflate_tail;

    for (;;) {
        uInt avail_in = to_uint(left), avail_out = to_uint(space);
        s->next_in = (Bytef *)data;
        s->avail_in = avail_in;
        s->next_out = out;
        s->avail_out = avail_out;
        deflate(s, avail_in == left ? Z_SYNC_FLUSH : Z_NO_FLUSH);
        data += avail_in - s->avail_in;
        left -= avail_in - s->avail_in;
        out += avail_out - s->avail_out;
        space -= avail_out - s->avail_out;
        if (space == 0) {
            deflateReset(s);
            return 0;
        }
        if (left == 0 && s->avail_out)
            return size - space;
    }
}

#endif
