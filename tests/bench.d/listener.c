/* An event listener that does as little as one can.
 *
 * listener FIFO GO N: waits until the file GO is there, then takes N events as fast as they come and says in
 * FIFO, as `program` does, when the first has come (index 1) and when the last was answered (index 2). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct record {
    int32_t index;
    int32_t pid;
    int64_t nanoseconds;
};

static char buffer[1 << 16];
static size_t have;

static void announce(const char *path, int index) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    struct record record = {index, getpid(), time.tv_sec * 1000000000LL + time.tv_nsec};
    int fifo = open(path, O_WRONLY | O_CLOEXEC);
    if (fifo < 0 || write(fifo, &record, sizeof record) != sizeof record)
        exit(1);
    close(fifo);
}

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0)
        exit(1);
}

static void more(void) {
    ssize_t got = read(0, buffer + have, sizeof buffer - 1 - have);
    if (got <= 0)
        exit(1);
    have += got;
    buffer[have] = 0;
}

/* One event out of the buffer: a header line that ends with len:N, and N bytes. */
static void take(void) {
    char *end, *length;
    while (!(end = memchr(buffer, '\n', have)))
        more();
    *end = 0;
    if (!(length = strstr(buffer, " len:")))
        exit(1);
    size_t whole = end + 1 - buffer + atoi(length + 5);
    *end = '\n';
    if (whole >= sizeof buffer)
        exit(1);
    while (have < whole)
        more();
    memmove(buffer, buffer + whole, have - whole);
    have -= whole;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 4)
        return 2;
    while (access(argv[2], F_OK) < 0)
        usleep(10000);
    say("READY\n");
    for (int left = atoi(argv[3]), first = 1; left > 0; left--, first = 0) {
        take();
        if (first)
            announce(argv[1], 1);
        say("RESULT 2\nOKREADY\n");
    }
    announce(argv[1], 2);
    for (;;)
        pause();
}
