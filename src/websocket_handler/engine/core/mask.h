/* Masking (RFC 6455 section 5.3), eight bytes at a time. */
#ifndef WEBSOCKET_HANDLER_MASK_H
#define WEBSOCKET_HANDLER_MASK_H

#include <stddef.h>
#include <stdint.h>

/* XORs `size` bytes of `from` with the key and writes them to `to`, which is equal to `from` or
 * does not overlap it. `position` is the offset of the first byte in the payload; the key starts
 * at octet `position` mod 4. */
void mask_apply(uint8_t *to, const uint8_t *from, size_t size, const uint8_t key[4],
                uint64_t position);

#endif
