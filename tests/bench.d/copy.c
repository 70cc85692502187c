/* The floor of a log: a loop that reads a pipe and writes what it has read to a file.
 *
 * copy FILE COMMAND...: the command's stdout goes to FILE, through a pipe of 1 MiB and at most a pass a
 * millisecond unless there is more than half of it. It ends with the pipe, or on TERM. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGE = 1 << 20 };

static char buffer[LARGE];

int main(int argc, char **argv) {
    int ends[2];
    if (argc < 3 || pipe2(ends, O_CLOEXEC) < 0)
        return 2;
    fcntl(ends[0], F_SETPIPE_SZ, LARGE);
    int file = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0)
        return 1;
    if (fork() == 0) {
        dup2(ends[1], 1);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    close(ends[1]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        ssize_t got = read(ends[0], buffer, sizeof buffer);
        if (got <= 0)
            return 0;
        for (ssize_t done = 0, put; done < got; done += put)
            if ((put = write(file, buffer + done, got - done)) < 0)
                return 1;
        if (got < LARGE / 2) {
            struct timespec pace = {0, 1000000};
            nanosleep(&pace, NULL);
        }
    }
}
