/* Compression and decompression of messages (RFC 7692 section 7.2) with zlib.
 *
 * No frames and no Python in here. The Python counterpart is protocol/deflate.py. If built with
 * WITHOUT_ZLIB, deflate_is_available returns 0 and inflater_take and deflater_take return NULL. */
#ifndef WEBSOCKET_HANDLER_DEFLATE_H
#define WEBSOCKET_HANDLER_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

typedef struct inflater inflater;
typedef struct deflater deflater;

/* zlib streams that all connections share. A pool of all zeros is empty. It keeps a few streams of
 * each kind, the last used first. */
typedef struct {
    inflater *inflaters;
    deflater *deflaters;
} deflate_pool;

typedef enum {
    INFLATE_DONE, /* all input was read */
    INFLATE_FULL, /* the output is full; there may be more */
    INFLATE_BAD,
    INFLATE_NO_MEMORY
} inflate_status;

int deflate_is_available(void);

/* Returns an inflater from the pool or a new one, NULL without memory. `window_bits` is 8 to 15. */
inflater *inflater_take(deflate_pool *pool, int window_bits);
void inflater_give(deflate_pool *pool, inflater *i);
void inflater_free(inflater *i);

/* Decompresses *size bytes at *in, and writes at most *space > 0 bytes to `out`. Both counts are
 * reduced by the bytes read and written. */
inflate_status inflater_feed(inflater *i, const uint8_t **in, size_t *size, uint8_t *out,
                             size_t *space);

/* Whether deflate_tail must be fed after the payload of a message: not if the message had no
 * payload or ended its deflate stream itself. */
int inflater_needs_tail(const inflater *i);
extern const uint8_t deflate_tail[4];

/* Returns whether the message, which was fed completely, is valid at its end, and prepares for the
 * next message. */
int inflater_finish(inflater *i);

/* Copies the window, the last decompressed bytes that the next message may refer to, to `out`, which
 * has DEFLATE_MAX_WINDOW bytes. Returns its size. */
enum { DEFLATE_MAX_WINDOW = 32768 };
size_t inflater_window(inflater *i, uint8_t *out);

/* Sets the window of an inflater that has read nothing. Returns whether it is valid. */
int inflater_set_window(inflater *i, const uint8_t *window, size_t size);

/* Like the functions of the inflater. `level` and `memory_level` are those of zlib, 1 to 9. */
deflater *deflater_take(deflate_pool *pool, int window_bits, int level, int memory_level);
void deflater_give(deflate_pool *pool, deflater *f);
void deflater_free(deflater *f);

/* Compresses a message, which must not be empty, into `out`, which has at least size + 4 bytes.
 * Returns the size of the compressed payload, 0 if that is not less than `size`. In this case the
 * context is reset, because the peer never receives the compressed data. */
size_t deflater_run(deflater *f, const uint8_t *data, size_t size, uint8_t *out);

#endif
