"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.errors import UsageError
from kvfs.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("4096B", 4096),
        ("64G", 64 << 30),
        ("64g", 64 << 30),
        ("64GiB", 64 << 30),
        ("64GB", 64 * 10**9),
        ("1.5T", 3 << 39),
        (" 2 TB ", 2 * 10**12),
        (".5K", 512),
        ("0.1K", 102),
        ("7P", 7 << 50),
        ("8191P", 8191 << 50),
    ],
)
def test_size_means_what_a_person_means(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "x", "-1G", "1.2.3G", "64Gi", "64X", "1e9", "0", "0.1", "0G", "8192P", "1 2", "٣G", "nan", "64G\n5"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="64G") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@given(st.integers(1, (1 << 63) - 1))
def test_plain_bytes_come_back_exactly(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.integers(1, (1 << 63) - 1))
def test_a_printed_size_is_within_a_percent(size: int) -> None:
    number, unit = format_size(size).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert float(number) * factor == pytest.approx(size, rel=0.01)
    assert float(number) < 1024


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (64 << 30, "64 GiB"),
        (3 << 29, "1.50 GiB"),
        (123 << 17, "15.4 MiB"),
    ],
)
def test_sizes_are_printed_short(size: int, text: str) -> None:
    assert format_size(size) == text
