/* The floor: what the kernel alone needs for a supervisor's work.
 *
 * floor PROGRAM FIFO N: starts N programs, each with its three pipes and its own process group, and starts
 * each again as soon as it has ended. On TERM it ends all of them by TERM, reaps them and exits. It keeps no
 * state, logs nothing and answers nobody. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    pid_t pid;
    int pipes[3]; /* our ends of its stdin, stdout and stderr */
};

static char *program, *fifo;
static char *no_environment[] = {NULL};

static void fail(const char *what, int error) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(error));
    exit(1);
}

static void start(struct child *child, int index) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    int theirs[3];
    char number[16];
    char *arguments[] = {program, fifo, number, NULL};

    snprintf(number, sizeof number, "%d", index);
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0)
            fail("pipe2", errno);
        theirs[i] = ends[i == 0 ? 0 : 1];
        child->pipes[i] = ends[i == 0 ? 1 : 0];
        posix_spawn_file_actions_adddup2(&actions, theirs[i], i);
    }
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int error = posix_spawn(&child->pid, program, &actions, &attributes, arguments, no_environment);
    if (error)
        fail(program, error);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 3; i++)
        close(theirs[i]);
}

static void restart(struct child *children, int count, pid_t pid) {
    for (int index = 0; index < count; index++) {
        if (children[index].pid == pid) {
            for (int i = 0; i < 3; i++)
                close(children[index].pipes[i]);
            start(&children[index], index);
            return;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    program = argv[1];
    fifo = argv[2];
    int count = atoi(argv[3]);
    struct child *children = calloc(count, sizeof *children);
    struct rlimit limit;
    sigset_t signals;

    if (!children)
        fail("memory", errno);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    for (int index = 0; index < count; index++)
        start(&children[index], index);
    for (;;) {
        int received = sigwaitinfo(&signals, NULL);
        if (received == SIGTERM)
            break;
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            restart(children, count, pid);
    }
    for (int index = 0; index < count; index++)
        kill(children[index].pid, SIGTERM);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 0;
}
