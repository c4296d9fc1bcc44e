"""What reads words and bytes that others chose, in Python: each target takes any bytes, and raises nothing.

``run_atheris.py`` feeds them to atheris, ``test_corpus.py`` what was found before. A control input that is not what it
should be has to be refused with the error that its reader documents; any other exception is a finding.
"""

import errno
import json
from collections.abc import Callable

from kvfs import errors, units
from kvfs.cli import options
from kvfs.fs import admin
from kvfs.store import format as disk


def size(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    try:
        count = units.parse_size(text)
    except errors.UsageError as error:
        _is_one_line(error)
        return
    assert 0 < count < 1 << 63
    assert units.parse_size(str(count)) == count
    units.format_size(count)


def mount_options(data: bytes) -> None:
    sloppy, text = data[:1] == b"s", data[1:].decode(errors="surrogateescape")
    try:
        found = options.parse_options([text], sloppy=sloppy)
    except errors.UsageError as error:
        _is_one_line(error)
        return
    asked = found.settings.size
    assert asked is None or 0 < asked < 1 << 63
    # what goes on to libfuse, as words of its own, is nothing but what it is known to take
    assert set(found.extra) <= {"nosuid", "nodev", "noexec", "exec", "noatime", "sync", "dirsync"}


def disk_format(data: bytes) -> None:
    if not data:
        return
    kind, body = data[0] % 5, data[1:]
    try:
        if kind == 0:
            disk.Superblock.parse(_sealed(disk.SUPERBLOCK_MAGIC, body, disk.BLOCK, 12))
        elif kind == 1:
            disk.SegmentHeader.parse(_sealed(disk.SEGMENT_MAGIC, body, disk.BLOCK, 12))
        elif kind == 2:
            frame = disk.Frame.parse(_sealed(disk.FRAME_MAGIC.to_bytes(4, "little"), body, len(body) + 4, 4))
            list(frame.records())
        elif kind == 4:
            disk.HostMark.parse(_sealed(disk.HOST_MARK_MAGIC, body, disk.BLOCK, 12))
        else:
            records = list(disk.parse_records(body))
            again = b"".join(map(disk.pack_record, records))
            assert list(disk.parse_records(again)) == records
    except disk.FormatError:
        pass


class _Limit(admin.Command, frozen=True):
    """Arguments of the kinds that commands have."""

    path: str
    bytes: int | None = None
    deadline: float = 0.0
    names: list[str] = []  # noqa: RUF012 - msgspec copies it
    force: bool = False


async def _nothing(_: object) -> None: ...


def admin_command(data: bytes) -> None:
    file = admin.AdminFile()
    file.add("sync", admin.Command, _nothing)
    file.add("limit", _Limit, _nothing)
    try:
        command, _ = file.parse(data)
    except ValueError as error:
        # as the handle answers it
        answer = json.loads(admin._failure(str(error), errno.EINVAL))
        assert answer["errno"] == errno.EINVAL
        assert answer["error"].isprintable()
        return
    assert command.command in ("sync", "limit")


def what_a_device_says(data: bytes) -> None:
    """A store's owner is JSON out of its superblock, and part of what is said when it is in use."""
    text = "store: in use by " + data.decode(errors="replace")
    for code in (errno.EBUSY, errno.EIO, 0):
        _is_one_line(errors.from_oserror(OSError(code, text), "/store"))


def _is_one_line(error: errors.KvfsError) -> None:
    assert str(error).isprintable(), repr(str(error))


def _sealed(magic: bytes, body: bytes, length: int, crc_at: int) -> bytes:
    """``body`` behind ``magic``, as long as the structure is, with the checksum that it should have."""
    block = bytearray((magic + body)[:length].ljust(length, b"\0"))
    if len(block) < crc_at + 4:
        return bytes(block)
    end = length
    if magic == disk.FRAME_MAGIC.to_bytes(4, "little") and len(block) >= 64:
        block[8:12] = (len(block) - 64).to_bytes(4, "little")
    block[crc_at : crc_at + 4] = bytes(4)
    block[crc_at : crc_at + 4] = disk.crc32c(block[:end]).to_bytes(4, "little")
    return bytes(block)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "size": size,
    "options": mount_options,
    "format": disk_format,
    "admin": admin_command,
    "errors": what_a_device_says,
}
