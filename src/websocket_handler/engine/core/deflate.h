/* Compressing and decompressing messages (RFC 7692 section 7.2) with zlib.
 *
 * Knows bytes and zlib: no frame, no Python. Twin of protocol/deflate.py. Built with
 * WITHOUT_ZLIB nothing can be had from a pool, and deflate_is_available says so. */
#ifndef WEBSOCKET_HANDLER_DEFLATE_H
#define WEBSOCKET_HANDLER_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

typedef struct inflater inflater;
typedef struct deflater deflater;

/* What is ready for the next message of any connection, so that none has its own. All zero
 * is an empty pool. Of each kind a few are kept, those used last first. */
typedef struct {
    inflater *inflaters;
    deflater *deflaters;
} deflate_pool;

typedef enum {
    INFLATE_DONE, /* everything was read */
    INFLATE_FULL, /* there may be more to write */
    INFLATE_BAD,
    INFLATE_NO_MEMORY
} inflate_status;

int deflate_is_available(void);

/* From the pool or new; NULL if there is no memory. Windows have 8 to 15 bits. */
inflater *inflater_take(deflate_pool *pool, int window_bits);
void inflater_give(deflate_pool *pool, inflater *i);
void inflater_free(inflater *i);

/* Reads on from *in, of which *size bytes are left, and writes at most *room > 0 bytes to
 * `out`; both become what is left. */
inflate_status inflater_feed(inflater *i, const uint8_t **in, size_t *size, uint8_t *out,
                             size_t *room);

/* The payload of the message has been fed. A message that ended a stream by itself, or had no
 * payload at all, is complete; any other needs deflate_tail fed too. */
int inflater_needs_tail(const inflater *i);
extern const uint8_t deflate_tail[4];

/* Whether a message of which all was fed ended where it may; the next one can begin. */
int inflater_finish(inflater *i);

/* As the inflater's. `level` and `memory_level` are zlib's, 1 to 9. */
deflater *deflater_take(deflate_pool *pool, int window_bits, int level, int memory_level);
void deflater_give(deflate_pool *pool, deflater *f);
void deflater_free(deflater *f);

/* Compresses a message, which must not be empty, into `out`, of size + 4 bytes at least, and
 * returns the size of its payload; 0 if that would not be less than `size`. Then the context is
 * gone: the peer will not see what it was made from. */
size_t deflater_run(deflater *f, const uint8_t *data, size_t size, uint8_t *out);

#endif
