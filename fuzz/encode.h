/* Turns events back into frames, as our end would send them. */
#ifndef ENCODE_H
#define ENCODE_H

#include "decoder.h"
#include "mask.h"
#include "trace.h"

/* Writes the frame of an event. Messages of an odd size are compressed if they become smaller. */
static void encode(const decoder_rules *rules, deflater **f, const trace_event *t,
                   const uint8_t *data, const uint8_t *key, buffer *wire)
{
    uint8_t header[FRAME_MAX_HEADER], first = t->opcode, *payload = malloc(t->size + 4);
    uint8_t code[2] = {t->code >> 8, t->code & 0xff};
    size_t size = t->size, shrunk = 0, code_size = 0;

    if (t->kind == DECODER_PING || t->kind == DECODER_PONG) {
        first = t->kind == DECODER_PING ? OPCODE_PING : OPCODE_PONG;
    } else if (t->kind == DECODER_CLOSE) {
        first = OPCODE_CLOSE;
        code_size = t->code == 1005 ? 0 : 2;
    } else if (rules->inflate_window_bits && size & 1) {
        *f = *f ? *f : deflater_take(rules->pool, rules->inflate_window_bits, 1 + size % 9, 8);
        shrunk = deflater_run(*f, data, size, payload);
        if (!rules->inflate_takeover) {
            deflater_give(rules->pool, *f);
            *f = NULL;
        }
    }
    if (!shrunk) {
        memcpy(payload, code, code_size);
        memcpy(payload + code_size, data, size);
    }
    size = shrunk ? shrunk : code_size + size;
    first |= FRAME_FIN | (shrunk ? FRAME_RSV1 : 0);
    append(wire, header, frame_header_write(header, first, size, key));
    if (key)
        mask_apply(payload, payload, size, key, 0);
    append(wire, payload, size);
    free(payload);
}

#endif
