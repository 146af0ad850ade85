/* A hashed timing wheel. Setting, moving and cancelling a timer takes constant time, independent
 * of the number of timers. Times are milliseconds of a monotonic clock. */
#ifndef WEBSOCKET_HANDLER_WHEEL_H
#define WEBSOCKET_HANDLER_WHEEL_H

#include <stdint.h>

enum { WHEEL_SLOTS = 1024, WHEEL_TICK_MS = 16 };

static const uint64_t WHEEL_NEVER = UINT64_MAX;

/* A timer, embedded in the object it belongs to. All fields are zero before it is set for the first
 * time; `link` and `next` are NULL whenever it is not set. */
typedef struct wheel_timer {
    struct wheel_timer *next, **link;
    uint64_t due;
} wheel_timer;

typedef struct {
    wheel_timer *slots[WHEEL_SLOTS];
    uint64_t occupied[WHEEL_SLOTS / 64]; /* one bit per slot, so that empty slots are skipped */
    uint64_t tick;                       /* all timers before this tick are in `expired` */
    uint64_t earliest;                   /* the first tick from `tick` on whose slot is occupied */
    wheel_timer *expired;                /* timers that are due and not yet returned */
} wheel;

void wheel_start(wheel *w, uint64_t now);

/* Sets the timer, or moves it if it is set. */
void wheel_set(wheel *w, wheel_timer *timer, uint64_t due);

void wheel_cancel(wheel_timer *timer);

/* Removes and returns one timer that is due, NULL if there is none. Call it until it returns
 * NULL. */
wheel_timer *wheel_expire(wheel *w, uint64_t now);

/* Returns the time at which to call wheel_expire again: when the earliest timer is due (rounded
 * up to a tick) or earlier. Returns WHEEL_NEVER if no timer is set. */
uint64_t wheel_next(const wheel *w);

#endif
