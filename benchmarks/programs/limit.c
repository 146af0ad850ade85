/* The C baseline: minimal echo servers on epoll.
 *
 *     limit PORT tcp        echoes all bytes, without WebSockets
 *     limit PORT websocket  a minimal WebSocket echo: handshake, unmasking, framing
 *     limit PORT deflate    the same for compressed messages, with zlib level 1 and no context
 *                           takeover
 *
 * One thread, level-triggered, with one recv and one send per event. The WebSocket echo trusts the
 * load generator: it checks nothing and supports only unfragmented messages. Stops on SIGTERM. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

enum { BUFFER = 1 << 16, EVENTS = 256, MAX_HEADER = 14, MAX_MESSAGE = 1 << 18 };

typedef struct {
    int fd;
    int is_open; /* the handshake is complete */
    uint8_t *kept;
    size_t kept_size, kept_capacity;   /* an incomplete frame */
    uint8_t *unsent;
    size_t unsent_size;
} connection;

static int epoll;
static int is_websocket;
static z_stream inflater, deflater; /* if messages are compressed */
static uint8_t message[MAX_MESSAGE], compressed[MAX_MESSAGE];
static uint8_t input[BUFFER], *output;
static size_t output_capacity;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *check_memory(void *memory)
{
    if (!memory)
        die("malloc");
    return memory;
}

