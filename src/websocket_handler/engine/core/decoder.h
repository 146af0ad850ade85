/* Turns bytes into messages: RFC 6455 framing (sections 5.4 to 5.6, 8.1), for servers and
 * clients, and compressed messages (RFC 7692).
 *
 * No socket and no Python in here. Memory for a message that does not arrive in one piece comes
 * from the caller's `reserve`, so that it can be the object that the application receives. The
 * specification is protocol/message.py, check.py and deflate.py: for the same bytes, in pieces of
 * any size, both decoders return the same events. */
#ifndef WEBSOCKET_HANDLER_DECODER_H
#define WEBSOCKET_HANDLER_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "deflate.h"
#include "frame.h"
#include "utf8.h"

/* The memory of an incomplete message. */
typedef struct {
    uint8_t *data;
    uint64_t capacity;
    void *owner; /* for `reserve` and `release` only */
} decoder_storage;

typedef struct {
    uint64_t max_message_size;
    uint32_t max_fragments;
    uint32_t max_empty_fragments;
    /* Grows the storage to `capacity` bytes, keeping its content; returns 0 on failure. */
    int (*reserve)(decoder_storage *storage, uint64_t capacity);
    void (*release)(decoder_storage *storage);
    uint8_t inflate_window_bits; /* 8 to 15 if messages may be compressed, else 0 */
    uint8_t inflate_takeover;    /* whether the context is kept for the next message */
    deflate_pool *pool;
    void *(*gil_release)(void); /* lets other threads run during a large decompression */
    void (*gil_acquire)(void *);
} decoder_rules;

typedef enum {
    DECODER_NEED_DATA, /* all bytes were read; more are needed */
    DECODER_MESSAGE,   /* opcode, data, size, key, is_ascii, storage */
    DECODER_PING,      /* data, size */
    DECODER_PONG,      /* data, size */
    DECODER_CLOSE,     /* code, and the reason in data, size */
    DECODER_VIOLATION, /* code and reason */
    DECODER_NO_MEMORY  /* returned once: the message is lost, all later bytes are ignored */
} decoder_kind;

/* `data` and `key` are valid until the next call. If `key` is set, the message is still masked with
 * it: the caller unmasks it while copying, which saves a pass over the bytes. If `storage.owner` is
 * set, the storage holds the message, and the caller owns it and must release it. */
typedef struct {
    uint8_t opcode;
    int is_ascii;
    uint16_t code;
    const char *reason;
    uint8_t *data;
    uint64_t size;
    const uint8_t *key;
    decoder_storage storage;
} decoder_event;

struct decoder_assembly;
struct decoder_partial;

/* A new connection starts with all fields zero except `rules` and `expect_masked`. */
typedef struct {
    const decoder_rules *rules;
    struct decoder_assembly *assembly; /* the incomplete message, if any */
    struct decoder_partial *partial;   /* a header or control frame that is incomplete */
    inflater *inflater;                /* of the compressed message, or kept for the next one */
    uint64_t remaining;                /* payload bytes of the data frame still to be received */
    uint64_t frames;                   /* number of frames received, including control frames */
    uint8_t key[4];
    uint8_t key_position;
    uint8_t expect_masked;
    uint8_t allow_1004; /* whether close code 1004 is valid, as it was until hybi-12 */
    uint8_t in_payload;
    uint8_t fin;
    uint8_t finished; /* after a close frame, a violation or lack of memory: ignore all bytes */
} decoder;

/* Reads from *cursor up to `end` until there is an event. Bytes are unmasked in place, unless the
 * event has a key. */
decoder_kind decoder_next(decoder *d, uint8_t **cursor, uint8_t *end, decoder_event *event);

/* Sets *into to the memory into which the next payload bytes can be received directly, and
 * returns its size in bytes. Returns 0 if the caller must use decoder_next: if fewer than `min`
 * bytes of payload are still to be received, or the message is compressed. */
size_t decoder_want(decoder *d, uint64_t min, uint8_t **into);

/* Reads `size` bytes that were received into the memory from decoder_want. */
decoder_kind decoder_received(decoder *d, size_t size, decoder_event *event);

/* How far a decoder is in its stream, to continue with another one. The pointers are valid until the
 * next call. */
typedef struct {
    const uint8_t *payload; /* of the incomplete message, unmasked */
    uint64_t size;
    uint32_t fragments; /* frames of that message that have begun; 0: there is no message */
    uint32_t empty;     /* empty ones among them, except for a last one */
    uint8_t opcode;
    uint8_t compressed;
    const uint8_t *unread; /* an incomplete header or control frame */
    size_t unread_size;
} decoder_position;

decoder_position decoder_find_position(const decoder *d);

void decoder_free(decoder *d);

/* Whether `code` may be sent in a close frame (section 7.4). */
int decoder_is_valid_close_code(unsigned code);

#endif
