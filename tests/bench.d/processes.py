"""What /proc says about processes, and how to wait for and end them by pid.

Knows nothing of supervisors. Every wait has a limit.
"""
import ctypes
import os
import select
import signal
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans():
    """Makes this process the parent of every descendant that loses its own, so that none can get away."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent():
    """In a new child: a benchmark that is killed takes its daemons with it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_until_ended(process, seconds):
    """The exit status of a Popen, noticed at once (Popen.wait with a timeout polls). None: still running."""
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(max(0, seconds) * 1000)
        finally:
            os.close(pidfd)
    return process.poll()


def _parents():
    parents = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open(f'/proc/{name}/stat') as f:
                    # The command may contain spaces and brackets; the parent is the second field after it.
                    parents[int(name)] = int(f.read().rpartition(')')[2].split()[1])
            except (OSError, IndexError):
                pass
    return parents


def descendants(pid):
    """All children of `pid`, and theirs."""
    children = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found, open_ = [], [pid]
    while open_:
        for child in children.get(open_.pop(), ()):
            found.append(child)
            open_.append(child)
    return found


def end_descendants(seconds=10):
    """Ends and reaps whatever this process has started and adopted. Returns the pids that would not go."""
    end = time.monotonic() + seconds
    while left := descendants(os.getpid()):
        if time.monotonic() > end:
            return left
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.005)
    return []


def same_program(pid):
    """`pid` and those of its children that run the same executable: a daemon of several processes."""
    executable = os.readlink(f'/proc/{pid}/exe')
    found = [pid]
    for child, parent in _parents().items():
        try:
            if parent == pid and os.readlink(f'/proc/{child}/exe') == executable:
                found.append(child)
        except OSError:
            pass
    return found


def proportional_kib(pids):
    """Sum of the proportional set sizes, in KiB."""
    total = 0
    for pid in pids:
        with open(f'/proc/{pid}/smaps_rollup') as f:
            total += next(int(line.split()[1]) for line in f if line.startswith('Pss:'))
    return total


def switches(pids):
    """Context switches of every thread so far, voluntary and not: {(pid, thread): count}."""
    counts = {}
    for pid in pids:
        for thread in os.listdir(f'/proc/{pid}/task'):
            try:
                with open(f'/proc/{pid}/task/{thread}/status') as f:
                    counts[pid, thread] = sum(int(line.split()[1]) for line in f if 'ctxt_switches' in line)
            except OSError:
                pass
    return counts
