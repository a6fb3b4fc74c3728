"""Python's filelock, as its documentation has it: what cachelock-bench measures beside.

start            nothing but what each start costs
wait FILE        for each line of the input: acquires, prints the monotonic clock in nanoseconds, releases
herd FILE        acquires, and produces FILE.entry unless it is there
"""

import os
import sys
import time

from filelock import FileLock

role, path = sys.argv[1:]
if role == "wait":
    lock = FileLock(path)
    for _ in sys.stdin:
        with lock:
            print(time.monotonic_ns(), flush=True)
elif role == "herd":
    entry = path + ".entry"
    with FileLock(path):
        if not os.path.exists(entry):
            with open(path + ".runs", "a") as runs:
                runs.write("x")
            time.sleep(0.2)
            with open(entry + ".new", "wb") as new:
                new.write(bytes(4096))
            os.rename(entry + ".new", entry)
