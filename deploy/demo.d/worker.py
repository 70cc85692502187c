"""The demo's worker: a line a second, until it is told to end."""

import os
import signal
import sys
import time


def end(_signal, _frame):
    print("worker ends", flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
count = 0
while True:
    print(f"worker {os.environ['SUPERVISOR_PROCESS_NAME']}: job {count} done", flush=True)
    count += 1
    time.sleep(1)
