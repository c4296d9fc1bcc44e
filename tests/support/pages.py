"""Pages that prove themselves: every byte follows from name, version and size, all told in the header."""

import hashlib
import struct

_HEADER = struct.Struct("<8s32sQQ")  # magic, name, version, size of the whole page
_MAGIC = b"kvpage01"
MIN_SIZE = _HEADER.size


def make_page(name: str, version: int, size: int) -> bytes:
    header = _HEADER.pack(_MAGIC, name.encode(), version, size)
    return header + hashlib.shake_128(header).digest(size - len(header))


def page_version(name: str, data: bytes) -> int:
    """The version of a whole page of that name; AssertionError naming what is wrong with one that is not."""
    assert len(data) >= _HEADER.size, f"{name}: {len(data)} bytes are no page"
    magic, found_name, version, size = _HEADER.unpack_from(data)
    assert magic == _MAGIC, f"{name}: header is {data[:16].hex()}"
    assert found_name.rstrip(b"\0").decode() == name, f"{name}: holds a page named {found_name!r}"
    assert len(data) == size, f"{name} version {version}: {len(data)} of {size} bytes"
    expected = make_page(name, version, size)
    if data != expected:
        wrong = next(index for index in range(size) if data[index] != expected[index])
        raise AssertionError(
            f"{name} version {version}: torn at {wrong} of {size}, "
            f"expected {expected[wrong : wrong + 16].hex()}, found {data[wrong : wrong + 16].hex()}"
        )
    return int(version)
