"""The three that are measured: our supervisord, Supervisor's, and the floor in C.

Each supervises the same N programs and is started, watched and ended the same way. What is measured is
decided elsewhere.
"""
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import processes
from rpc import Failed, request, whole_answer

LOOK_EVERY = 0.002
RECORD = struct.Struct('=iiq')
PREFIX = 'fleetvisor-bench-'
STARTSECS = 1


def workdir():
    """A new directory, with a path short enough for a socket. Those of runs that were killed go."""
    for name in os.listdir(tempfile.gettempdir()):
        found = re.fullmatch(PREFIX + r'(\d+)-\w+', name)
        if found and not os.path.exists(f'/proc/{found[1]}'):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)
    return tempfile.mkdtemp(prefix=f'{PREFIX}{os.getpid()}-')


class Side:
    """N programs under something that supervises them. `pids[i]` is the latest of program i."""

    def __init__(self, name, tools, count, directory):
        self.name, self.tools, self.count, self.directory = name, tools, count, directory
        self.pids, self.began = {}, {}
        self.process = None
        # Seconds; long enough for Supervisor with that many programs on a slow machine.
        self.patience = 60 + count // 4
        self.fifo = os.path.join(directory, 'fifo')
        os.mkfifo(self.fifo)
        # Read and write: programs come and go without the FIFO ever being at its end.
        self.reader = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def spawn(self, command):
        """Starts the supervisor. Returns the moment before, in seconds of the monotonic clock."""
        self.output = open(os.path.join(self.directory, 'output'), 'wb')
        begin = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output,
            env={'PATH': os.environ.get('PATH', '/usr/bin:/bin')}, start_new_session=True,
            preexec_fn=processes.end_with_parent)
        return begin

    def look(self, seconds=0.0):
        """Reads what programs have announced, waiting for it up to `seconds`. Returns the new indexes."""
        if seconds:
            select.select([self.reader], [], [], seconds)
        found = []
        try:
            # Whole records: writes this small are never torn.
            data = os.read(self.reader, RECORD.size * 4096)
        except BlockingIOError:
            return found
        for index, pid, nanoseconds in RECORD.iter_unpack(data):
            self.pids[index], self.began[index] = pid, nanoseconds / 1e9
            found.append(index)
        return found

    def wait(self, condition, what):
        """Looks until `condition()` holds."""
        end = time.monotonic() + self.patience
        while True:
            self.look(LOOK_EVERY)
            if condition():
                return
            if self.process.poll() is not None:
                raise Failed(f'{self.name} ended with status {self.process.returncode}: {self.last_words()}')
            if time.monotonic() > end:
                raise Failed(f'{what}: not within {self.patience} s')

    def last_words(self):
        try:
            with open(os.path.join(self.directory, 'output'), errors='replace') as f:
                return ' / '.join(f.read().splitlines()[-3:]) or 'without a word'
        except OSError as e:
            return str(e)

    def kill(self, index):
        """Crashes a program. Returns the moment before."""
        begin = time.monotonic()
        try:
            os.kill(self.pids[index], signal.SIGKILL)
        except ProcessLookupError:
            raise Failed(f'program {index} is not running') from None
        return begin

    def new_exec(self, index, seconds=30):
        """Waits for the next main() of a program and returns its moment."""
        end = time.monotonic() + seconds
        while index not in self.look(end - time.monotonic()):
            if time.monotonic() > end:
                raise Failed(f'program {index} was not started again within {seconds} s')
        return self.began[index]

    def close(self, seconds):
        """Ends everything and leaves nothing behind. The supervisor may take `seconds` to do so itself."""
        try:
            if self.process and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                processes.wait_until_ended(self.process, seconds)
        finally:
            left = processes.end_descendants()
            if self.process:
                self.output.close()
            os.close(self.reader)
            shutil.rmtree(self.directory, ignore_errors=True)
        if left:
            raise Failed(f'{self.name}: processes {left} cannot be ended')


