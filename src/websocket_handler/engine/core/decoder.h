/* Bytes to messages for RFC 6455 framing (sections 5.4 to 5.6, 8.1), both roles, and for
 * messages that are compressed (RFC 7692).
 *
 * Knows bytes and limits: no socket, no Python. Memory for a message that does not arrive
 * in one piece comes from the caller's `reserve`, so that it can be the very object the
 * application gets. The specification of this file is protocol/message.py, check.py and
 * deflate.py; for the same bytes, cut anywhere, both give the same events. */
#ifndef WEBSOCKET_HANDLER_DECODER_H
#define WEBSOCKET_HANDLER_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "deflate.h"
#include "frame.h"
#include "utf8.h"

/* Memory of a message under way. */
typedef struct {
    uint8_t *data;
    uint64_t capacity;
    void *owner; /* whatever `reserve` and `release` make of it */
} decoder_storage;

typedef struct {
    uint64_t max_message_size;
    uint32_t max_fragments;
    uint32_t max_empty_fragments;
    /* Makes room for `capacity` bytes, keeping what is there; returns 0 if it cannot. */
    int (*reserve)(decoder_storage *storage, uint64_t capacity);
    void (*release)(decoder_storage *storage);
    uint8_t inflate_window_bits; /* 8 to 15 if messages may be compressed, else 0 */
    uint8_t inflate_takeover;    /* whether their context is kept from one to the next */
    deflate_pool *pool;
    void *(*step_aside)(void); /* lets others run while much is inflated */
    void (*step_back)(void *);
} decoder_rules;

typedef enum {
    DECODER_STARVED,   /* everything was read; more bytes are needed */
    DECODER_MESSAGE,   /* opcode, data, size, is_ascii, storage */
    DECODER_PING,      /* data, size */
    DECODER_PONG,      /* data, size */
    DECODER_CLOSE,     /* code, and the reason in data, size */
    DECODER_VIOLATION, /* code and reason */
    DECODER_NO_MEMORY  /* once: the message under way is lost, and nothing else is read */
} decoder_kind;

/* `data` stays where it is until the next call. If `storage.owner` is set, the message lies
 * in it and the caller must release it or keep it. */
typedef struct {
    uint8_t opcode;
    int is_ascii;
    uint16_t code;
    const char *reason;
    uint8_t *data;
    uint64_t size;
    decoder_storage storage;
} decoder_event;

struct decoder_assembly;
struct decoder_carry;

/* All zero but `rules` and `expect_masked` is the start of a connection. */
typedef struct {
    const decoder_rules *rules;
    struct decoder_assembly *assembly; /* the message under way, if it is not whole yet */
    struct decoder_carry *carry;       /* a header or control frame cut by the end of a read */
    inflater *inflater;                /* of a compressed message, or kept for the next */
    uint64_t remaining;                /* payload bytes of the data frame still to come */
    uint64_t frames;                   /* that came, control frames too */
    uint8_t key[4];
    uint8_t key_position;
    uint8_t expect_masked;
    uint8_t old_codes; /* whether close code 1004 is valid, as it was until hybi-12 */
    uint8_t in_payload;
    uint8_t fin;
    uint8_t finished; /* a close frame or a violation came, or memory ran out: nothing else is read */
} decoder;

/* Reads on from *cursor up to `end` until something happens. The bytes are unmasked in place. */
decoder_kind decoder_next(decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event);

/* Where the next payload bytes can be received directly, and how many fit (0: use
 * decoder_next). Only for payloads of which at least `least` bytes are to come. */
size_t decoder_want(decoder *d, uint64_t least, uint8_t **into);

/* `size` bytes were received where decoder_want said. */
decoder_kind decoder_received(decoder *d, size_t size, decoder_event *event);

void decoder_free(decoder *d);

/* Whether `code` may stand in a close frame (section 7.4). */
int decoder_is_valid_close_code(unsigned code);

#endif
