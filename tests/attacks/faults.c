/* Preloaded into a server: makes some system calls of the native engine fail.
 *
 * One of every FAULTS_EVERY calls from the engine's own libraries fails as a kernel may let it
 * fail: EINTR, EAGAIN, a short count, a connection error, no memory.
 * FAULTS_LARGEST makes every allocation of more bytes fail, in the whole process.
 * FAULTS_CLOCK moves the wall clock forward and back by an hour, in the whole process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

static atomic_uint calls;
static unsigned every;
static size_t largest = SIZE_MAX;
static int jumps;

__attribute__((constructor)) static void start(void) {
    const char *text = getenv("FAULTS_EVERY");
    every = text ? (unsigned)atoi(text) : 0;
    text = getenv("FAULTS_LARGEST");
    largest = text ? (size_t)atoll(text) : SIZE_MAX;
    jumps = getenv("FAULTS_CLOCK") != NULL;
}

static int is_the_engine_s(void *caller) {
    static _Thread_local void *last;
    static _Thread_local int known;
    Dl_info info;
    if (caller != last) {
        last = caller;
        known = dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "websocket_handler");
    }
    return known;
}

/* Returns the number of the fault for this call, below `kinds`; -1 for none. */
static int fault(void *caller, unsigned kinds) {
    unsigned number;
    if (!every || !is_the_engine_s(caller))
        return -1;
    number = atomic_fetch_add(&calls, 1);
    return number % every == every - 1 ? (int)(number / every % kinds) : -1;
}

#define CALLER __builtin_return_address(0)
#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(code) \
    do { \
        errno = (code); \
        return -1; \
    } while (0)

ssize_t recv(int fd, void *buffer, size_t size, int flags) {
    NEXT(recv);
    switch (fault(CALLER, 4)) {
    case 0: FAIL(EINTR);
    case 1: FAIL(EAGAIN);
    case 2: return next(fd, buffer, size ? 1 : 0, flags);
    case 3: FAIL(ECONNRESET);
    default: return next(fd, buffer, size, flags);
    }
}

ssize_t readv(int fd, const struct iovec *parts, int count) {
    NEXT(readv);
    switch (fault(CALLER, 3)) {
    case 0: FAIL(EINTR);
    case 1: FAIL(EAGAIN);
    case 2: return next(fd, parts, 1);
    default: return next(fd, parts, count);
    }
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    NEXT(send);
    switch (fault(CALLER, 4)) {
    case 0: FAIL(EINTR);
    case 1: FAIL(EAGAIN);
    case 2: return next(fd, data, size ? 1 : 0, flags);
    case 3: FAIL(EPIPE);
    default: return next(fd, data, size, flags);
    }
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    struct msghdr less = *message;
    NEXT(sendmsg);
    switch (fault(CALLER, 3)) {
    case 0: FAIL(EINTR);
    case 1: FAIL(EAGAIN);
    case 2: less.msg_iovlen = 1; return next(fd, &less, flags);
    default: return next(fd, message, flags);
    }
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout) {
    NEXT(epoll_wait);
    switch (fault(CALLER, 2)) {
    case 0: FAIL(EINTR);
    case 1: return next(fd, events, 1, timeout);
    default: return next(fd, events, most, timeout);
    }
}

int epoll_ctl(int fd, int operation, int other, struct epoll_event *event) {
    NEXT(epoll_ctl);
    if (operation == EPOLL_CTL_ADD && fault(CALLER, 1) == 0)
        FAIL(ENOMEM);
    return next(fd, operation, other, event);
}

/* glibc's internal names, because dlsym itself allocates memory. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static int is_missing(void *caller, size_t size) {
    if (size <= largest && (size <= 64 || !every || fault(caller, 1) != 0))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) {
    return is_missing(CALLER, size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    if (count && size > SIZE_MAX / count)
        return NULL;
    return is_missing(CALLER, count * size) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return is_missing(CALLER, size) ? NULL : __libc_realloc(old, size);
}

static time_t jump(void) {
    static atomic_int times;
    return jumps ? (atomic_fetch_add(&times, 1) / 7 % 3 - 1) * (time_t)3600 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    NEXT(clock_gettime);
    int result = next(clock, time);
    if (clock == CLOCK_REALTIME)
        time->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *time, void *zone) {
    NEXT(gettimeofday);
    int result = next(time, zone);
    time->tv_sec += jump();
    return result;
}
