"""Clients against a plain directory: each file once, checked answers, failures that come home."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchlib.pattern import WrongBytes
from benchlib.system import BenchError
from benchlib.workers import run_together
from benchlib.workloads import FileSet, PublishFiles, ReadFiles, Share, TouchPages

_FILES = FileSet(first_id=100, count=10, size=64 * 1024)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    share = Share(_FILES.count)
    measured = run_together([PublishFiles(tmp_path, _FILES, share, direct=False, durable=True)] * 3)
    assert measured.units == _FILES.bytes
    assert measured.latency.samples == _FILES.count
    assert sorted(os.listdir(tmp_path)) == sorted(Path(path).name for path in _FILES.paths_in(tmp_path))
    return tmp_path


def _read(directory: Path, passes: int = 1, check_all: bool = True) -> ReadFiles:
    share = Share(_FILES.count * passes)
    return ReadFiles(directory, _FILES, share, request=24 * 1024, direct=False, check_all=check_all)


def test_all_files_are_read_once_per_pass(pages: Path) -> None:
    measured = run_together([_read(pages, passes=2)] * 3)
    assert measured.units == 2 * _FILES.bytes
    assert measured.latency.samples == 2 * _FILES.count * 3  # 64 KiB by requests of 24 KiB
    assert measured.seconds > 0
    assert measured.rate == measured.units / measured.seconds


@pytest.mark.parametrize("check_all", [False, True])
def test_a_stale_file_is_noticed(pages: Path, check_all: bool) -> None:
    first, second = _FILES.paths_in(pages)[:2]
    shutil.copyfile(first, second)
    with pytest.raises(WrongBytes, match="expected file 101, block 0, found file 100, block 0"):
        run_together([_read(pages, check_all=check_all)])


def test_a_short_file_is_noticed(pages: Path) -> None:
    os.truncate(_FILES.paths_in(pages)[3], 40 * 1024)
    with pytest.raises(WrongBytes, match="short"):
        run_together([_read(pages)] * 2)


def test_a_missing_file_is_an_error_of_the_run(pages: Path) -> None:
    missing = _FILES.paths_in(pages)[9]
    os.unlink(missing)
    with pytest.raises(FileNotFoundError) as caught:
        run_together([_read(pages)] * 2)
    assert caught.value.filename == missing


def test_every_page_of_a_mapping_is_touched(pages: Path) -> None:
    measured = run_together([TouchPages(pages, _FILES, Share(_FILES.count * 2))] * 3)
    assert measured.units == 2 * _FILES.bytes
    assert measured.latency.samples == 2 * _FILES.count


def test_a_stale_page_of_a_mapping_is_noticed(pages: Path) -> None:
    with open(_FILES.paths_in(pages)[4], "r+b") as file:
        file.seek(7 * 4096)
        file.write(bytes(8))
    with pytest.raises(WrongBytes, match="expected file 104, block 7, found 0x0000000000000000"):
        run_together([TouchPages(pages, _FILES, Share(_FILES.count))])


@dataclass
class _Dies:
    number: int

    def prepare(self) -> None:
        pass

    def run(self, samples: list[int]) -> int:
        os.kill(os.getpid(), self.number)
        return 0


@dataclass
class _Waits:
    def prepare(self) -> None:
        pass

    def run(self, samples: list[int]) -> int:
        signal.pause()
        return 0


def test_a_client_that_dies_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="ended without an answer"):
        run_together([_Dies(signal.SIGKILL), _Waits()])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nobody is left behind


def test_a_client_that_hangs_ends_the_run() -> None:
    with pytest.raises(BenchError, match="no answer in time"):
        run_together([_Waits()], patience=0.2)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
