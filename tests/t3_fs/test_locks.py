"""flock(2) and fcntl(2) record locks between processes."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.expect import opened, raises, write_file
from support.process import Child, all_at_once, in_child

NOWAIT = fcntl.LOCK_NB


@pytest.fixture
def file(tree: Path) -> Path:
    write_file(tree / "file", bytes(100))
    return tree / "file"


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_exclusive_lock_keeps_others_out_until_it_is_dropped(file: Path, lock: Callable[[int, int], None]) -> None:
    def refused() -> None:
        with opened(file) as fd:
            for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with raises(errno.EAGAIN, errno.EACCES):
                    lock(fd, kind | NOWAIT)

    def granted() -> None:
        with opened(file) as fd:
            lock(fd, fcntl.LOCK_EX | NOWAIT)

    with opened(file) as fd:
        lock(fd, fcntl.LOCK_EX)
        in_child(refused)
        lock(fd, fcntl.LOCK_UN)
        in_child(granted)
        lock(fd, fcntl.LOCK_EX | NOWAIT)
    in_child(granted)


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_shared_locks_share(file: Path, lock: Callable[[int, int], None]) -> None:
    def shared() -> None:
        with opened(file) as fd:
            lock(fd, fcntl.LOCK_SH | NOWAIT)
            with raises(errno.EAGAIN, errno.EACCES):
                lock(fd, fcntl.LOCK_EX | NOWAIT)

    with opened(file) as fd:
        lock(fd, fcntl.LOCK_SH)
        in_child(shared)


def test_record_locks_are_of_ranges(file: Path) -> None:
    def others() -> None:
        with opened(file) as fd:
            with raises(errno.EAGAIN, errno.EACCES):
                fcntl.lockf(fd, fcntl.LOCK_EX | NOWAIT, 1, 19)
            fcntl.lockf(fd, fcntl.LOCK_EX | NOWAIT, 10, 20)
            fcntl.lockf(fd, fcntl.LOCK_EX | NOWAIT, 10, 0)

    with opened(file) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, 10)
        in_child(others)


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_waiting_for_a_lock_does_not_stop_the_mount(file: Path, lock: Callable[[int, int], None]) -> None:
    def wait() -> bool:
        with opened(file) as fd:
            lock(fd, fcntl.LOCK_EX)
            return os.path.exists(file.parent / "released")

    with opened(file) as fd:
        lock(fd, fcntl.LOCK_EX)
        waiters = [Child(wait) for _ in range(3)]
        for index in range(50):
            write_file(file.parent / f"f{index}", b"x")
        write_file(file.parent / "released")
        lock(fd, fcntl.LOCK_UN)
        assert [waiter.result() for waiter in waiters] == [True] * 3


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_lock_guards_a_counter(file: Path, lock: Callable[[int, int], None]) -> None:
    write_file(file, b"0".ljust(10))

    def count() -> None:
        with opened(file) as fd:
            for _ in range(50):
                lock(fd, fcntl.LOCK_EX)
                os.pwrite(fd, str(int(os.pread(fd, 10, 0)) + 1).encode().ljust(10), 0)
                lock(fd, fcntl.LOCK_UN)

    all_at_once([count] * 4)
    with opened(file) as fd:
        assert int(os.pread(fd, 10, 0)) == 200


def test_dead_process_leaves_no_lock(file: Path) -> None:
    ready_read, ready_write = os.pipe()

    def hold() -> None:
        with opened(file) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            os.write(ready_write, b"!")
            os.read(os.pipe()[0], 1)

    holder = Child(hold)
    assert os.read(ready_read, 1) == b"!"
    holder.kill()
    with pytest.raises(AssertionError, match="SIGKILL"):
        holder.result()
    with opened(file) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | NOWAIT)
        fcntl.lockf(fd, fcntl.LOCK_EX | NOWAIT)
    os.close(ready_read)
    os.close(ready_write)
