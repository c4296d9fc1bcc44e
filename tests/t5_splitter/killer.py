"""Kills clients of a mount: ``python killer.py DIRECTORY COUNT SEED``, a lean process that forks fast.

A client reads, writes, creates, renames and lists without a pause, so that most kills find it in the middle of a
request. It works on a few names only: what it leaves behind does not grow.
"""

import mmap
import os
import random
import signal
import sys
import time
from contextlib import suppress

MIB = 1 << 20
NAMES = 8
LONGEST_LIFE = 0.004  # s, drawn: a client may be killed anywhere


def client(directory: str, draw: random.Random) -> None:
    memory = mmap.mmap(-1, MIB)
    while True:
        path = os.path.join(directory, f"n{draw.randrange(NAMES)}")
        kind = draw.randrange(6)
        if kind == 0:
            fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
            os.pwrite(fd, memory, 0)
            os.close(fd)
            with suppress(FileNotFoundError):  # another client has renamed it
                os.rename(path + ".tmp", path)
        elif kind == 1:
            os.listdir(directory)
        elif kind == 2:
            with suppress(FileExistsError):
                os.mkdir(path + ".d")
        else:
            try:
                fd = os.open(path, os.O_RDONLY | draw.choice((0, os.O_DIRECT)))
            except FileNotFoundError:
                continue
            os.preadv(fd, [memory], 0)
            os.close(fd)


def main() -> None:
    directory, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    for _ in range(count):
        started, begin = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(begin, b".")
            try:
                client(directory, random.Random(draw.random()))
            finally:
                os._exit(1)
        assert os.read(started, 1) == b"."
        time.sleep(draw.random() * LONGEST_LIFE)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"a client failed by itself: exit status {os.waitstatus_to_exitcode(status)}"
        os.close(started)
        os.close(begin)


main()
