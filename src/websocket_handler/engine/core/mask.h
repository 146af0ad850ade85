/* Masking (RFC 6455 section 5.3), eight bytes at a time. */
#ifndef WEBSOCKET_HANDLER_MASK_H
#define WEBSOCKET_HANDLER_MASK_H

#include <stddef.h>
#include <stdint.h>

/* XORs `size` bytes of `from` into `to` (the same place, or apart); `position` is the place
 * of the first byte in the payload, which chooses the octet of the key it begins with. */
void mask_apply(uint8_t *to, const uint8_t *from, size_t size, const uint8_t key[4],
                uint64_t position);

#endif
