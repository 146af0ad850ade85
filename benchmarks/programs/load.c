/* The load generator: one thread, one epoll set, no dependencies.
 *
 *     load echo       PORT PATH connections=100 in-flight=1 size=32 seconds=2 warm-up=1 [text] [raw]
 *     load paced      PORT PATH connections=10000 active=100 rate=5000 size=32 seconds=2 warm-up=1
 *     load handshakes PORT PATH seconds=2 [message]
 *     load idle       PORT PATH connections=5000 [message]
 *     load slow       PORT PATH connections=100 size=65536 seconds=5
 *
 * `echo` keeps `in-flight` messages in flight on each connection and measures their latencies;
 * `raw` is for a server that echoes bytes without WebSockets. `paced` sends `rate` messages a second
 * in all, on `active` of the connections in turn, however late the echoes are; a latency begins when
 * the message was due (no coordinated omission). `handshakes` opens and closes one
 * connection after the other. `idle` opens connections, prints its readiness and keeps them open
 * until its standard input ends. With `message`, both exchange one message on each connection. `slow` sends and never reads.
 * `payload=FILE`, instead of `size`, is the payload of a compressed message: the client requests
 * permessage-deflate without context takeover, and accepts any single frame as an echo.
 * `cpu=PID`, once per process of the server, adds the CPU time of the process to the result.
 * Prints one line of JSON. Connects only to 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, EVENTS = 256, MAX_WAIT_S = 10, MAX_UNANSWERED = 256, PROCESSES = 16, BUCKETS = 64 * 16 };

typedef struct {
    const char *mode, *path, *extensions;
    uint8_t *payload;
    int port, connections, active, in_flight, is_text, is_raw, with_message;
    size_t size;
    double seconds, warm_up, rate;
    clockid_t clocks[PROCESSES];
    int processes;
} options;

typedef struct {
    int fd;
    uint32_t watched;
    size_t to_send;       /* bytes of messages that are still to be sent */
    size_t send_position; /* position of the next of these bytes in the message */
    size_t received;      /* bytes of the current echo */
    size_t frame_size;    /* of the current echo, once its header is complete; with payload= only */
    uint8_t header[10];   /* the received part of its header */
    double *sent_at;      /* a ring buffer: the time at which each message in flight was due */
    int oldest, newest;
} connection;

static options opt = {
    .extensions = "", .connections = 100, .in_flight = 1, .size = 32, .seconds = 2, .warm_up = 1};
static uint8_t *message; /* `in_flight` copies of the frame, to send several with one call */
static uint8_t *expected;
static size_t message_size, expected_size, block_size;
static uint8_t input[BUFFER];
static int epoll;
static uint64_t histogram[BUCKETS], echoes, unanswered;
static int is_measuring;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void *check_memory(void *memory)
{
    if (!memory)
        die("malloc");
    return memory;
}

static double seconds_of(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time))
        die("clock_gettime");
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

static double server_cpu(void)
{
    double sum = 0;
    for (int i = 0; i < opt.processes; i++)
        sum += seconds_of(opt.clocks[i]);
    return sum;
}

/* Sixteen buckets per power of two of nanoseconds: an error of at most 6 %. */
static int bucket_of(double seconds)
{
    uint64_t ns = (uint64_t)(seconds * 1e9) | 16;
    int power = 63 - __builtin_clzll(ns);
    return power * 16 + (int)(ns >> (power - 4) & 15);
}

static double percentile_us(double part)
{
    uint64_t wanted = (uint64_t)((double)echoes * part), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted)
            return (double)((uint64_t)(16 + i % 16) << (i / 16 - 4)) / 1e3;
    }
    return 0;
}

static size_t write_header(uint8_t *out, uint8_t second_bits)
{
    out[0] = 0x80 | (opt.payload ? 0x40 : 0) | (opt.is_text ? 1 : 2);
    if (opt.size < 126) {
        out[1] = (uint8_t)opt.size | second_bits;
        return 2;
    }
    int bytes = opt.size < 65536 ? 2 : 8;
    out[1] = (bytes == 2 ? 126 : 127) | second_bits;
    for (int i = 0; i < bytes; i++)
        out[2 + i] = (uint8_t)(opt.size >> 8 * (bytes - 1 - i));
    return 2 + (size_t)bytes;
}

