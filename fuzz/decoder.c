/* The native codec on arbitrary bytes: README.md says what is promised.
 *
 * The input is laid out as in wire.py: four bytes of choices, sizes of pieces, bytes. */
#include "decoder.h"
#include "encode.h"
#include "promise.h"
#include "trace.h"

enum { AS_SERVER = 1, COMPRESSED = 2, TAKEOVER = 4, OLD_CODES = 8, STRAIGHT = 16, NO_MEMORY = 32 };

static const uint64_t sizes[] = {1 << 20, 0, 5, 125, 130, 511, 4000, 70000};
static const uint32_t counts[] = {1000, 1, 2, 3};
static const uint8_t client_key[4] = {0x37, 0xfa, 0x21, 0x3d};

static deflate_pool pool; /* of the process, as it is */
static uint64_t most_allowed, arrived;
static int reserves_left;

/* Exactly as much as was asked for, elsewhere each time. It goes by what has arrived, whatever
 * was announced. */
static int reserve(decoder_storage *storage, uint64_t capacity)
{
    PROMISE(capacity <= most_allowed);
    PROMISE(capacity <= 512 || capacity <= 8 * arrived || capacity <= 2 * storage->capacity);
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

static void *step_aside(void)
{
    return NULL;
}

static void step_back(void *aside)
{
    (void)aside;
}

/* Feeds a piece that nobody else may look beyond; if `straight`, into the message under way. */
static decoder_kind feed(decoder *d, const uint8_t *data, size_t size, int straight, buffer *trace)
{
    uint8_t *copy = malloc(size), *cursor = copy, *into;
    decoder_kind kind;
    decoder_event event;
    size_t wanted = straight ? decoder_want(d, 1, &into) : 0;

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
    while (kind != DECODER_NO_MEMORY && (kind != DECODER_STARVED || cursor < copy + size)) {
        if (kind != DECODER_STARVED) {
            PROMISE(!event.storage.owner || kind == DECODER_MESSAGE);
            trace_add(trace, kind, &event);
            release(&event.storage);
        }
        kind = decoder_next(d, &cursor, copy + size, &event);
    }
    free(copy);
    return kind;
}

/* Reads it in pieces of the sizes given, over and over; 0 is all the rest. */
static buffer run(const decoder_rules *rules, int flags, const buffer *wire, const uint8_t *pieces,
                  size_t count)
{
    decoder d = {.rules = rules, .expect_masked = flags & AS_SERVER,
                 .old_codes = !!(flags & OLD_CODES)};
    decoder_kind kind = DECODER_STARVED;
    buffer trace = {0};

    arrived = 0;
    for (size_t at = 0, turn = 0; at < wire->size && kind != DECODER_NO_MEMORY; turn++) {
        size_t size = wire->size - at, piece = pieces[turn % count];
        size = piece && piece < size ? piece : size;
        kind = feed(&d, wire->data + at, size, flags & STRAIGHT, &trace);
        at += size;
    }
    PROMISE(kind != DECODER_NO_MEMORY || flags & NO_MEMORY);
    decoder_free(&d);
    return trace;
}

/* What our encoder writes of the events, our decoder reads back. */
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
    PROMISE(again.size == before && is_same(&again, trace, before));
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
        .step_aside = step_aside,
        .step_back = step_back,
    };
    most_allowed = rules.max_message_size;
    reserves_left = flags & NO_MEMORY ? data[2] >> 3 : -1;
    buffer trace = run(&rules, flags, &wire, pieces, count);

    if (!(flags & NO_MEMORY)) {
        /* Whether zlib minds a peer that looks back beyond the window that was agreed depends on
         * the memory it is given, and so on the cuts. None can look back beyond 15 bits. */
        if (!rules.inflate_window_bits || rules.inflate_window_bits == 15) {
            buffer single = run(&rules, flags & ~STRAIGHT, &wire, &one, 1);
            trace_check_cuts(&trace, &single, flags & COMPRESSED);
            free(single.data);
        }
        check_round_trip(rules, flags, &trace, pieces, count);
    }
    free(trace.data);
    return 0;
}
