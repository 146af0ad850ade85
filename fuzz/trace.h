/* The events of a decoder as a sequence of bytes that can be compared. */
#ifndef TRACE_H
#define TRACE_H

#include <string.h>

#include "decoder.h"
#include "assertions.h"

typedef struct {
    uint8_t *data;
    size_t size, capacity;
} buffer;

typedef struct {
    uint16_t kind, code, opcode, is_ascii;
    uint64_t size; /* of the payload or the reason, which follows */
} trace_event;

static void append(buffer *b, const void *bytes, size_t size)
{
    if (b->capacity - b->size < size) {
        b->capacity = 2 * (b->capacity + size);
        b->data = realloc(b->data, b->capacity);
    }
    if (size)
        memcpy(b->data + b->size, bytes, size);
    b->size += size;
}

static void trace_add(buffer *trace, decoder_kind kind, const decoder_event *e)
{
    int is_violation = kind == DECODER_VIOLATION, has_code = is_violation || kind == DECODER_CLOSE;
    trace_event t = {
        .kind = kind,
        .code = has_code ? e->code : 0,
        .opcode = kind == DECODER_MESSAGE ? e->opcode : 0,
        .is_ascii = kind == DECODER_MESSAGE && e->opcode == OPCODE_TEXT && e->is_ascii,
        .size = is_violation ? strlen(e->reason) : e->size,
    };
    append(trace, &t, sizeof t);
    append(trace, is_violation ? (const void *)e->reason : e->data, t.size);
}

/* Reads the event at *at and advances to the next one; returns 0 at the end. */
static int trace_next(const buffer *trace, size_t *at, trace_event *t, const uint8_t **data)
{
    if (*at == trace->size)
        return 0;
    memcpy(t, trace->data + *at, sizeof *t);
    *data = trace->data + *at + sizeof *t;
    *at += sizeof *t + t->size;
    return 1;
}

/* Returns the size of the trace up to a violation, which can only be the last event. */
static size_t trace_before_violation(const buffer *trace)
{
    trace_event t;
    const uint8_t *data;

    for (size_t at = 0, before = 0; trace_next(trace, &at, &t, &data); before = at) {
        if (t.kind == DECODER_VIOLATION) {
            ASSERT(at == trace->size);
            return before;
        }
    }
    return trace->size;
}

static int is_same(const buffer *one, const buffer *other, size_t size)
{
    return one->size >= size && other->size >= size &&
           (size == 0 || !memcmp(one->data, other->data, size));
}

static int ends_with(const buffer *trace, const char *reason)
{
    size_t size = strlen(reason);
    return trace_before_violation(trace) < trace->size &&
           !memcmp(trace->data + trace->size - size, reason, size);
}

static int ends_with_payload_fault(const buffer *trace)
{
    return ends_with(trace, "text is not valid UTF-8") || ends_with(trace, "message is too big") ||
           ends_with(trace, "compressed data is not valid");
}

/* Compares the traces of the same bytes in different pieces. If a compressed payload has several
 * faults, the pieces decide which one is reported. */
static void trace_check_pieces(const buffer *one, const buffer *other, int is_compressed)
{
    size_t same = trace_before_violation(one);

    if (one->size == other->size && is_same(one, other, one->size))
        return;
    ASSERT(is_compressed && ends_with_payload_fault(one) && ends_with_payload_fault(other));
    ASSERT(trace_before_violation(other) == same && is_same(one, other, same));
}

#endif
