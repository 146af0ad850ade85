/* Time-outs on a hashed wheel: setting, moving and cancelling one costs the same whether
 * there are ten or a hundred thousand. Times are milliseconds of any monotonic clock. */
#ifndef WEBSOCKET_HANDLER_WHEEL_H
#define WEBSOCKET_HANDLER_WHEEL_H

#include <stdint.h>

enum { WHEEL_SLOTS = 1024, WHEEL_TICK_MS = 16 };

static const uint64_t WHEEL_NEVER = UINT64_MAX;

/* One time-out, a part of what it is for (`owner`); otherwise all zero when it is not set. */
typedef struct wheel_timer {
    struct wheel_timer *next, **link;
    uint64_t due;
    void *owner;
} wheel_timer;

typedef struct {
    wheel_timer *slots[WHEEL_SLOTS];
    uint64_t occupied[WHEEL_SLOTS / 64]; /* a bit a slot, so that empty ones cost nothing */
    uint64_t tick;                       /* everything before this tick is in `expired` */
    wheel_timer *expired;                /* due, and not taken yet */
} wheel;

void wheel_start(wheel *w, uint64_t now);

/* Sets the timer, or moves it if it is set. */
void wheel_set(wheel *w, wheel_timer *timer, uint64_t due);

void wheel_cancel(wheel_timer *timer);

/* Takes one timer that is due off the wheel, or returns NULL: call until it does. */
wheel_timer *wheel_expire(wheel *w, uint64_t now);

/* When to look again: at the latest when the earliest timer is due (rounded up to a tick),
 * perhaps earlier; WHEEL_NEVER if none is set. */
uint64_t wheel_next(const wheel *w);

#endif
