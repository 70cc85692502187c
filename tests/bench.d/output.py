"""What concerns the output of programs: logs, events and followers, each with a daemon of its own.

The floor of a log is a loop in C that copies a pipe into a file.
"""
import os
import select
import socket
import subprocess
import time

import processes
from life import Life, milliseconds
from rpc import Connection, Failed
from sides import Daemon, Side, workdir

LINES_BYTES = 200 * 1000 * 1000
BLOCKS_BYTES = 8 * 1024 * (64 << 10)
STAMP_MS = 20
STAMPS = 100
FLOODING = 16
FLOOD_SECONDS = 3
EVENTS = 20000
EVENTS_A_CALL = 500
STREAMS = 500
TICKS = os.sysconf('SC_CLK_TCK')


def cpu_seconds(pids):
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        with open(f'/proc/{pid}/stat') as f:
            fields = f.read().rpartition(')')[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def size(path):
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


class Output:
    """A side with one writer, whose log is `path`. Programs of a daemon are named after what they do."""

    def wait_size(self, wanted):
        end = time.monotonic() + self.patience
        while size(self.path) < wanted:
            if time.monotonic() > end:
                raise Failed(f'{size(self.path)} of {wanted} bytes are in the log after {self.patience} s')
            time.sleep(0.001)

    def delays(self):
        """How long each of some lines with a time in it takes until it is in the log, in ms."""
        samples, at, end = [], 0, time.monotonic() + self.patience
        while len(samples) < STAMPS:
            if size(self.path) >= at + 21:
                seen = time.monotonic_ns()
                with open(self.path, 'rb') as f:
                    f.seek(at)
                    samples.append((seen - int(f.read(20))) / 1e6)
                at += 21
            elif time.monotonic() > end:
                raise Failed(f'{len(samples)} of {STAMPS} lines came within {self.patience} s')
            # Without a pause, or this would measure the pause; but not while nothing can be there.
            elif samples and time.monotonic_ns() < seen + (STAMP_MS - 3) * 1_000_000:
                time.sleep(0.001)
        return samples


class Copies(Side, Output):
    """The floor."""

    def __init__(self, tools):
        super().__init__('the floor', tools, 1, workdir())
        self.path = os.path.join(self.directory, 'log')

    def write(self, how, number):
        return self.spawn([self.tools['copy'], self.path, self.tools['writer'], self.fifo, how, str(number)])


class Writers(Daemon, Output):
    """A daemon whose programs write when they are started."""

    def __init__(self, name, folder, tools):
        super().__init__(name, folder, tools, 1)
        self.path = os.path.join(self.directory, 'w.log')
        self.go = os.path.join(self.directory, 'go')

    def write_config(self):
        super().write_config()
        writer = f'{self.tools["writer"]} {self.fifo}'
        log = f'autostart=false\nstdout_logfile={self.directory}/w.log\nstdout_logfile_maxbytes=0\n'
        text = ''
        for name, words in (('lines', f'lines {LINES_BYTES}'), ('blocks', f'blocks {BLOCKS_BYTES}'),
                            ('stamps', f'stamps {STAMP_MS}')):
            text += f'[program:{name}]\ncommand={writer} {words}\n{log}'
        text += (f'[program:flood]\ncommand={writer} lines 0\nautostart=false\nnumprocs={FLOODING}\n'
                 f'process_name=%(process_num)d\nstdout_logfile={self.directory}/f%(process_num)d.log\n'
                 f'stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=1\n'
                 f'[eventlistener:l]\ncommand={self.tools["listener"]} {self.fifo} {self.directory}/go {EVENTS}\n'
                 f'events=REMOTE_COMMUNICATION\nbuffer_size={EVENTS + 10}\nautostart=false\n')
        with open(self.config, 'a') as f:
            f.write(text)

    def all_pids(self):
        return processes.same_program(self.process.pid)

    def begin(self, name):
        begin = time.monotonic()
        with Connection(self.socket, self.patience) as connection:
            connection.call('supervisor.startProcess', name, False)
        return begin

    def end(self, name):
        with Connection(self.socket, self.patience) as connection:
            connection.call('supervisor.stopProcess', name)


class OutputLife(Life):
    """Everything, one after the other."""

    def run(self):
        side = self.side
        side.start()
        side.wait_all()
        self.measure(['logs-lines', 'logs-lines-cpu'], lambda: self.amount('lines', LINES_BYTES))
        self.measure(['logs-blocks', 'logs-blocks-cpu'], lambda: self.amount('blocks', BLOCKS_BYTES))
        self.measure(['logs-delay'], self.delay)
        self.measure(['tail-delay'], self.followed)
        self.measure(['tail-500'], self.all_flowing)
        self.measure(['flood-getState'], self.flood)
        self.measure(['events'], self.events)

    def amount(self, name, wanted):
        """(MB/s, seconds of the daemon's CPU per GB)."""
        side = self.side
        if os.path.exists(side.path):
            os.truncate(side.path, 0)
        before, begin = cpu_seconds(side.all_pids()), side.begin(name)
        side.wait_size(wanted)
        seconds, cpu = time.monotonic() - begin, cpu_seconds(side.all_pids()) - before
        side.end(name)
        return [wanted / seconds / 1e6], [cpu / wanted * 1e9]

    def delay(self):
        side = self.side
        if os.path.exists(side.path):
            os.truncate(side.path, 0)
        side.begin('stamps')
        try:
            return side.delays(),
        finally:
            side.end('stamps')

    def follow(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.side.patience)
        connection.connect(self.side.socket)
        connection.sendall(b'GET /logtail/stamps HTTP/1.1\r\nHost: localhost\r\n\r\n')
        return connection

    def followed(self):
        """How long a line takes until a follower of the log has it, in ms."""
        side, samples = self.side, []
        side.begin('stamps')
        try:
            with self.follow() as connection:
                until, data, begun = time.monotonic() + side.patience, b'', time.monotonic_ns()
                while len(samples) < STAMPS:
                    if time.monotonic() > until:
                        raise Failed(f'{len(samples)} of {STAMPS} lines came within {side.patience} s')
                    data += connection.recv(65536)
                    seen = time.monotonic_ns()
                    *lines, data = data.split(b'\n')
                    for line in lines:
                        # What was there before, and the sizes of chunks, don't count.
                        if len(line) == 20 and line.isdigit() and int(line) > begun:
                            samples.append((seen - int(line)) / 1e6)
        finally:
            side.end('stamps')
        return samples,

    def all_flowing(self):
        """From the first of many followers until each has had a line that was written since, in ms."""
        side = self.side
        side.begin('stamps')
        poller, streams = select.poll(), {}
        try:
            begin = time.monotonic()
            begun, until = time.monotonic_ns(), begin + 2 * side.patience
            for _ in range(STREAMS):
                stream = self.follow()
                stream.setblocking(False)
                streams[stream.fileno()] = [stream, b'']
                poller.register(stream, select.POLLIN)
            waiting = set(streams)
            while waiting:
                if time.monotonic() > until:
                    raise Failed(f'{len(waiting)} of {STREAMS} streams had no line after {2 * side.patience} s')
                for number, _ in poller.poll(100):
                    stream, data = streams[number]
                    got = stream.recv(65536)
                    if not got:
                        raise Failed('a stream was closed')
                    *lines, rest = (data + got).split(b'\n')
                    streams[number][1] = rest
                    if any(len(line) == 20 and line.isdigit() and int(line) > begun for line in lines):
                        waiting.discard(number)
            return [milliseconds(begin)],
        finally:
            for stream, _ in streams.values():
                stream.close()
            side.end('stamps')

    def flood(self):
        side = self.side
        for number in range(FLOODING):
            side.begin(f'flood:{number}')
        command = [side.tools['calls'], side.socket, '1', str(FLOOD_SECONDS), 'keep-alive']
        done = subprocess.run(command, capture_output=True, text=True, timeout=FLOOD_SECONDS + 60)
        side.end('flood:*')
        if done.returncode:
            raise Failed(done.stderr.strip() or f'calls ended with status {done.returncode}')
        return [int(done.stdout.split()[3]) / 1e6],

    def events(self):
        """Events a second that one listener takes, all of which are waiting for it."""
        side = self.side
        side.begin('l:l')
        call = {'methodName': 'supervisor.sendRemoteCommEvent', 'params': ['kind', 'data']}
        with Connection(side.socket, side.patience) as connection:
            for _ in range(EVENTS // EVENTS_A_CALL):
                connection.call('system.multicall', [call] * EVENTS_A_CALL)
        side.pids, side.began = {}, {}
        open(side.go, 'w').close()
        side.wait(lambda: 2 in side.began, 'the last event')
        return [EVENTS / (side.began[2] - side.began[1])],


class CopyLife(Life):
    """The measures that have a floor. Each is taken of a process of its own."""

    def run(self):
        self.measure(['logs-lines', 'logs-lines-cpu'], lambda: self.amount('lines', LINES_BYTES))
        self.measure(['logs-blocks', 'logs-blocks-cpu'], lambda: self.amount('blocks', BLOCKS_BYTES))
        self.measure(['logs-delay'], self.delay)

    def amount(self, how, wanted):
        side = self.side
        begin = side.write(how, wanted)
        try:
            side.wait_size(wanted)
            seconds, cpu = time.monotonic() - begin, cpu_seconds([side.process.pid])
        finally:
            self.again()
        return [wanted / seconds / 1e6], [cpu / wanted * 1e9]

    def delay(self):
        self.side.write('stamps', STAMP_MS)
        try:
            return self.side.delays(),
        finally:
            self.again()

    def again(self):
        side = self.side
        side.process.kill()
        side.process.wait()
        os.unlink(side.path)
