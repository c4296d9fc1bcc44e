"""fio's part: its JSON, its errors, and the place in the store's file that it is sent to."""

import json
import shutil
from pathlib import Path

import pytest
from benchlib import pattern
from benchlib.fio import FioJob, parse, run_fio
from benchlib.storemap import longest_range
from benchlib.system import BenchError
from benchlib.workloads import supports_direct

_MIB = 1 << 20


def _output(**changes: object) -> str:
    """The fields that are read, as fio 3.33 names them."""
    read = {"io_bytes": 4096, "runtime": 2000, "lat_ns": {"bins": {"3000": 1, "1000": 2}}}
    job = {"error": 0, "usr_cpu": 10.0, "sys_cpu": 30.0, "job_runtime": 2500, "read": read, **changes}
    return "note: both iodepth >= 1 and synchronous I/O engine are selected\n" + json.dumps({"jobs": [job]})


def test_parse() -> None:
    measured = parse(_output(), "read")
    assert (measured.seconds, measured.units) == (2.0, 4096)
    assert measured.client_cpu == pytest.approx(1.0)
    assert measured.latency.ns.tolist() == [1000, 3000]
    assert measured.latency.counts.tolist() == [2, 1]


def test_parse_refuses_what_is_no_result() -> None:
    with pytest.raises(BenchError, match="expected JSON"):
        parse("fio: command not found", "read")
    with pytest.raises(BenchError, match="errno 5"):
        parse(_output(error=5), "read")
    with pytest.raises(BenchError, match="moved none"):
        parse(_output(read={"io_bytes": 0, "runtime": 1, "lat_ns": {"bins": {}}}), "read")


@pytest.mark.skipif(shutil.which("fio") is None, reason="NOT TESTED: needs fio")
def test_fio_itself(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * _MIB))
    for mode in ("read", "write"):
        job = FioJob((path,), mode, 64 * 1024, _MIB, _MIB, engine="psync", direct=False, loops=2)
        measured = run_fio(job)
        assert measured.units == 2 * _MIB
        assert measured.latency.samples == 32
    with pytest.raises(BenchError, match=r"fio: expected 2097152 bytes to read, it did 1048576|exit status"):
        run_fio(FioJob((path,), "read", 64 * 1024, _MIB, 2 * _MIB, engine="psync", direct=False))
    with pytest.raises(BenchError, match="exit status"):
        run_fio(FioJob((tmp_path / "absent",), "read", 4096, 0, _MIB, engine="psync", direct=False))


@pytest.mark.skipif(shutil.which("fio") is None, reason="NOT TESTED: needs fio")
def test_fio_at_random(tmp_path: Path) -> None:
    paths = tuple(tmp_path / name for name in ("a", "b:c"))  # fio separates names by colons
    for path in paths:
        path.write_bytes(bytes(_MIB))
    measured = run_fio(FioJob(paths, "randread", 4096, size=4 * _MIB, engine="psync", direct=False))
    assert measured.units == 4 * _MIB  # more than there is: places come again
    assert measured.latency.samples == 1024
    measured = run_fio(FioJob(paths, "randread", 4096, jobs=2, engine="psync", direct=False, seconds=0.1))
    assert measured.units == 4096 * measured.latency.samples > 0


def _store(path: Path, pages: list[tuple[int, int]], zeros: list[tuple[int, int]]) -> Path:
    """A sparse file of 200 MiB with stamped pages, and zeros that were written, in these ranges of MiB."""
    with path.open("wb") as file:
        file.truncate(200 * _MIB)
        for begin, end in zeros:
            file.seek(begin * _MIB)
            file.write(bytes((end - begin) * _MIB))
        for begin, end in pages:
            content = pattern.as_blocks(bytearray((end - begin) * _MIB))
            pattern.fill(content)
            pattern.mark(content, begin)
            file.seek(begin * _MIB)
            file.write(content.tobytes())
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if not supports_direct(tmp_path):
        pytest.skip("NOT TESTED: needs O_DIRECT in the temporary directory")
    return tmp_path


def test_pages_are_found_and_holes_are_not(disk: Path) -> None:
    store = _store(disk / "store", pages=[(3, 5), (100, 104)], zeros=[(0, 3)])
    assert longest_range(store, 1 << 40) == (100 * _MIB, 4 * _MIB)
    assert longest_range(store, 2 * _MIB + 4096) == (100 * _MIB, 2 * _MIB)


def test_written_bytes_between_pages_do_not_end_a_range(disk: Path) -> None:
    store = _store(disk / "store", pages=[(3, 5), (8, 10)], zeros=[(5, 8)])
    assert longest_range(store, 1 << 40) == (3 * _MIB, 7 * _MIB)


def test_a_store_without_pages_is_an_error(disk: Path) -> None:
    with pytest.raises(BenchError, match="found none"):
        longest_range(_store(disk / "store", pages=[], zeros=[(0, 4)]), _MIB)
