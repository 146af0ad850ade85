/* Measures deflating and inflating a message with several libraries, like permessage-deflate without
 * context takeover: each message is a raw stream that ends with a sync flush, whose last four bytes
 * are removed (RFC 7692 section 7.2).
 *
 * This is a shared library for benchmarks/deflaters.py, which passes the functions of zlib-ng from
 * its Python package. The other libraries are linked. */
#include <isa-l.h>
#include <libdeflate.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

enum { WINDOW_BITS = 15, MEMORY_LEVEL = 8, MAX_SIZE = 1 << 20 };

/* The functions of zlib or zlib-ng; the stream of zlib-ng starts with the fields of zlib's. */
typedef struct {
    int (*deflate)(z_stream *, int);
    int (*deflateReset)(z_stream *);
    int (*inflate)(z_stream *, int);
    int (*inflateReset)(z_stream *);
    int (*init_deflate)(z_stream *, int, int, int, int, int);
    int (*init_inflate)(z_stream *, int);
} zlib_functions;

static z_stream deflater, inflater;
static zlib_functions with;
static struct isal_zstream isal_deflater;
static struct inflate_state isal_inflater;
static uint8_t isal_level_buffer[ISAL_DEF_LVL1_DEFAULT];
static struct libdeflate_compressor *compressor;
static struct libdeflate_decompressor *decompressor;
static uint8_t deflated[MAX_SIZE + 1024], inflated[MAX_SIZE];

static size_t deflate_by_zlib(const uint8_t *data, size_t size, int level)
{
    (void)level;
    with.deflateReset(&deflater);
    deflater.next_in = (Bytef *)data;
    deflater.avail_in = (uInt)size;
    deflater.next_out = deflated;
    deflater.avail_out = sizeof deflated;
    with.deflate(&deflater, Z_SYNC_FLUSH);
    return sizeof deflated - deflater.avail_out - 4;
}

static size_t inflate_by_zlib(size_t size)
{
    with.inflateReset(&inflater);
    memcpy(deflated + size, "\0\0\xff\xff", 4);
    inflater.next_in = deflated;
    inflater.avail_in = (uInt)size + 4;
    inflater.next_out = inflated;
    inflater.avail_out = sizeof inflated;
    with.inflate(&inflater, Z_SYNC_FLUSH);
    return sizeof inflated - inflater.avail_out;
}

static size_t deflate_by_isal(const uint8_t *data, size_t size, int level)
{
    isal_deflate_init(&isal_deflater);
    isal_deflater.level = (uint32_t)level;
    isal_deflater.level_buf = isal_level_buffer;
    isal_deflater.level_buf_size = sizeof isal_level_buffer;
    isal_deflater.flush = SYNC_FLUSH;
    isal_deflater.hist_bits = WINDOW_BITS;
    isal_deflater.next_in = (uint8_t *)data;
    isal_deflater.avail_in = (uint32_t)size;
    isal_deflater.next_out = deflated;
    isal_deflater.avail_out = sizeof deflated;
    isal_deflate(&isal_deflater);
    return sizeof deflated - isal_deflater.avail_out - 4;
}

static size_t inflate_by_isal(size_t size)
{
    isal_inflate_reset(&isal_inflater);
    memcpy(deflated + size, "\0\0\xff\xff", 4);
    isal_inflater.next_in = deflated;
    isal_inflater.avail_in = (uint32_t)size + 4;
    isal_inflater.next_out = inflated;
    isal_inflater.avail_out = sizeof inflated;
    isal_inflate(&isal_inflater);
    return sizeof inflated - isal_inflater.avail_out;
}

/* libdeflate has no flush: its last block has BFINAL set, which the RFC allows (7.2.3.4). */
static size_t deflate_by_libdeflate(const uint8_t *data, size_t size, int level)
{
    (void)level;
    return libdeflate_deflate_compress(compressor, data, size, deflated, sizeof deflated);
}

static size_t inflate_by_libdeflate(size_t size)
{
    size_t written = 0;

    libdeflate_deflate_decompress(decompressor, deflated, size, inflated, sizeof inflated,
                                  &written);
    return written;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Measures the CPU time, in µs, to deflate a message with the library `which` and to inflate it
 * again, and its compressed size. Returns 0 if the inflated message differs from the original. */
int measure(const char *which, const zlib_functions *functions, const uint8_t *data, size_t size,
            int level, int times, double *to_deflate, double *to_inflate, size_t *shrunk)
{
    size_t (*deflate_it)(const uint8_t *, size_t, int) = deflate_by_zlib;
    size_t (*inflate_it)(size_t) = inflate_by_zlib;

    if (!strcmp(which, "zlib") || !strcmp(which, "zlib-ng")) {
        with = *functions;
        memset(&deflater, 0, sizeof deflater);
        memset(&inflater, 0, sizeof inflater);
        with.init_deflate(&deflater, level, Z_DEFLATED, -WINDOW_BITS, MEMORY_LEVEL,
                          Z_DEFAULT_STRATEGY);
        with.init_inflate(&inflater, -WINDOW_BITS);
    } else if (!strcmp(which, "isa-l")) {
        deflate_it = deflate_by_isal;
        inflate_it = inflate_by_isal;
        isal_inflate_init(&isal_inflater);
    } else {
        deflate_it = deflate_by_libdeflate;
        inflate_it = inflate_by_libdeflate;
        compressor = libdeflate_alloc_compressor(level);
        decompressor = libdeflate_alloc_decompressor();
    }
    *shrunk = deflate_it(data, size, level);
    if (inflate_it(*shrunk) != size || memcmp(inflated, data, size))
        return 0;
    double begun = now();
    for (int i = 0; i < times; i++)
        deflate_it(data, size, level);
    *to_deflate = (now() - begun) / times * 1e6;
    begun = now();
    for (int i = 0; i < times; i++)
        inflate_it(*shrunk);
    *to_inflate = (now() - begun) / times * 1e6;
    return 1;
}

/* The functions of zlib, which is linked. */
static int own_deflate_init(z_stream *s, int level, int method, int bits, int memory, int strategy)
{
    return deflateInit2(s, level, method, bits, memory, strategy);
}

static int own_inflate_init(z_stream *s, int bits)
{
    return inflateInit2(s, bits);
}

const zlib_functions zlib = {deflate, deflateReset, inflate, inflateReset,
                             own_deflate_init, own_inflate_init};
