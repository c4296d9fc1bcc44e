"""Where physical space is read from: each source's parser, on constructed pages and on noise, and on a real file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nvme_pages import GIB, additional_smart, capacity_information, extended_health, namespace, nvm_sets

from kvfs.fabric.physical import Reading, choose_source
from kvfs.fabric.physical_agent import PublishedSource, parse_published, publish
from kvfs.fabric.physical_file import FileSource, reading_of
from kvfs.fabric.physical_nvme import ThinSource, parse_namespace, parse_nvm_set_unallocated, thin_reading
from kvfs.fabric.physical_scaleflux import ScaleFluxSource, parse_capacity, parse_health, parse_smart

TIB = 1024 * GIB


def test_scaleflux_by_command() -> None:
    assert parse_capacity(capacity_information(4 * TIB, TIB)) == Reading(4 * TIB, TIB, rewrites_in_place=False)
    assert parse_capacity(capacity_information(4 * TIB, 5 * TIB)).free == 0  # more than there is: none


def test_scaleflux_by_log_pages() -> None:
    assert parse_health(extended_health(4 * TIB, TIB)) == Reading(4 * TIB, TIB, rewrites_in_place=False)
    assert parse_smart(additional_smart(75), 8 * TIB).free * 100 // (8 * TIB) in (24, 25)
    assert parse_smart(additional_smart(75, out_of_space=True), 8 * TIB).free == 0


def test_scaleflux_takes_the_first_way_that_works() -> None:
    asked: list[tuple[int, int]] = []

    def send(opcode: int, namespace: int, cdw10: int, cdw11: int, size: int) -> bytes:
        asked.append((opcode, cdw10 & 0xFF))
        if opcode == 0xD3:
            raise OSError(5, "invalid opcode")
        return additional_smart(90) if cdw10 & 0xFF == 0xCA else bytes(size)

    reading = ScaleFluxSource("drive", send, TIB).read()
    assert asked == [(0xD3, 0), (0x02, 0xC2), (0x02, 0xCA)]
    assert reading.total == TIB
    assert reading.free == TIB // 100 * 10


def test_thin_namespace() -> None:
    thin = parse_namespace(namespace(1000, 600, 500))
    assert (thin.size, thin.capacity, thin.used, thin.is_thin, thin.block_bytes) == (1000, 600, 500, True, 4096)
    assert thin_reading(thin, None) == Reading(600 * 4096, 100 * 4096, rewrites_in_place=True)
    assert thin_reading(thin, 50 * 4096) == Reading(550 * 4096, 50 * 4096, rewrites_in_place=True)
    assert thin_reading(parse_namespace(namespace(1000, 1000, 500)), None) is None  # all of it may be allocated
    assert thin_reading(parse_namespace(namespace(1000, 600, 500, thin=False)), None) is None
    assert parse_namespace(namespace(8, 8, 8, shift=9, index=17)).block_bytes == 512


def test_thin_namespace_in_an_nvm_set() -> None:
    sets = nvm_sets((1, TIB, 7), (2, TIB, 50 * 4096))
    assert parse_nvm_set_unallocated(sets, 2) == 50 * 4096
    assert parse_nvm_set_unallocated(sets, 3) is None

    def send(opcode: int, number: int, cdw10: int, cdw11: int, size: int) -> bytes:
        assert opcode == 6
        return sets if cdw10 == 4 else namespace(1000, 600, 500, nvm_set=2)

    assert ThinSource("namespace", send, 1).read() == Reading(550 * 4096, 50 * 4096, rewrites_in_place=True)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (parse_capacity, b"\0" * 47),
        (parse_capacity, b"\0" * 48),
        (parse_health, b"\0" * 99),
        (lambda data: parse_smart(data, TIB), additional_smart(101)),
        (parse_namespace, namespace(10, 20, 5)),
        (parse_namespace, namespace(10, 10, 11)),
        (parse_namespace, namespace(10, 10, 10, shift=40)),
        (lambda data: parse_nvm_set_unallocated(data, 1), b"\xff" * 4096),
        (lambda data: parse_published(data, 0), b"{}"),
        (lambda data: parse_published(data, 0), b"\xff"),
    ],
)
def test_nonsense_is_refused_in_one_line(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^expected [^\n]*$"):
        parse(data)


@given(st.binary(max_size=5000), st.sampled_from(range(6)))
def test_noise_never_breaks_a_parser(data: bytes, which: int) -> None:
    parsers: list[Callable[[bytes], object]] = [
        parse_capacity,
        parse_health,
        lambda page: parse_smart(page, TIB),
        lambda page: thin_reading(parse_namespace(page), None),
        lambda page: parse_nvm_set_unallocated(page, 1),
        lambda page: parse_published(page, 0),
    ]
    try:
        found = parsers[which](data)
    except ValueError:
        return
    if isinstance(found, Reading):
        assert 0 <= found.free <= found.total


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_file_reading_makes_sense(size: int, allocated: int, available: int) -> None:
    reading = reading_of(size, allocated, available)
    if reading is None:
        assert available >= size - allocated
    else:
        assert 0 <= reading.free <= reading.total < size


def test_file_source_on_a_real_file_system(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    store = tmp_path / "store"
    with store.open("wb") as file:
        file.truncate(1 << 20)
    assert FileSource(store).read() is None
    with store.open("wb") as file:
        file.truncate(2 * space.f_blocks * space.f_frsize)
        file.write(b"x" * (1 << 20))
    source = choose_source(store)
    assert isinstance(source, FileSource)
    reading = source.read()
    assert reading is not None
    assert reading.rewrites_in_place
    assert reading.total >= reading.free + (1 << 20)


def test_published_reading_counts_for_its_time_only(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    now = time.time()
    source = PublishedSource(path, lambda: now)
    assert source.read() is None  # no news: ratio 1.0
    reading = Reading(4 * TIB, TIB, rewrites_in_place=False)
    publish(path, reading, "drive", valid_seconds=30)
    assert source.read() == reading
    now += 29
    assert source.read() == reading
    now += 5
    assert source.read() is None
    assert os.listdir(tmp_path) == ["space.json"]
