/* A supervised program that writes to its log.
 *
 * writer FIFO lines|blocks BYTES: as fast as it can, lines of 100 bytes or blocks of 64 KiB, one write each, so
 * many bytes in all (0: for ever); then it says so in FIFO as `program` does.
 * writer FIFO stamps MILLISECONDS: a line with the time of its writing (CLOCK_MONOTONIC, ns) that often. */
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

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void announce(const char *path) {
    struct record record = {0, getpid(), now()};
    int fifo = open(path, O_WRONLY | O_CLOEXEC);
    if (fifo < 0 || write(fifo, &record, sizeof record) != sizeof record)
        exit(1);
    close(fifo);
}

static void put(const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t written = write(1, bytes, length);
        if (written <= 0)
            exit(1);
        bytes += written;
        length -= written;
    }
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 4)
        return 2;
    int64_t wanted = atoll(argv[3]);
    if (!strcmp(argv[2], "stamps")) {
        struct timespec pause = {wanted / 1000, wanted % 1000 * 1000000};
        for (;;) {
            char line[32];
            nanosleep(&pause, NULL);
            put(line, snprintf(line, sizeof line, "%020lld\n", (long long)now()));
        }
    }
    size_t length = !strcmp(argv[2], "lines") ? 100 : 64 << 10;
    static char block[64 << 10];
    memset(block, 'x', length);
    block[length - 1] = '\n';
    for (int64_t left = wanted; wanted == 0 || left > 0; left -= length)
        put(block, length);
    announce(argv[1]);
    for (;;)
        pause();
}
