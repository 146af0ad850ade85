/* An assertion that reports the violated condition, for the targets in C. */
#ifndef ASSERTIONS_H
#define ASSERTIONS_H

#include <stdio.h>
#include <stdlib.h>

#define ASSERT(condition)                                                                       \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "assertion failed: %s (%s:%d)\n", #condition, __FILE__, __LINE__);     \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

#endif