class Floor(Side):
    """A loop of posix_spawn and waitpid in C."""

    def __init__(self, tools, count):
        super().__init__('the floor', tools, count, workdir())

    def start(self):
        return self.spawn([self.tools['floor'], self.tools['program'], self.fifo, str(self.count)])

    def wait_all(self, before):
        """Waits until each program began after `before`. Returns when the last could be called RUNNING."""
        self.wait(lambda: len(self.began) == self.count and min(self.began.values()) > before, 'the floor')
        return max(self.began.values()) + STARTSECS


class Daemon(Side):
    """A supervisord, ours or theirs.

    `running` holds the indexes whose latest start is known as RUNNING; `complete` is the moment when that
    became all of them, else None.
    """

    SUCCESS = re.compile(rb'success: p(\d+) entered RUNNING state')

    def __init__(self, name, folder, tools, count):
        super().__init__(name, tools, count, workdir())
        self.folder = folder
        self.socket = os.path.join(self.directory, 's')
        self.config = os.path.join(self.directory, 'supervisord.conf')
        self.log_path = os.path.join(self.directory, 'log')
        self.log, self.rest = None, b''
        self.running, self.complete = set(), None
        self.change = 0
        os.mkdir(os.path.join(self.directory, 'child'))
        self.write_config()

    def write_config(self):
        """The configuration; `change` makes one program in the middle differ from what it was."""
        programs = []
        for index in range(self.count):
            programs.append(f'[program:p{index}]\ncommand={self.tools["program"]} {self.fifo} {index}\n'
                            f'startsecs={STARTSECS}\nautorestart=true\n')
            if index == self.count // 2:
                programs.append(f'environment=CHANGE="{self.change}"\n')
        text = f'''[unix_http_server]
file={self.socket}
[supervisord]
logfile={self.log_path}
logfile_maxbytes=0
pidfile={self.directory}/pid
childlogdir={self.directory}/child
minfds={6 * self.count + 1024}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{self.socket}
{"".join(programs)}'''
        with open(self.config, 'w') as f:
            f.write(text)

    def change_one(self):
        """Changes one program's configuration on disk. Returns its index."""
        self.change += 1
        self.write_config()
        return self.count // 2

    def start(self):
        return self.spawn([os.path.join(self.folder, 'supervisord'), '-n', '-c', self.config])

    def ctl(self, *words):
        return [os.path.join(self.folder, 'supervisorctl'), '-c', self.config, *words]

    def look(self, seconds=0.0):
        found = super().look(seconds)
        if self.log is None:
            try:
                self.log = open(self.log_path, 'rb', buffering=0)
            except FileNotFoundError:
                return found
        while data := self.log.read(1 << 16):
            *lines, self.rest = (self.rest + data).split(b'\n')
            for line in lines:
                if success := self.SUCCESS.search(line):
                    self.running.add(int(success[1]))
        if self.complete is None and len(self.running) == self.count:
            self.complete = time.monotonic()
        return found

    def wait_all(self, _before=None):
        """Waits until every program is RUNNING. Returns since when.

        The daemon's log tells: asking would slow down Supervisor.
        """
        self.wait(lambda: self.complete is not None, f'all {self.count} programs RUNNING')
        return self.complete

    def first_answer(self):
        """Calls getState as soon as there is a socket. Returns the moment of the answer."""
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self.socket)
                connection.sendall(request('supervisor.getState'))
                data = b''
                while time.monotonic() < end:
                    readable = select.select([connection, self.reader], [], [], LOOK_EVERY)[0]
                    if connection in readable:
                        got = connection.recv(65536)
                        if not got:
                            break
                        data += got
                        if whole_answer(data) is not None:
                            return time.monotonic()
                    self.look()
            except (FileNotFoundError, ConnectionError, BlockingIOError):
                pass
            finally:
                connection.close()
            self.look(LOOK_EVERY)
            if self.process.poll() is not None:
                raise Failed(f'{self.name} ended with status {self.process.returncode}: {self.last_words()}')
        raise Failed(f'no XML-RPC answer within {self.patience} s')

    def expect_restart(self, index):
        """The program is about to be started again, and not RUNNING until that is done."""
        self.running.discard(index)
        self.complete = None

    def kill(self, index):
        self.expect_restart(index)
        return super().kill(index)

    def close(self, seconds):
        if self.log:
            self.log.close()
        super().close(seconds)
