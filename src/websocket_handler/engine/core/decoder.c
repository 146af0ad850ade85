#include "decoder.h"

#include <stdlib.h>
#include <string.h>

#include "mask.h"

/* An incomplete message. Allocated only while there is one. */
typedef struct decoder_assembly {
    decoder_storage storage;
    uint64_t announced; /* sum of the lengths in the frame headers so far */
    uint64_t size;      /* bytes in the storage */
    uint32_t fragments;
    uint32_t empty;
    utf8_state text;
    uint8_t opcode;
    uint8_t compressed;
} assembly;

/* A header or control frame that is incomplete at the end of a read. */
typedef struct decoder_partial {
    uint8_t size;
    uint8_t consumed; /* it was read; the event may still point into it */
    uint8_t bytes[FRAME_MAX_HEADER + FRAME_MAX_CONTROL];
} partial;

/* How memory for a message grows. A peer that sends a few bytes of a large frame causes only a
 * small allocation; a message that arrives completely needs one or two reallocations. */
enum { MIN_RESERVE = 512, RESERVE_FACTOR = 8 };

/* From these sizes of input and output on, inflating releases the GIL. */
enum { RELEASE_MIN_INPUT = 16384, RELEASE_MIN_OUTPUT = 131072 };

/* A value of `finished`: decoder_want could not get memory, and decoder_next must report it. */
enum { OUT_OF_MEMORY = 2 };

enum { PROTOCOL_ERROR = 1002, NO_CODE = 1005, INVALID_DATA = 1007, POLICY = 1008, TOO_BIG = 1009 };

static decoder_kind violation(decoder *d, decoder_event *event, uint16_t code, const char *reason)
{
    d->finished = 1;
    event->code = code;
    event->reason = reason;
    return DECODER_VIOLATION;
}

static decoder_kind invalid_text(decoder *d, decoder_event *event)
{
    return violation(d, event, INVALID_DATA, "text is not valid UTF-8");
}