static void build_message(void)
{
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t *frame = check_memory(malloc(opt.size + 14));
    size_t header = 0;

    expected = check_memory(malloc(opt.size + 14));
    if (!opt.is_raw) {
        header = write_header(frame, 0x80);
        memcpy(frame + header, key, 4);
        header += 4;
        expected_size = write_header(expected, 0);
    }
    for (size_t i = 0; i < opt.size; i++) {
        uint8_t byte = opt.payload ? opt.payload[i] : (uint8_t)('a' + i % 26);
        frame[header + i] = opt.is_raw ? byte : byte ^ key[i & 3];
        expected[expected_size++] = byte;
    }
    message_size = header + opt.size;
    block_size = message_size * (size_t)opt.in_flight;
    message = check_memory(malloc(block_size));
    for (int i = 0; i < opt.in_flight; i++)
        memcpy(message + message_size * (size_t)i, frame, message_size);
    free(frame);
}

static void watch(connection *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (c->watched == events)
        return;
    if (epoll_ctl(epoll, c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
    c->watched = events;
}

static int connect_socket(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)opt.port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void open_websocket(int fd)
{
    static char request[4096], response[4096];
    size_t size = 0;
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
                          opt.path, opt.port, opt.extensions);

    if (send(fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        die("handshake");
    do {
        ssize_t more = recv(fd, response + size, sizeof response - 1 - size, 0);
        if (more <= 0)
            die("handshake");
        size += (size_t)more;
        response[size] = 0;
    } while (!strstr(response, "\r\n\r\n"));
    if (!strstr(response, " 101 "))
        fail("the server did not accept the handshake with 101");
    if (opt.payload && !strstr(response, "permessage-deflate"))
        fail("the server did not accept permessage-deflate");
}

static void send_more(connection *c)
{
    while (c->to_send) {
        size_t size = block_size - c->send_position;
        if (size > c->to_send)
            size = c->to_send;
        ssize_t sent = send(c->fd, message + c->send_position, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0)
            die("send");
        c->send_position = (c->send_position + (size_t)sent) % message_size;
        c->to_send -= (size_t)sent;
    }
    watch(c, EPOLLIN | (c->to_send ? EPOLLOUT : 0));
}

static void begin_message(connection *c, double time)
{
    if (c->newest - c->oldest == opt.in_flight)
        fail("the server is too slow for this rate");
    c->sent_at[c->newest++ % opt.in_flight] = time;
    unanswered++;
    c->to_send += message_size;
}

static void check_echo(const uint8_t *bytes, size_t size, size_t position)
{
    if (memcmp(bytes, expected + position, size))
        fail("the echo differs from the sent message");
}

/* Returns the number of `bytes` that belong to the current echo, whose size is known. */
static size_t same_echo(connection *c, const uint8_t *bytes, size_t size)
{
    size_t part = expected_size - c->received;
    if (part > size)
        part = size;
    if (!is_measuring)
        check_echo(bytes, part, c->received);
    c->received += part;
    return part;
}

/* The same for an echo that is a single frame of any size. */
static size_t any_frame(connection *c, const uint8_t *bytes, size_t size)
{
    size_t used = 0, header = 2, length;

    while (!c->frame_size && used < size) {
        c->header[c->received++] = bytes[used++];
        length = c->received < 2 ? 0 : c->header[1];
        header = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (c->received < header)
            continue;
        if (!(c->header[0] & 0x80) || (c->header[0] & 15) > 2)
            fail("the echo is not one frame");
        if (header > 2) {
            length = 0;
            for (size_t i = 2; i < header; i++)
                length = length << 8 | c->header[i];
        }
        c->frame_size = header + length;
    }
    if (c->frame_size) {
        size_t part = c->frame_size - c->received;
        if (part > size - used)
            part = size - used;
        c->received += part;
        used += part;
    }
    return used;
}

/* Reads the bytes of the current echo, and returns whether it is complete. */
static int take_echo(connection *c, const uint8_t *bytes, size_t size, size_t *used)
{
    if (!opt.payload) {
        *used += same_echo(c, bytes + *used, size - *used);
        return c->received == expected_size;
    }
    *used += any_frame(c, bytes + *used, size - *used);
    return c->frame_size && c->received == c->frame_size;
}

static void receive(connection *c)
{
    ssize_t size = recv(c->fd, input, BUFFER, MSG_DONTWAIT);
    size_t used = 0;
    double time;

    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0)
        fail("the server closed a connection");
    time = now();
    while (used < (size_t)size && take_echo(c, input, (size_t)size, &used)) {
        c->received = c->frame_size = 0;
        if (is_measuring) {
            echoes++;
            histogram[bucket_of(time - c->sent_at[c->oldest % opt.in_flight])]++;
        }
        c->oldest++;
        unanswered--;
        if (!opt.rate)
            begin_message(c, time);
    }
    send_more(c);
}

static void serve(int wait_ms)
{
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(epoll, events, EVENTS, wait_ms);

    for (int i = 0; i < ready; i++) {
        connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            send_more(c);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            receive(c);
    }
}

static void serve_until(double end)
{
    while (now() < end)
        serve(100);
}

static connection *open_connections(void)
{
    connection *all = check_memory(calloc((size_t)opt.connections, sizeof *all));
    for (int i = 0; i < opt.connections; i++) {
        all[i].fd = connect_socket();
        if (!opt.is_raw)
            open_websocket(all[i].fd);
    }
    return all;
}

static void print_echoes(double cpu, double seconds)
{
    if (!echoes)
        fail("no echo was received");
    printf("{\"messages\": %llu, \"rate\": %.0f, \"cpu_us\": %.4f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f}\n",
           (unsigned long long)echoes, (double)echoes / seconds, cpu * 1e6 / (double)echoes,
           percentile_us(0.5), percentile_us(0.99), percentile_us(0.999));
}

static void run_echo(void)
{
    connection *all = open_connections();
    double begin, cpu;

    for (int i = 0; i < opt.connections; i++) {
        all[i].sent_at = check_memory(calloc((size_t)opt.in_flight, sizeof(double)));
        for (int k = 0; k < opt.in_flight; k++)
            begin_message(&all[i], now());
        send_more(&all[i]);
    }
    serve_until(now() + opt.warm_up);
    is_measuring = 1;
    begin = now();
    cpu = server_cpu();
    serve_until(begin + opt.seconds);
    cpu = server_cpu() - cpu;
    print_echoes(cpu, now() - begin);
}

/* Sends the messages that are due until `end`, and waits for their echoes. */
static void send_paced(connection *all, double end)
{
    static uint64_t count;
    int spacing = opt.connections / opt.active;
    double due = now(), time;

    for (; due < end; due += 1 / opt.rate) {
        while ((time = now()) < due)
            serve(0); /* without waiting: milliseconds would be too long */
        connection *c = &all[(int)(count++ % (uint64_t)opt.active) * spacing];
        begin_message(c, due);
        send_more(c);
        if (time > due + 1 / opt.rate)
            serve(0);
    }
    while (unanswered && now() < end + MAX_WAIT_S)
        serve(1);
    if (unanswered)
        fail("the server has not echoed every message");
}

static void run_paced(void)
{
    connection *all = open_connections();
    double begin, cpu;

    for (int i = 0; i < opt.connections; i++) {
        all[i].sent_at = check_memory(calloc((size_t)opt.in_flight, sizeof(double)));
        watch(&all[i], EPOLLIN);
    }
    send_paced(all, now() + opt.warm_up);
    is_measuring = 1;
    begin = now();
    cpu = server_cpu();
    send_paced(all, begin + opt.seconds);
    print_echoes(server_cpu() - cpu, now() - begin);
}

static void exchange_message(connection *c)
{
    size_t used;
    ssize_t more;

    if (send(c->fd, message, message_size, 0) != (ssize_t)message_size)
        die("send");
    do {
        more = recv(c->fd, input, BUFFER, 0);
        if (more <= 0)
            die("echo");
        used = 0;
    } while (!take_echo(c, input, (size_t)more, &used));
}

static void run_handshakes(void)
{
    struct linger no_linger = {.l_onoff = 1};
    double begin = now(), cpu = server_cpu(), seconds;
    unsigned long count = 0;

    while ((seconds = now() - begin) < opt.seconds) {
        int fd = connect_socket();
        connection c = {.fd = fd};
        open_websocket(fd);
        if (opt.with_message)
            exchange_message(&c);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &no_linger, sizeof no_linger); /* no TIME_WAIT */
        close(fd);
        count++;
    }
    printf("{\"handshakes\": %lu, \"rate\": %.0f, \"cpu_us\": %.2f}\n", count,
           (double)count / seconds, (server_cpu() - cpu) * 1e6 / (double)count);
}

static void run_idle(void)
{
    connection *all = open_connections();

    for (int i = 0; opt.with_message && i < opt.connections; i++)
        exchange_message(&all[i]);
    printf("{\"ready\": %d}\n", opt.connections);
    fflush(stdout);
    while (read(0, input, BUFFER) > 0)
        ;
}

static void run_slow(void)
{
    connection *all = open_connections();
    double end = now() + opt.seconds;
    unsigned long long sent = 0;

    while (now() < end) {
        int took = 0;
        for (int i = 0; i < opt.connections; i++) {
            size_t position = all[i].send_position;
            ssize_t size = send(all[i].fd, message + position, message_size - position,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
            if (size > 0) {
                all[i].send_position = (position + (size_t)size) % message_size;
                sent += (unsigned long long)size;
                took = 1;
            }
        }
        if (!took)
            usleep(10000);
    }
    printf("{\"bytes\": %llu}\n", sent);
}

static void read_payload(const char *name)
{
    FILE *file = fopen(name, "rb");

    if (!file)
        die(name);
    opt.payload = check_memory(malloc(BUFFER));
    opt.size = fread(opt.payload, 1, BUFFER, file);
    fclose(file);
    opt.extensions = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
                     "client_no_context_takeover\r\n";
}

static void add_process(const char *pid)
{
    if (opt.processes == PROCESSES)
        fail("too many processes");
    errno = clock_getcpuclockid((pid_t)atoi(pid), &opt.clocks[opt.processes++]);
    if (errno)
        die("cpu");
}

static void parse(char *word)
{
    char *value = strchr(word, '=');

    if (value)
        *value++ = 0;
    if (!value && !strcmp(word, "text"))
        opt.is_text = 1;
    else if (!value && !strcmp(word, "raw"))
        opt.is_raw = 1;
    else if (!value && !strcmp(word, "message"))
        opt.with_message = 1;
    else if (!value)
        fail("an option has no value");
    else if (!strcmp(word, "connections"))
        opt.connections = atoi(value);
    else if (!strcmp(word, "active"))
        opt.active = atoi(value);
    else if (!strcmp(word, "rate"))
        opt.rate = atof(value);
    else if (!strcmp(word, "in-flight"))
        opt.in_flight = atoi(value);
    else if (!strcmp(word, "size"))
        opt.size = strtoul(value, NULL, 10);
    else if (!strcmp(word, "payload"))
        read_payload(value);
    else if (!strcmp(word, "seconds"))
        opt.seconds = atof(value);
    else if (!strcmp(word, "warm-up"))
        opt.warm_up = atof(value);
    else if (!strcmp(word, "cpu"))
        add_process(value);
    else
        fail("unknown option");
}

int main(int count, char **words)
{
    if (count < 4)
        fail("usage: load echo|paced|handshakes|idle|slow PORT PATH [option=value ...]");
    opt.mode = words[1];
    opt.port = atoi(words[2]);
    opt.path = words[3];
    for (int i = 4; i < count; i++)
        parse(words[i]);
    if (!strcmp(opt.mode, "paced") &&
        (opt.rate <= 0 || opt.active < 1 || opt.active > opt.connections))
        fail("paced needs rate= and active=, at most the number of connections");
    if (opt.rate)
        opt.in_flight = MAX_UNANSWERED;
    epoll = epoll_create1(0);
    build_message();
    if (!strcmp(opt.mode, "echo"))
        run_echo();
    else if (!strcmp(opt.mode, "paced"))
        run_paced();
    else if (!strcmp(opt.mode, "handshakes"))
        run_handshakes();
    else if (!strcmp(opt.mode, "idle"))
        run_idle();
    else if (!strcmp(opt.mode, "slow"))
        run_slow();
    else
        fail("unknown mode");
    return 0;
}
