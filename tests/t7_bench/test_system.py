"""Commands that are run, and a disk of its own for the peer."""

import os
from pathlib import Path

import pytest
from benchlib import system
from benchlib.callgrind import by_object
from benchlib.disks import LoopDisk, has_loop_devices
from benchlib.system import BenchError, run_command
from benchlib.targets import Kvfs


def test_run_command() -> None:
    assert run_command(["cat"], 60, given=b"one\n") == b"one\n"
    assert run_command(["sh", "-c", "echo $WORD; echo note >&2"], 60, environment={"WORD": "two"}) == b"two\n"
    with pytest.raises(BenchError, match="exit status 3: out err"):
        run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], 60)
    with pytest.raises(BenchError, match="expected it to end within 0 s"):
        run_command(["cat", "/dev/zero"], 0.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # it is not left behind


def test_kernel_threads_are_no_processes() -> None:
    assert os.getpid() not in system.kernel_threads()
    assert os.getpid() in system.process_tree(os.getpid())


@pytest.mark.skipif(not has_loop_devices(), reason="NOT TESTED: needs root and loop devices")
def test_a_disk_of_its_own_comes_and_goes(tmp_path: Path) -> None:
    disk = LoopDisk("ext4", tmp_path / "ext4-read", 64 << 20)
    try:
        assert system.filesystem_type(disk.root) == "ext4"
        assert system.is_mounted(disk.root)
        (disk.directory("d") / "file").write_bytes(bytes(4096))
    finally:
        disk.close()
    assert list(tmp_path.iterdir()) == []
    assert not system.is_mounted(disk.root)


@pytest.mark.skipif(not has_loop_devices(), reason="NOT TESTED: needs root and loop devices")
def test_a_disk_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="mkfs"):
        LoopDisk("ext4", tmp_path / "ext4-read", 4096)
    assert list(tmp_path.iterdir()) == []


_DUMP = """\
# callgrind format
version: 1
positions: line
events: Ir
fl=(1) a.cpp
ob=(1) /opt/kvfs/_native.so
fn=(1) answer
10 300
+2 20
* 5
cob=(2) /usr/lib/libc.so.6
cfn=(2) memcpy
calls=7 0
-1 9000
12 1
ob=(2)
fn=(2)
0 9000
totals: 9326
"""


def test_instructions_are_added_by_library_and_calls_are_not() -> None:
    assert by_object(_DUMP) == {"_native.so": 326, "libc.so.6": 9000}


def test_a_mount_without_its_rings_is_refused(tmp_path: Path) -> None:
    ring = Kvfs("ring", Path("/bin/false"), tmp_path, 1 << 30, ["--data-path", "native", "--request-loop", "uring"])
    assert ring.is_native
    ring._check_loop({"components": {"splitter": {"loop": {"kind": "uring"}}}})
    with pytest.raises(BenchError, match="expected requests to come by rings, found clones"):
        ring._check_loop({"components": {"splitter": {"loop": {"kind": "clones"}}}})
    Kvfs("plain", Path("/bin/false"), tmp_path, 1 << 30)._check_loop({})
