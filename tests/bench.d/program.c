/* A supervised program that costs as little as a program can: it says when its main() began, then waits.
 *
 * program FIFO INDEX: writes one record (index, pid, CLOCK_MONOTONIC in ns) to FIFO and pauses until a signal
 * ends it. It ends with its parent, so that a benchmark that was killed leaves no programs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct record {
    int32_t index;
    int32_t pid;
    int64_t nanoseconds;
};

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 3)
        return 2;
    struct record record = {atoi(argv[2]), getpid(), now.tv_sec * 1000000000LL + now.tv_nsec};
    /* Without a reader, or with a full pipe, the program runs all the same. */
    int fifo = open(argv[1], O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fifo >= 0) {
        ssize_t ignored = write(fifo, &record, sizeof record);
        (void)ignored;
        close(fifo);
    }
    for (;;)
        pause();
}
