#include "wheel.h"

#include <stddef.h>
#include <string.h>

void wheel_start(wheel *w, uint64_t now)
{
    memset(w, 0, sizeof *w);
    w->tick = now / WHEEL_TICK_MS;
    w->earliest = WHEEL_NEVER;
}

/* The tick of a timer: the first one that begins when the timer is due or later. */
static uint64_t tick_of(const wheel *w, uint64_t due)
{
    uint64_t tick = due / WHEEL_TICK_MS + (due % WHEEL_TICK_MS != 0);
    return tick > w->tick ? tick : w->tick;
}

static void link_timer(wheel_timer **list, wheel_timer *timer)
{
    timer->next = *list;
    timer->link = list;
    if (timer->next)
        timer->next->link = &timer->next;
    *list = timer;
}

void wheel_set(wheel *w, wheel_timer *timer, uint64_t due)
{
    uint64_t tick = w->tick + (tick_of(w, due) - w->tick) % WHEEL_SLOTS;
    size_t slot = (size_t)(tick % WHEEL_SLOTS);

    wheel_cancel(timer);
    timer->due = due;
    if (tick < w->earliest)
        w->earliest = tick;
    link_timer(&w->slots[slot], timer);
    w->occupied[slot / 64] |= UINT64_C(1) << slot % 64;
}

/* The bit of the slot stays set: it is cheaper to clear it when the slot is next visited. */
void wheel_cancel(wheel_timer *timer)
{
    if (!timer->link)
        return;
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
    timer->link = NULL;
    timer->next = NULL;
}

/* The first tick at or after `tick` whose slot is occupied, within one revolution. */
static uint64_t next_occupied(const wheel *w, uint64_t tick)
{
    for (uint64_t t = tick, end = tick + WHEEL_SLOTS; t < end;) {
        size_t slot = (size_t)(t % WHEEL_SLOTS);
        uint64_t bits = w->occupied[slot / 64] >> slot % 64;
        if (bits & 1)
            return t;
        if (bits == 0) {
            t += 64 - slot % 64;
            continue;
        }
        t += (uint64_t)__builtin_ctzll(bits);
    }
    return WHEEL_NEVER;
}

/* Moves all due timers of the slot to `expired` in one pass, so that the timers of later
 * revolutions are visited only once, independent of the number of due timers. */
static void collect(wheel *w, size_t slot, uint64_t now)
{
    wheel_timer *next;

    for (wheel_timer *timer = w->slots[slot]; timer; timer = next) {
        next = timer->next;
        if (timer->due <= now) {
            wheel_cancel(timer);
            link_timer(&w->expired, timer);
        }
    }
    if (!w->slots[slot])
        w->occupied[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

wheel_timer *wheel_expire(wheel *w, uint64_t now)
{
    uint64_t last = now / WHEEL_TICK_MS;

    while (!w->expired && w->earliest <= last) {
        collect(w, (size_t)(w->earliest % WHEEL_SLOTS), now);
        w->tick = w->earliest + 1; /* timers that remain there are due in a later revolution */
        w->earliest = next_occupied(w, w->tick);
    }
    wheel_timer *timer = w->expired;
    if (timer)
        wheel_cancel(timer);
    else if (w->tick <= last)
        w->tick = last + 1;
    return timer;
}

uint64_t wheel_next(const wheel *w)
{
    if (w->expired)
        return w->expired->due;
    return w->earliest == WHEEL_NEVER ? WHEEL_NEVER : w->earliest * WHEEL_TICK_MS;
}
