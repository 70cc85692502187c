/* Calls of supervisor.getState as fast as the daemon answers them, from one thread.
 *
 * calls SOCKET CLIENTS SECONDS keep-alive|connect: each client sends its next call when the last one has been
 * answered, on one connection or on a new one per call. Prints "calls nanoseconds p50 p99" (latencies in ns)
 * and exits 0; an answer that is no HTTP 200 with a length, or a connection that breaks, is an error. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MOST_CLIENTS 1024
#define MOST_SAMPLES 2000000

struct client {
    int fd;
    int64_t sent;
    size_t have;
    char answer[4096];
};

static const char body[] = "<?xml version='1.0'?>\n<methodCall>\n<methodName>supervisor.getState</methodName>\n"
                           "<params>\n</params>\n</methodCall>\n";
static char request[1024];
static size_t request_length;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct client clients[MOST_CLIENTS];
static uint32_t samples[MOST_SAMPLES];
static int64_t answered;
static int poller, connection_per_call;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void dial(struct client *client) {
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(strerror(errno));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event);
}

static void send_call(struct client *client) {
    client->have = 0;
    client->sent = now();
    if (connection_per_call)
        dial(client);
    if (send(client->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length)
        fail("a call could not be sent");
}

/* Whether the whole answer is there. */
static int complete(struct client *client) {
    client->answer[client->have] = 0;
    char *end = strstr(client->answer, "\r\n\r\n");
    if (!end)
        return 0;
    if (strncmp(client->answer, "HTTP/1.", 7) || strncmp(client->answer + 8, " 200", 4))
        fail("an answer is not HTTP 200");
    char *length = strcasestr(client->answer, "\r\ncontent-length:");
    if (!length || length > end)
        fail("an answer has no Content-Length");
    size_t whole = (end + 4 - client->answer) + strtoul(length + 17, NULL, 10);
    if (client->have < whole)
        return 0;
    if (!strstr(end, "statename"))
        fail("an answer is not that of getState");
    return 1;
}

static void receive(struct client *client) {
    ssize_t got = recv(client->fd, client->answer + client->have, sizeof client->answer - 1 - client->have, 0);
    if (got < 0 && errno == EINTR)
        return;
    if (got <= 0)
        fail(got < 0 ? strerror(errno) : "a connection was closed before the answer was there");
    client->have += got;
    if (!complete(client)) {
        if (client->have == sizeof client->answer - 1)
            fail("an answer is too long");
        return;
    }
    if (answered < MOST_SAMPLES)
        samples[answered] = (uint32_t)(now() - client->sent);
    answered++;
    if (connection_per_call)
        close(client->fd);
    send_call(client);
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    if (argc != 5 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    connection_per_call = !strcmp(argv[4], "connect");
    if (count < 1 || count > MOST_CLIENTS)
        return 2;
    request_length = snprintf(request, sizeof request,
                              "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n%s"
                              "Content-Length: %zu\r\n\r\n%s",
                              connection_per_call ? "Connection: close\r\n" : "", strlen(body), body);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int64_t begin = now(), end = begin + (int64_t)(seconds * 1e9), time;
    for (int i = 0; i < count; i++) {
        if (!connection_per_call)
            dial(&clients[i]);
        send_call(&clients[i]);
    }
    while ((time = now()) < end) {
        struct epoll_event ready[64];
        int many = epoll_wait(poller, ready, 64, (int)((end - time) / 1000000) + 1);
        for (int i = 0; i < many; i++)
            receive(ready[i].data.ptr);
    }
    if (!answered)
        fail("no call was answered in time");
    size_t kept = answered < MOST_SAMPLES ? answered : MOST_SAMPLES;
    qsort(samples, kept, sizeof *samples, ascending);
    printf("%lld %lld %u %u\n", (long long)answered, (long long)(time - begin), samples[kept / 2],
           samples[kept * 99 / 100]);
    return 0;
}
