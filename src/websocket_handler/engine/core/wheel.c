#include "wheel.h"

#include <stddef.h>
#include <string.h>

void wheel_start(wheel *w, uint64_t now)
{
    memset(w, 0, sizeof *w);
    w->tick = now / WHEEL_TICK_MS;
}

/* A timer rests in the slot of the first tick that begins when it is due or later. */
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
    size_t slot = (size_t)(tick_of(w, due) % WHEEL_SLOTS);

    wheel_cancel(timer);
    timer->due = due;
    link_timer(&w->slots[slot], timer);
    w->occupied[slot / 64] |= UINT64_C(1) << slot % 64;
}

/* The slot's bit stays set: clearing it when the hand next passes costs less. */
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

/* The first occupied tick at or after `tick`, within one turn of the wheel. */
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

/* Takes what is due out of the slot, all of it at once: what rests there for a later turn is
 * passed once, however many timers are due. */
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
    uint64_t tick;

    while (!w->expired && (tick = next_occupied(w, w->tick)) <= last) {
        collect(w, (size_t)(tick % WHEEL_SLOTS), now);
        w->tick = tick + 1; /* what is left in the slot is due in a later turn */
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
    uint64_t tick = next_occupied(w, w->tick);
    return tick == WHEEL_NEVER ? WHEEL_NEVER : tick * WHEEL_TICK_MS;
}
