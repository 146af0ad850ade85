/* The baseline of a broadcast: one send() of the same frame per connection.
 *
 *     send_all PORT
 *
 * Accepts WebSockets of the load generator. For each line "COUNT FILE ..." on its standard input it
 * sends the content of FILE to all connections, COUNT times, and prints the elapsed time and the CPU
 * time. Stops when its input ends. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 20000, MAX_SIZE = 65535 };

static const char response[] =
    "HTTP/1.1 101 Switching Protocols\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int members[MAX_CONNECTIONS], count;
static uint8_t frame[MAX_SIZE + 4];

static double seconds_of(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void admit(int listener)
{
    int one = 1, fd = accept(listener, NULL, NULL);
    char request[4096];

    if (fd < 0 || count == MAX_CONNECTIONS)
        return;
    if (recv(fd, request, sizeof request, 0) <= 0) { /* one segment, or a port probe */
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (send(fd, response, sizeof response - 1, MSG_NOSIGNAL) > 0)
        members[count++] = fd;
}

static size_t write_frame(const char *name)
{
    FILE *file = fopen(name, "rb");
    size_t size = file ? fread(frame + 4, 1, MAX_SIZE, file) : 0;

    if (!size)
        exit(3);
    fclose(file);
    frame[0] = 0x81;
    if (size < 126) {
        frame[1] = (uint8_t)size;
        memmove(frame + 2, frame + 4, size);
        return 2 + size;
    }
    frame[1] = 126;
    frame[2] = (uint8_t)(size >> 8);
    frame[3] = (uint8_t)size;
    return 4 + size;
}

static void broadcast(int rounds, const char *name)
{
    size_t whole = write_frame(name);
    double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);

    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < count; i++)
            if (send(members[i], frame, whole, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)whole)
                exit(4);
    printf("{\"members\": %d, \"seconds\": %.9f, \"cpu\": %.9f}\n", count,
           seconds_of(CLOCK_MONOTONIC) - wall, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "0"))};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct pollfd waiting[2] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    char line[1024], name[1000];
    int rounds;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("listen");
        return 1;
    }
    setvbuf(stdin, NULL, _IONBF, 0);
    while (poll(waiting, 2, -1) > 0) {
        if (waiting[1].revents)
            admit(fd);
        if (waiting[0].revents) {
            if (!fgets(line, sizeof line, stdin))
                return 0;
            if (sscanf(line, "%d %999s", &rounds, name) == 2)
                broadcast(rounds, name);
        }
    }
    return 1;
}