int decoder_is_valid_close_code(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

static const char too_big[] = "message is too big";
static const char invalid_deflate[] = "compressed data is not valid";

static int is_known_opcode(uint8_t opcode)
{
    return opcode <= OPCODE_BINARY || (opcode >= OPCODE_CLOSE && opcode <= OPCODE_PONG);
}

static const char *check_reserved_bits(const decoder *d, uint8_t first)
{
    if ((first & FRAME_RESERVED_BITS) != FRAME_RSV1 || !d->rules->inflate_window_bits)
        return "reserved bit set without a negotiated extension";
    if (first & FRAME_CONTROL_BIT || (first & FRAME_OPCODE_BITS) == OPCODE_CONTINUATION)
        return "RSV1 set on a control or continuation frame";
    return NULL;
}

/* check.check_start in protocol/: checks the first two bytes of a frame. */
static const char *check_start(const decoder *d, uint8_t first, uint8_t second)
{
    uint8_t opcode = first & FRAME_OPCODE_BITS;

    if (first & FRAME_RESERVED_BITS) {
        const char *error = check_reserved_bits(d, first);
        if (error)
            return error;
    }
    if (!is_known_opcode(opcode))
        return "reserved opcode";
    if (!(second & FRAME_MASK) != !d->expect_masked)
        return d->expect_masked ? "frame from a client is not masked"
                                : "frame from a server is masked";
    if (opcode & FRAME_CONTROL_BIT) {
        if (!(first & FRAME_FIN))
            return "control frame is fragmented";
        if ((second & FRAME_LENGTH_BITS) > FRAME_MAX_CONTROL)
            return "control frame is longer than 125 bytes";
    } else if (opcode == OPCODE_CONTINUATION) {
        if (!d->assembly)
            return "continuation frame without a message to continue";
    } else if (d->assembly) {
        return "new message inside a fragmented one";
    }
    return NULL;
}

/* check.check_length in protocol/: checks the extended payload length. */
static const char *check_length(uint8_t second, uint64_t length)
{
    uint8_t form = second & FRAME_LENGTH_BITS;

    if (length >> 63)
        return "payload length has its most significant bit set";
    if ((form == FRAME_LENGTH_IN_2_BYTES && length < FRAME_LENGTH_IN_2_BYTES) ||
        (form == FRAME_LENGTH_IN_8_BYTES && length <= UINT16_MAX))
        return "payload length is not in its shortest form";
    return NULL;
}

static decoder_kind read_close(decoder *d, decoder_event *event)
{
    utf8_state text = {0};

    d->finished = 1;
    if (event->size == 0) {
        event->code = NO_CODE;
        return DECODER_CLOSE;
    }
    if (event->size == 1)
        return violation(d, event, PROTOCOL_ERROR, "close frame with a body of one byte");
    event->code = (uint16_t)(event->data[0] << 8 | event->data[1]);
    if (!decoder_is_valid_close_code(event->code) && !(event->code == 1004 && d->allow_1004))
        return violation(d, event, PROTOCOL_ERROR, "close frame with an invalid code");
    event->data += 2;
    event->size -= 2;
    if (!utf8_feed(&text, event->data, event->size) || !utf8_is_complete(&text))
        return violation(d, event, INVALID_DATA, "close reason is not valid UTF-8");
    return DECODER_CLOSE;
}

static decoder_kind read_control(decoder *d, uint8_t *header, size_t header_size,
                                 decoder_event *event)
{
    d->frames++;
    event->data = header + header_size;
    event->size = header[1] & FRAME_LENGTH_BITS;
    if (header[1] & FRAME_MASK)
        mask_apply(event->data, event->data, event->size, event->data - 4, 0);
    switch (header[0] & FRAME_OPCODE_BITS) {
    case OPCODE_PING:
        return DECODER_PING;
    case OPCODE_PONG:
        return DECODER_PONG;
    default:
        return read_close(d, event);
    }
}

/* Checks the limits at the frame header, before memory is allocated for the payload. For a
 * compressed message the limit on the decompressed size is checked while inflating; here its
 * compressed size is limited to the largest that a message of the maximum size can have. */
static const char *announce(assembly *a, const decoder_rules *rules, uint64_t length, int fin,
                            uint16_t *code)
{
    uint64_t limit = rules->max_message_size;

    if (a->compressed)
        limit += (limit >> 3) + 64;
    *code = TOO_BIG;
    if (length > limit - a->announced)
        return too_big;
    a->announced += length;
    *code = POLICY;
    if (a->fragments == rules->max_fragments)
        return "message has too many fragments";
    a->fragments++;
    if (length == 0 && !fin) {
        if (a->empty == rules->max_empty_fragments)
            return "message has too many empty fragments";
        a->empty++;
    }
    return NULL;
}

/* Reads a message that is complete in the bytes just received: no copy and no allocation. */
static decoder_kind read_whole(decoder *d, uint8_t opcode, uint8_t *payload, uint64_t size,
                               decoder_event *event)
{
    utf8_state text = {0};

    if (opcode == OPCODE_TEXT) {
        if (d->expect_masked)
            mask_apply(payload, payload, size, d->key, 0);
        if (!utf8_feed(&text, payload, size) || !utf8_is_complete(&text))
            return invalid_text(d, event);
    } else if (d->expect_masked) {
        event->key = d->key;
    }
    event->opcode = opcode;
    event->is_ascii = !text.not_ascii;
    event->data = payload;
    event->size = size;
    return DECODER_MESSAGE;
}

static int reserve_more(decoder *d, uint64_t more)
{
    assembly *a = d->assembly;
    uint64_t needed = a->size + more;
    uint64_t capacity = needed * RESERVE_FACTOR;
    uint64_t ceiling = d->fin ? a->announced : d->rules->max_message_size;

    if (needed <= a->storage.capacity)
        return 1;
    if (capacity < MIN_RESERVE)
        capacity = MIN_RESERVE;
    if (capacity > ceiling)
        capacity = ceiling;
    return d->rules->reserve(&a->storage, capacity);
}

/* Unmasks the next bytes of payload in place. */
static void unmask(decoder *d, uint8_t *bytes, size_t size)
{
    if (d->expect_masked)
        mask_apply(bytes, bytes, size, d->key, d->key_position);
    d->key_position = (uint8_t)((d->key_position + size) & 3);
    d->remaining -= size;
}

static int reserve_to_inflate(decoder *d, size_t size)
{
    assembly *a = d->assembly;
    uint64_t capacity = (uint64_t)size * RESERVE_FACTOR;

    if (a->size < a->storage.capacity)
        return 1;
    if (capacity < 2 * a->storage.capacity)
        capacity = 2 * a->storage.capacity;
    if (capacity < MIN_RESERVE)
        capacity = MIN_RESERVE;
    if (capacity > d->rules->max_message_size)
        capacity = d->rules->max_message_size;
    return d->rules->reserve(&a->storage, capacity);
}

static inflate_status inflate_available(const decoder *d, const uint8_t **in, size_t *size,
                                        uint8_t *out, size_t *space)
{
    inflate_status status;
    void *released = NULL;
    int is_large = *size >= RELEASE_MIN_INPUT || *space >= RELEASE_MIN_OUTPUT;

    if (is_large)
        released = d->rules->gil_release();
    status = inflater_feed(d->inflater, in, size, out, space);
    if (is_large)
        d->rules->gil_acquire(released);
    return status;
}

/* Inflates `size` bytes of payload and appends them to the assembly, up to the limit. */
static decoder_kind inflate_piece(decoder *d, const uint8_t *in, size_t size,
                                  decoder_event *event)
{
    assembly *a = d->assembly;
    uint64_t before = a->size;
    inflate_status status = size ? INFLATE_FULL : INFLATE_DONE;

    while (status == INFLATE_FULL) {
        uint64_t limit = d->rules->max_message_size;
        uint8_t excess;
        size_t space = 1, left;

        if (a->size == limit) { /* one more byte would exceed the limit */
            status = inflate_available(d, &in, &size, &excess, &space);
            if (space == 0 && status != INFLATE_BAD)
                return violation(d, event, TOO_BIG, too_big);
        } else {
            if (!reserve_to_inflate(d, size))
                return DECODER_NO_MEMORY;
            if (limit > a->storage.capacity)
                limit = a->storage.capacity;
            space = left = (size_t)(limit - a->size);
            status = inflate_available(d, &in, &size, a->storage.data + a->size, &left);
            a->size += space - left;
        }
    }
    if (status == INFLATE_NO_MEMORY)
        return DECODER_NO_MEMORY;
    if (status == INFLATE_BAD)
        return violation(d, event, INVALID_DATA, invalid_deflate);
    if (a->opcode == OPCODE_TEXT && a->size > before &&
        !utf8_feed(&a->text, a->storage.data + before, a->size - before))
        return invalid_text(d, event);
    return DECODER_NEED_DATA;
}

static void end_inflating(decoder *d)
{
    if (!d->rules->inflate_takeover) {
        inflater_give(d->rules->pool, d->inflater);
        d->inflater = NULL;
    }
}

/* The payload of a compressed message is complete: checks that its end is valid. */
static decoder_kind finish_inflating(decoder *d, decoder_event *event)
{
    if (inflater_needs_tail(d->inflater)) {
        decoder_kind kind = inflate_piece(d, deflate_tail, sizeof deflate_tail, event);
        if (kind != DECODER_NEED_DATA)
            return kind;
    }
    if (!inflater_finish(d->inflater))
        return violation(d, event, INVALID_DATA, invalid_deflate);
    end_inflating(d);
    return DECODER_NEED_DATA;
}

/* The received payload is in the assembly: returns the message if it is complete. */
static decoder_kind finish_if_complete(decoder *d, decoder_event *event)
{
    assembly *a = d->assembly;

    if (d->remaining)
        return DECODER_NEED_DATA;
    d->in_payload = 0;
    if (!d->fin)
        return DECODER_NEED_DATA;
    if (a->compressed) {
        decoder_kind kind = finish_inflating(d, event);
        if (kind != DECODER_NEED_DATA)
            return kind;
    }
    if (a->opcode == OPCODE_TEXT && !utf8_is_complete(&a->text))
        return invalid_text(d, event);
    event->opcode = a->opcode;
    event->is_ascii = !a->text.not_ascii;
    event->storage = a->storage;
    event->data = a->storage.data;
    event->size = a->size;
    d->assembly = NULL;
    free(a);
    return DECODER_MESSAGE;
}

/* Adds `size` bytes of payload, which are behind the end of the assembly, to it. */
static decoder_kind append_payload(decoder *d, size_t size, decoder_event *event)
{
    assembly *a = d->assembly;

    if (size) {
        uint8_t *bytes = a->storage.data + a->size;
        unmask(d, bytes, size);
        if (a->opcode == OPCODE_TEXT && !utf8_feed(&a->text, bytes, size))
            return invalid_text(d, event);
        a->size += size;
    }
    return finish_if_complete(d, event);
}

static decoder_kind read_compressed(decoder *d, uint8_t **cursor, size_t size,
                                    decoder_event *event)
{
    uint8_t *bytes = *cursor;
    decoder_kind kind;

    *cursor += size;
    unmask(d, bytes, size);
    kind = inflate_piece(d, bytes, size, event);
    return kind == DECODER_NEED_DATA ? finish_if_complete(d, event) : kind;
}

static decoder_kind read_payload(decoder *d, uint8_t **cursor, const uint8_t *end,
                                 decoder_event *event)
{
    size_t size = (size_t)(end - *cursor);

    if (size > d->remaining)
        size = (size_t)d->remaining;
    if (d->assembly->compressed)
        return read_compressed(d, cursor, size, event);
    if (size) {
        if (!reserve_more(d, size))
            return DECODER_NO_MEMORY;
        memcpy(d->assembly->storage.data + d->assembly->size, *cursor, size);
        *cursor += size;
    }
    return append_payload(d, size, event);
}

/* Starts a data frame: its complete header is at `header`, its payload begins at *cursor. */
static decoder_kind begin_data(decoder *d, const uint8_t *header, size_t header_size,
                               uint64_t length, uint8_t **cursor, uint8_t *end,
                               decoder_event *event)
{
    assembly fresh = {.opcode = header[0] & FRAME_OPCODE_BITS,
                      .compressed = !!(header[0] & FRAME_RSV1)};
    assembly *a = d->assembly ? d->assembly : &fresh;
    const char *error;
    uint16_t code;

    d->frames++;
    d->fin = !!(header[0] & FRAME_FIN);
    error = announce(a, d->rules, length, d->fin, &code);
    if (error)
        return violation(d, event, code, error);
    if (d->expect_masked)
        memcpy(d->key, header + header_size - 4, 4);
    if (a == &fresh && d->fin && !fresh.compressed && length <= (uint64_t)(end - *cursor)) {
        uint8_t *payload = *cursor;
        *cursor += length;
        return read_whole(d, fresh.opcode, payload, length, event);
    }
    if (a == &fresh) {
        if (fresh.compressed && !d->inflater) {
            d->inflater = inflater_take(d->rules->pool, d->rules->inflate_window_bits);
            if (!d->inflater)
                return DECODER_NO_MEMORY;
        }
        d->assembly = malloc(sizeof *a);
        if (!d->assembly)
            return DECODER_NO_MEMORY;
        *d->assembly = fresh;
    }
    d->key_position = 0;
    d->remaining = length;
    d->in_payload = 1;
    return DECODER_NEED_DATA; /* decoder_next continues with the payload, even if it is empty */
}

/* Checks the available part of the frame at `bytes`. Sets *needed to the bytes that are needed
 * before it can be read: the header, or the header and payload of a control frame. */
static decoder_kind check_head(decoder *d, const uint8_t *bytes, size_t available, size_t *needed,
                               decoder_event *event)
{
    const char *error;

    *needed = 2;
    if (available < *needed)
        return DECODER_NEED_DATA;
    error = check_start(d, bytes[0], bytes[1]);
    if (error)
        return violation(d, event, PROTOCOL_ERROR, error);
    *needed = frame_header_size(bytes[1]);
    if (available < *needed)
        return DECODER_NEED_DATA;
    error = check_length(bytes[1], frame_payload_length(bytes));
    if (error)
        return violation(d, event, PROTOCOL_ERROR, error);
    if (bytes[0] & FRAME_CONTROL_BIT)
        *needed += bytes[1] & FRAME_LENGTH_BITS;
    return DECODER_NEED_DATA;
}

static decoder_kind save_partial(decoder *d, uint8_t **cursor, const uint8_t *end)
{
    size_t size = (size_t)(end - *cursor);

    if (size) {
        d->partial = malloc(sizeof *d->partial);
        if (!d->partial)
            return DECODER_NO_MEMORY;
        d->partial->size = (uint8_t)size;
        d->partial->consumed = 0;
        memcpy(d->partial->bytes, *cursor, size);
        *cursor += size;
    }
    return DECODER_NEED_DATA;
}

/* Appends received bytes to the partial frame until it is complete; sets *needed like
 * check_head. */
static decoder_kind complete_partial(decoder *d, uint8_t **cursor, const uint8_t *end,
                                     size_t *needed, decoder_event *event)
{
    partial *p = d->partial;

    for (;;) {
        if (check_head(d, p->bytes, p->size, needed, event) == DECODER_VIOLATION)
            return DECODER_VIOLATION;
        size_t missing = *needed > p->size ? *needed - p->size : 0;
        size_t available = (size_t)(end - *cursor);
        if (missing == 0 || available == 0)
            return DECODER_NEED_DATA;
        if (missing > available)
            missing = available;
        memcpy(p->bytes + p->size, *cursor, missing);
        p->size = (uint8_t)(p->size + missing);
        *cursor += missing;
    }
}

/* Reads a frame whose header, or header and payload of a control frame, is complete at `bytes`. */
static decoder_kind read_frame(decoder *d, uint8_t *bytes, uint8_t **cursor, uint8_t *end,
                               decoder_event *event)
{
    size_t header_size = frame_header_size(bytes[1]);

    if (bytes[0] & FRAME_CONTROL_BIT)
        return read_control(d, bytes, header_size, event);
    return begin_data(d, bytes, header_size, frame_payload_length(bytes), cursor, end, event);
}

static decoder_kind read_head(decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event)
{
    uint8_t *bytes = *cursor;
    size_t needed;

    if (d->partial) {
        if (complete_partial(d, cursor, end, &needed, event) == DECODER_VIOLATION)
            return DECODER_VIOLATION;
        if (d->partial->size < needed)
            return DECODER_NEED_DATA;
        d->partial->consumed = 1;
        bytes = d->partial->bytes;
    } else {
        if (check_head(d, bytes, (size_t)(end - bytes), &needed, event) == DECODER_VIOLATION)
            return DECODER_VIOLATION;
        if ((size_t)(end - bytes) < needed)
            return save_partial(d, cursor, end);
        *cursor += needed;
    }
    return read_frame(d, bytes, cursor, end, event);
}

/* The most frequent case at once: an uncompressed message in one frame of at most 65,535 bytes that
 * is complete at *cursor, between two messages. Reads nothing and returns DECODER_NEED_DATA in every
 * other case, which includes everything that violates the protocol or a limit. */
static decoder_kind read_short(decoder *d, uint8_t **cursor, const uint8_t *end,
                               decoder_event *event)
{
    uint8_t *bytes = *cursor;
    size_t available = (size_t)(end - bytes);
    size_t header_size = 2, size;
    uint8_t opcode;

    if (d->partial || d->assembly || d->finished || available < 4)
        return DECODER_NEED_DATA;
    opcode = bytes[0] ^ FRAME_FIN; /* a known one only if FIN is set and no reserved bit is */
    size = bytes[1] ^ (d->expect_masked ? FRAME_MASK : 0); /* large if masked or not by mistake */
    if ((opcode != OPCODE_BINARY && opcode != OPCODE_TEXT) || size > FRAME_LENGTH_IN_2_BYTES)
        return DECODER_NEED_DATA;
    if (size == FRAME_LENGTH_IN_2_BYTES) {
        size = (size_t)(bytes[2] << 8 | bytes[3]);
        header_size = 4;
        if (size < FRAME_LENGTH_IN_2_BYTES)
            return DECODER_NEED_DATA;
    }
    if (d->expect_masked)
        header_size += 4;
    if (available < header_size + size || size > d->rules->max_message_size ||
        d->rules->max_fragments == 0)
        return DECODER_NEED_DATA;
    d->frames++;
    if (d->expect_masked)
        memcpy(d->key, bytes + header_size - 4, 4);
    *cursor += header_size + size;
    return read_whole(d, opcode, bytes + header_size, size, event);
}

decoder_kind decoder_next(decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event)
{
    decoder_kind kind;

    event->storage.owner = NULL;
    event->key = NULL;
    kind = read_short(d, cursor, end, event);
    while (kind == DECODER_NEED_DATA) {
        if (d->partial && d->partial->consumed) {
            free(d->partial);
            d->partial = NULL;
        }
        if (d->finished) {
            *cursor = end;
            if (d->finished == OUT_OF_MEMORY)
                kind = DECODER_NO_MEMORY;
            break;
        }
        if (*cursor == end && !(d->in_payload && d->remaining == 0))
            break;
        kind = d->in_payload ? read_payload(d, cursor, end, event)
                             : read_head(d, cursor, end, event);
    }
    if (kind == DECODER_NO_MEMORY)
        d->finished = 1;
    return kind;
}

size_t decoder_want(decoder *d, uint64_t min, uint8_t **into)
{
    assembly *a = d->assembly;
    uint64_t space;

    if (!d->in_payload || d->finished || d->remaining < min || a->compressed)
        return 0;
    if (a->size == a->storage.capacity && !reserve_more(d, 1)) {
        d->finished = OUT_OF_MEMORY; /* the content of the storage is lost */
        return 0;
    }
    space = a->storage.capacity - a->size;
    if (space > d->remaining)
        space = d->remaining;
    *into = a->storage.data + a->size;
    return (size_t)space;
}

decoder_kind decoder_received(decoder *d, size_t size, decoder_event *event)
{
    event->storage.owner = NULL;
    event->key = NULL;
    return append_payload(d, size, event);
}

decoder_position decoder_find_position(const decoder *d)
{
    decoder_position position = {0};

    if (d->assembly) {
        position.payload = d->assembly->storage.data;
        position.size = d->assembly->size;
        position.fragments = d->assembly->fragments;
        position.empty = d->assembly->empty;
        position.opcode = d->assembly->opcode;
        position.compressed = d->assembly->compressed;
    }
    if (d->partial && !d->partial->consumed) {
        position.unread = d->partial->bytes;
        position.unread_size = d->partial->size;
    }
    return position;
}

void decoder_free(decoder *d)
{
    free(d->partial);
    d->partial = NULL;
    if (d->inflater) {
        inflater_free(d->inflater);
        d->inflater = NULL;
    }
    if (d->assembly) {
        if (d->assembly->storage.owner)
            d->rules->release(&d->assembly->storage);
        free(d->assembly);
        d->assembly = NULL;
    }
}
