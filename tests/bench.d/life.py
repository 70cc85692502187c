"""One life of a supervisor with its N programs, and what is measured on the way.

Order matters: memory and wake-ups come before any load, the stop last. A measure that fails is noted with
its reason, and the life goes on as long as the daemon does.
"""
import random
import subprocess
import time

import processes
from rpc import Connection, Failed

SETTLE_SECONDS = 2
CALLING_SECONDS = 2
LATENCY_SECONDS = 12
LATENCY_SAMPLES = 200


def milliseconds(begin, end=None):
    return ((time.monotonic() if end is None else end) - begin) * 1000


def repeated(once, most, seconds):
    """At least three samples of `once()`, then more while they are few and there is time."""
    samples, end = [], time.monotonic() + seconds
    while len(samples) < 3 or (len(samples) < most and time.monotonic() < end):
        samples.append(once())
    return samples


class Life:
    """Measures one side once. `samples`: {measure: [numbers]}; `failed`: {measure: reason}."""

    def __init__(self, side, wanted, idle_seconds):
        self.side, self.wanted, self.idle_seconds = side, wanted, idle_seconds
        self.samples, self.failed = {}, {}
        # The same moments for every side and run.
        self.random = random.Random(4300)

    def measure(self, names, take):
        """Runs `take`, which returns a list of samples per name, unless none of them is wanted."""
        if not self.wanted & set(names):
            return
        try:
            for name, samples in zip(names, take()):
                self.samples[name] = samples
        except (Failed, OSError, subprocess.SubprocessError, ValueError) as e:
            for name in names:
                self.failed[name] = str(e) or type(e).__name__

    def fail_all(self, names, reason):
        for name in names:
            self.failed.setdefault(name, reason)

    def latency(self):
        """One program at a time is killed, at moments that follow no rhythm."""
        side, samples, last = self.side, [], -1
        end = time.monotonic() + LATENCY_SECONDS
        while len(samples) < LATENCY_SAMPLES and time.monotonic() < end:
            pause = time.monotonic() + self.random.uniform(0.005, 0.04)
            while (left := pause - time.monotonic()) > 0:
                side.look(left)
            index = self.next_up(last)
            begin = side.kill(index)
            samples.append(milliseconds(begin, side.new_exec(index)))
            last = index
        return samples, samples

    def next_up(self, last):
        """The next program in turn that may be killed: RUNNING for sure, or long enough under the floor."""
        side = self.side
        running = getattr(side, 'running', None)
        if running is None:
            return (last + 1) % side.count
        side.wait(lambda: running, 'a RUNNING program')
        return min(running, key=lambda index: (index <= last, index))

    def crash(self):
        begin = time.monotonic()
        for index in range(self.side.count):
            self.side.kill(index)
        return [milliseconds(begin, self.side.wait_all(begin))],


class FloorLife(Life):
    """The measures that have a floor."""

    def run(self):
        side = self.side
        begin = side.start()
        self.measure(['start'], lambda: ([milliseconds(begin, side.wait_all(begin))],))
        side.wait(lambda: len(side.pids) == side.count, 'the floor')
        self.measure(['crash-latency-p50', 'crash-latency-p99'], self.latency)
        self.measure(['crash'], self.crash)
        self.measure(['stop'], self.stop)

    def stop(self):
        begin = time.monotonic()
        self.side.process.terminate()
        if processes.wait_until_ended(self.side.process, 60) != 0:
            raise Failed('the floor did not end well')
        return [milliseconds(begin)],


class DaemonLife(Life):
    """All measures."""

    def run(self):
        side = self.side
        begin = side.start()
        self.measure(['first-answer'], lambda: ([milliseconds(begin, side.first_answer())],))
        self.measure(['start'], lambda: ([milliseconds(begin, side.wait_all())],))
        side.wait_all()
        if self.wanted & {'memory', 'wake-ups'}:
            time.sleep(SETTLE_SECONDS)
        self.measure(['memory'], self.memory)
        self.measure(['wake-ups'], self.wake_ups)
        self.measure(['getState'], lambda: ([self.calls(1, 'keep-alive')[1]],))
        self.measure(['getState-64'], lambda: ([self.calls(64, 'keep-alive')[0]],))
        self.measure(['getState-64-connect'], lambda: ([self.calls(64, 'connect')[0]],))
        self.measure(['getAllProcessInfo'], lambda: (self.rpc('supervisor.getAllProcessInfo'),))
        self.measure(['status'], self.status)
        self.measure(['reloadConfig'], lambda: (self.rpc('supervisor.reloadConfig'),))
        self.measure(['update'], self.update)
        self.measure(['memory-used'], self.memory)
        side.wait_all()
        self.measure(['crash-latency-p50', 'crash-latency-p99'], self.latency)
        side.wait_all()
        self.measure(['crash'], self.crash)
        side.wait_all()
        self.measure(['stop'], self.stop)

    def memory(self):
        kib = processes.proportional_kib(processes.same_program(self.side.process.pid))
        return [kib / 1024],

    def wake_ups(self):
        pids = processes.same_program(self.side.process.pid)
        before, begin = processes.switches(pids), time.monotonic()
        time.sleep(self.idle_seconds)
        after, seconds = processes.switches(pids), time.monotonic() - begin
        return [sum(count - before.get(thread, 0) for thread, count in after.items()) / seconds],

    def calls(self, clients, how):
        """(calls a second, median latency in ms) of getState."""
        command = [self.side.tools['calls'], self.side.socket, str(clients), str(CALLING_SECONDS), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALLING_SECONDS + 60)
        if done.returncode:
            raise Failed(done.stderr.strip() or f'calls ended with status {done.returncode}')
        answered, nanoseconds, median, _p99 = (int(number) for number in done.stdout.split())
        return answered / nanoseconds * 1e9, median / 1e6

    def rpc(self, method):
        """The duration of a call on a kept connection, the first one left out."""
        with Connection(self.side.socket) as connection:
            connection.call(method)

            def once():
                begin = time.monotonic()
                connection.call(method)
                return milliseconds(begin)

            return repeated(once, 20, 3)

    def ctl(self, *words):
        """Runs supervisorctl. Returns (its duration in ms, its output)."""
        with open(f'{self.side.directory}/ctl', 'w+b') as output:
            begin = time.monotonic()
            process = subprocess.Popen(self.side.ctl(*words), stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=output)
            status = processes.wait_until_ended(process, 120)
            duration = milliseconds(begin)
            if status is None:
                process.kill()
                process.wait()
                raise Failed(f'supervisorctl {" ".join(words)} did not end')
            output.seek(0)
            text = output.read().decode(errors='replace')
        if status != 0:
            raise Failed(f'supervisorctl {" ".join(words)} ended with status {status}: {text[-200:].strip()}')
        return duration, text

    def status(self):
        def once():
            duration, text = self.ctl('status')
            if text.count('RUNNING') != self.side.count:
                raise Failed(f'supervisorctl status does not show {self.side.count} programs RUNNING')
            return duration

        # The first run of a Python program may compile it.
        once()
        return repeated(once, 20, 5),

    def update(self):
        side = self.side

        def once():
            index = side.change_one()
            duration, text = self.ctl('update')
            if text.count('updated process group') != 1:
                raise Failed(f'supervisorctl update says {text.strip()!r}')
            # It has to be RUNNING before it is changed again.
            side.expect_restart(index)
            side.wait_all()
            return duration

        return repeated(once, 8, 8),

    def stop(self):
        with Connection(self.side.socket, self.side.patience) as connection:
            begin = time.monotonic()
            connection.call('supervisor.stopAllProcesses')
            return [milliseconds(begin)],
