/* What a target in C says when something is not as it must be. */
#ifndef PROMISE_H
#define PROMISE_H

#include <stdio.h>
#include <stdlib.h>

#define PROMISE(condition)                                                                       \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "broken promise: %s (%s:%d)\n", #condition, __FILE__, __LINE__);     \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

#endif