static void watch(connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void drop(connection *c)
{
    close(c->fd);
    free(c->kept);
    free(c->unsent);
    free(c);
}

/* Sends data and keeps the unsent rest. Reading stops until the rest is sent. */
static void send_or_keep(connection *c, const uint8_t *data, size_t size)
{
    ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
    size_t left = size - (sent > 0 ? (size_t)sent : 0);

    if (left) {
        c->unsent = check_memory(malloc(left));
        memcpy(c->unsent, data + size - left, left);
        c->unsent_size = left;
        watch(c, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

static void send_rest(connection *c)
{
    ssize_t sent = send(c->fd, c->unsent, c->unsent_size, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN) {
        drop(c);
        return;
    }
    if (sent > 0) {
        c->unsent_size -= (size_t)sent;
        memmove(c->unsent, c->unsent + sent, c->unsent_size);
    }
    if (!c->unsent_size) {
        free(c->unsent);
        c->unsent = NULL;
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static uint8_t *reserve(uint8_t *memory, size_t *capacity, size_t size)
{
    if (*capacity >= size)
        return memory;
    *capacity = size * 2;
    return check_memory(realloc(memory, *capacity));
}

/* The load generator sends a fixed key, so the response is fixed too. */
#define RESPONSE                                                                             \
    "HTTP/1.1 101 Switching Protocols\r\n"                                                   \
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"                                          \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
static const char *response = RESPONSE "\r\n";

static void begin_compression(void)
{
    if (inflateInit2(&inflater, -15) || deflateInit2(&deflater, 1, Z_DEFLATED, -15, 8, 0))
        die("zlib");
    response = RESPONSE "Sec-WebSocket-Extensions: permessage-deflate; "
                        "server_no_context_takeover; client_no_context_takeover\r\n\r\n";
}

/* Returns the size of the frame at `data`, 0 if it is incomplete. */
static size_t frame_size(const uint8_t *data, size_t size, size_t *header, uint64_t *length)
{
    if (size < 2)
        return 0;
    *length = data[1] & 127;
    *header = 6;
    if (*length == 126)
        *header = 8;
    else if (*length == 127)
        *header = 14;
    if (size < *header)
        return 0;
    if (*length == 126) {
        *length = (uint64_t)data[2] << 8 | data[3];
    } else if (*length == 127) {
        *length = 0;
        for (int i = 2; i < 10; i++)
            *length = *length << 8 | data[i];
    }
    return size >= *header + *length ? *header + (size_t)*length : 0;
}

static size_t write_echo(uint8_t *out, const uint8_t *frame, size_t header, uint64_t length)
{
    const uint8_t *key = frame + header - 4, *payload = frame + header;
    size_t written = header - 4;
    uint64_t pattern, word, i = 0;
    uint32_t half;

    memcpy(out, frame, written);
    out[1] &= 127;
    memcpy(&half, key, 4);
    pattern = (uint64_t)half << 32 | half;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, payload + i, 8);
        word ^= pattern;
        memcpy(out + written + i, &word, 8);
    }
    for (; i < length; i++)
        out[written + i] = payload[i] ^ key[i & 3];
    return written + (size_t)length;
}

static size_t write_server_header(uint8_t *out, uint8_t first, size_t length)
{
    out[0] = first;
    if (length < 126) {
        out[1] = (uint8_t)length;
        return 2;
    }
    if (length >> 16)
        exit(3); /* no benchmark has messages of this size */
    out[1] = 126;
    out[2] = (uint8_t)(length >> 8);
    out[3] = (uint8_t)length;
    return 4;
}

/* Replaces an echoed frame: inflates, deflates and frames its message again. */
static size_t compress_echo(uint8_t *frame, size_t size)
{
    size_t header = (frame[1] & 127) < 126 ? 2 : (frame[1] & 127) == 126 ? 4 : 10, length;

    memcpy(frame + size, "\0\0\377\377", 4);
    inflateReset(&inflater);
    inflater.next_in = frame + header;
    inflater.avail_in = (uInt)(size - header + 4);
    inflater.next_out = message;
    inflater.avail_out = MAX_MESSAGE;
    if (inflate(&inflater, Z_SYNC_FLUSH) != Z_OK)
        exit(3);
    deflateReset(&deflater);
    deflater.next_in = message;
    deflater.avail_in = MAX_MESSAGE - inflater.avail_out;
    deflater.next_out = compressed;
    deflater.avail_out = MAX_MESSAGE;
    if (deflate(&deflater, Z_SYNC_FLUSH) != Z_OK)
        exit(3);
    length = MAX_MESSAGE - deflater.avail_out - 4;
    header = write_server_header(frame, frame[0], length);
    memcpy(frame + header, compressed, length);
    return header + length;
}

static void echo_frames(connection *c, uint8_t *data, size_t size)
{
    size_t header, whole, used = 0, out = 0;
    uint64_t length;

    output = reserve(output, &output_capacity, 2 * size + MAX_HEADER);
    while ((whole = frame_size(data + used, size - used, &header, &length))) {
        size_t echo = write_echo(output + out, data + used, header, length);
        out += data[used] & 0x40 ? compress_echo(output + out, echo) : echo;
        used += whole;
    }
    if (data == c->kept) {
        memmove(c->kept, c->kept + used, size - used);
        c->kept_size = size - used;
        if (!c->kept_size) {
            free(c->kept);
            c->kept = NULL;
            c->kept_capacity = 0;
        }
    } else if (used < size) {
        c->kept = reserve(c->kept, &c->kept_capacity, size - used);
        memcpy(c->kept, data + used, size - used);
        c->kept_size = size - used;
    }
    if (out)
        send_or_keep(c, output, out);
}

static void receive(connection *c)
{
    ssize_t size = recv(c->fd, input, BUFFER, 0);

    if (size == 0 || (size < 0 && errno != EAGAIN)) {
        drop(c);
    } else if (size < 0) {
        return;
    } else if (!is_websocket) {
        send_or_keep(c, input, (size_t)size);
    } else if (!c->is_open) {
        c->is_open = 1; /* the request fits in one segment */
        send_or_keep(c, (const uint8_t *)response, strlen(response));
    } else if (c->kept) {
        c->kept = reserve(c->kept, &c->kept_capacity, c->kept_size + (size_t)size);
        memcpy(c->kept + c->kept_size, input, (size_t)size);
        c->kept_size += (size_t)size;
        echo_frames(c, c->kept, c->kept_size);
    } else {
        echo_frames(c, input, (size_t)size);
    }
}

static void accept_one(int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    connection *c;

    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c = check_memory(calloc(1, sizeof *c));
    c->fd = fd;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static int listen_on(const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)atoi(port))};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
        die("listen");
    return fd;
}

int main(int count, char **words)
{
    struct epoll_event events[EVENTS];
    connection *listener;

    if (count != 3) {
        fprintf(stderr, "usage: limit PORT tcp|websocket|deflate\n");
        return 2;
    }
    is_websocket = strcmp(words[2], "tcp") != 0;
    if (strcmp(words[2], "deflate") == 0)
        begin_compression();
    epoll = epoll_create1(0);
    listener = check_memory(calloc(1, sizeof *listener));
    listener->fd = listen_on(words[1]);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (c == listener)
                accept_one(listener->fd);
            else if (events[i].events & EPOLLOUT)
                send_rest(c);
            else
                receive(c);
        }
    }
}
