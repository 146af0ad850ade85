/* The native codec on arbitrary bytes; README.md lists the checked properties.
 *
 * The layout of the input is that of wire.py: four bytes of choices, sizes of pieces, bytes. */
#include "decoder.h"
#include "encode.h"
#include "assertions.h"
#include "trace.h"

enum { AS_SERVER = 1, COMPRESSED = 2, TAKEOVER = 4, ALLOW_1004 = 8, DIRECT = 16, NO_MEMORY = 32 };

static const uint64_t sizes[] = {1 << 20, 0, 5, 125, 130, 511, 4000, 70000};
static const uint32_t counts[] = {1000, 1, 2, 3};
static const uint8_t client_key[4] = {0x37, 0xfa, 0x21, 0x3d};

static deflate_pool pool; /* shared by all inputs, as in a process */
static uint64_t max_capacity, arrived;
static int reserves_left;

/* Allocates exactly `capacity` bytes, at a new address each time. The capacity must depend on the
 * bytes that have arrived, not on the announced length. */
static int reserve(decoder_storage *storage, uint64_t capacity)
{
    ASSERT(capacity <= max_capacity);
    ASSERT(capacity <= 512 || capacity <= 8 * arrived || capacity <= 2 * storage->capacity);
    if (reserves_left-- == 0)
        return 0;
    uint8_t *fresh = malloc(capacity ? capacity : 1);
    if (storage->owner)
        memcpy(fresh, storage->data, storage->capacity);
    free(storage->owner);
    *storage = (decoder_storage){fresh, capacity, fresh};
    return 1;
}

static void release(decoder_storage *storage)
{
    free(storage->owner);
    storage->owner = NULL;
}

static void *gil_release(void)
{
    return NULL;
}

static void gil_acquire(void *aside)
{
    (void)aside;
}

/* Feeds a piece in memory of exactly its size; if `direct`, into the incomplete message. */
static decoder_kind feed(decoder *d, const uint8_t *data, size_t size, int direct, buffer *trace)
{
    uint8_t *copy = malloc(size), *cursor = copy, *into;
    decoder_kind kind;
    decoder_event event;
    size_t wanted = direct ? decoder_want(d, 1, &into) : 0;

    arrived += size;
    memcpy(copy, data, size);
    if (wanted) {
        wanted = wanted < size ? wanted : size;
        memcpy(into, copy, wanted);
        cursor += wanted;
        kind = decoder_received(d, wanted, &event);
    } else {
        kind = decoder_next(d, &cursor, copy + size, &event);
    }
    while (kind != DECODER_NO_MEMORY && (kind != DECODER_NEED_DATA || cursor < copy + size)) {
        if (kind != DECODER_NEED_DATA) {
            ASSERT(!event.storage.owner || kind == DECODER_MESSAGE);
            if (event.key)
                mask_apply(event.data, event.data, event.size, event.key, 0);
            trace_add(trace, kind, &event);
            release(&event.storage);
        }
        kind = decoder_next(d, &cursor, copy + size, &event);
    }
    free(copy);
    return kind;
}

/* Decodes the bytes in pieces of the given sizes, cyclically; the size 0 means all the rest. */
static buffer run(const decoder_rules *rules, int flags, const buffer *wire, const uint8_t *pieces,
                  size_t count)
{
    decoder d = {.rules = rules, .expect_masked = flags & AS_SERVER,
                 .allow_1004 = !!(flags & ALLOW_1004)};
    decoder_kind kind = DECODER_NEED_DATA;
    buffer trace = {0};

    arrived = 0;
    for (size_t at = 0, index = 0; at < wire->size && kind != DECODER_NO_MEMORY; index++) {
        size_t size = wire->size - at, piece = pieces[index % count];
        size = piece && piece < size ? piece : size;
        kind = feed(&d, wire->data + at, size, flags & DIRECT, &trace);
        at += size;
    }
    ASSERT(kind != DECODER_NO_MEMORY || flags & NO_MEMORY);
    decoder_free(&d);
    return trace;
}

/* Checks that our decoder reads back the frames that our encoder writes for the events. */
static void check_round_trip(decoder_rules rules, int flags, const buffer *trace,
                             const uint8_t *pieces, size_t count)
{
    size_t before = trace_before_violation(trace);
    const uint8_t *data, *key = flags & AS_SERVER ? client_key : NULL;
    buffer wire = {0}, again;
    deflater *f = NULL;
    trace_event t;

    for (size_t at = 0; at < before && trace_next(trace, &at, &t, &data);)
        encode(&rules, &f, &t, data, key, &wire);
    rules.max_fragments = 1;
    again = run(&rules, flags, &wire, pieces, count);
    ASSERT(again.size == before && is_same(&again, trace, before));
    free(wire.data), free(again.data);
    if (f)
        deflater_free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4 || size < 5u + (data[3] & 7))
        return 0;
    int flags = data[0];
    const uint8_t *pieces = data + 4, one = 1;
    size_t count = 1 + (data[3] & 7);
    const buffer wire = {(uint8_t *)data + 4 + count, size - 4 - count, 0};
    decoder_rules rules = {
        .max_message_size = sizes[data[1] & 7],
        .max_fragments = counts[data[1] >> 3 & 3],
        .max_empty_fragments = counts[data[1] >> 5 & 3] - 1,
        .reserve = reserve,
        .release = release,
        .inflate_window_bits = flags & COMPRESSED ? 8 + (data[2] & 7) : 0,
        .inflate_takeover = !!(flags & TAKEOVER),
        .pool = &pool,
        .gil_release = gil_release,
        .gil_acquire = gil_acquire,
    };
    max_capacity = rules.max_message_size;
    reserves_left = flags & NO_MEMORY ? data[2] >> 3 : -1;
    buffer trace = run(&rules, flags, &wire, pieces, count);

    if (!(flags & NO_MEMORY)) {
        /* Whether zlib rejects a reference beyond the negotiated window depends on its output
         * buffer, and so on the pieces. A reference beyond 15 bits is impossible. */
        if (!rules.inflate_window_bits || rules.inflate_window_bits == 15) {
            buffer single = run(&rules, flags & ~DIRECT, &wire, &one, 1);
            trace_check_pieces(&trace, &single, flags & COMPRESSED);
            free(single.data);
        }
        check_round_trip(rules, flags, &trace, pieces, count);
    }
    free(trace.data);
    return 0;
}
