"""create, info, fsck and open_or_create: typos do not destroy, and what fails leaves nothing behind."""

import errno
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client import BLOCK, MIB, ROOT, make_volume, opened_volume
from loop import loop_device, run

from kvfs import _native
from kvfs.errors import (
    ForeignData,
    KvfsError,
    NoSpace,
    NotAVolume,
    UsageError,
    VolumeCorrupt,
    VolumeError,
    VolumeInUse,
    VolumeReadOnly,
    VolumeTooNew,
    VolumeTooSmall,
)
from kvfs.store import format as kvfs1
from kvfs.store import signatures
from kvfs.store import volume as volumes

SIZE = 32 * MIB


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def refused(kind: type[KvfsError], action: Any, *words: str) -> str:
    """The message of the error that ``action`` raises; it is one line and has these words."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


class TestCreate:
    def test_a_file_that_is_absent(self, tmp_path: Path) -> None:
        path = tmp_path / "new.kvfs"
        info = volumes.create(path, SIZE, label="my pages")
        assert path.stat().st_size == SIZE
        assert path.stat().st_blocks * 512 < MIB, "sparse"
        assert path.stat().st_mode & 0o777 == 0o600, "pages are nobody else's to read"
        assert info == volumes.info(path)
        assert (info.kind, info.size, info.device_size, info.label) == ("file", SIZE, SIZE, "my pages")
        assert (info.epoch, info.clean, info.owner) == (0, True, {})
        assert [copy.valid for copy in info.superblocks] == [True] * 3
        with opened_volume(path) as client:
            client.create(ROOT, b"file", b"data")

    @pytest.mark.parametrize("size", [0, 5000, SIZE])
    def test_a_file_that_holds_nothing(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "empty"
        path.write_bytes(bytes(size))
        path.chmod(0o640)
        assert volumes.create(path, SIZE).size == SIZE
        assert path.stat().st_size == SIZE
        assert path.stat().st_mode & 0o777 == 0o640

    def test_a_file_that_is_longer_than_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "long"
        path.touch()
        os.truncate(path, 2 * SIZE)
        assert volumes.create(path, SIZE).device_size == SIZE

    def test_a_size_that_is_no_multiple_of_a_block(self, tmp_path: Path) -> None:
        assert volumes.create(tmp_path / "odd", SIZE + 1234).size == SIZE

    def test_without_a_size(self, tmp_path: Path) -> None:
        refused(UsageError, lambda: volumes.create(tmp_path / "new"), "no size", "--size")
        (tmp_path / "empty").touch()
        refused(UsageError, lambda: volumes.create(tmp_path / "empty"), "no size", "--size")
        assert os.listdir(tmp_path) == ["empty"]
        os.truncate(tmp_path / "empty", SIZE)
        assert volumes.create(tmp_path / "empty").size == SIZE

    def test_segment_size(self, tmp_path: Path) -> None:
        assert volumes.create(tmp_path / "new", 64 * MIB, segment_size=4 * MIB).segment_size == 4 * MIB
        for bad in (3 * MIB, 512 * 1024, 512 * MIB, 1, -MIB):
            refused(UsageError, lambda bad=bad: volumes.create(tmp_path / "x", SIZE, segment_size=bad), "power of two")
        refused(
            VolumeTooSmall, lambda: volumes.create(tmp_path / "x", SIZE, segment_size=16 * MIB), "expected", "found"
        )
        assert os.listdir(tmp_path) == ["new"]

    @pytest.mark.parametrize("label", ["x" * 64, "é" * 32, "a\nb", "a\0b"])
    def test_labels_that_cannot_be(self, tmp_path: Path, label: str) -> None:
        refused(UsageError, lambda: volumes.create(tmp_path / "x", SIZE, label=label), "label")
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("label", ["x" * 63, "é" * 31, "KV pages, rack 7"])
    def test_labels_that_can(self, tmp_path: Path, label: str) -> None:
        assert volumes.create(tmp_path / "x", SIZE, label=label).label == label

    @pytest.mark.parametrize("size", [1, MIB, 13 * MIB + BLOCK - 1])
    def test_too_small(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "small"
        refused(VolumeTooSmall, lambda: volumes.create(path, size), str(13 * MIB + BLOCK), f"found {size} bytes")
        assert not path.exists()
        path.touch()
        refused(VolumeTooSmall, lambda: volumes.create(path, size), str(13 * MIB + BLOCK))
        assert path.stat().st_size == 0

    def test_the_smallest(self, tmp_path: Path) -> None:
        assert volumes.create(tmp_path / "small", 13 * MIB + BLOCK).segments == 12

    def test_more_than_is_free(self, tmp_path: Path) -> None:
        space = os.statvfs(tmp_path)
        free = space.f_bavail * space.f_frsize
        path = tmp_path / "large"
        refused(NoSpace, lambda: volumes.create(path, free + (1 << 40)), "free on its file system", "--size")
        assert not path.exists()
        path.touch()
        refused(NoSpace, lambda: volumes.create(path, free + (1 << 40)), "free on its file system")
        assert path.stat().st_size == 0

    @pytest.mark.parametrize("existing", [None, 0, 20 * MIB])
    def test_nothing_is_left_when_formatting_fails(
        self, tmp_path: Path, existing: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        path = tmp_path / "new"
        if existing is not None:
            path.touch()
            os.truncate(path, existing)
        monkeypatch.setattr(_native, "format_store", fail)
        refused(VolumeError, lambda: volumes.create(path, SIZE), str(path))
        assert path.exists() == (existing is not None)
        if existing is not None:
            assert path.stat().st_size == existing

    def test_paths_that_lead_nowhere(self, tmp_path: Path) -> None:
        refused(VolumeError, lambda: volumes.create(tmp_path / "no" / "store", SIZE), "expected a directory at")
        (tmp_path / "link").symlink_to(tmp_path / "nothing")
        refused(VolumeError, lambda: volumes.create(tmp_path / "link", SIZE), "symbolic link to nothing")
        refused(VolumeError, lambda: volumes.create("/dev/no-such-disk", SIZE), "no such device")
        assert not Path("/dev/no-such-disk").exists()

    def test_a_symlink_to_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to(tmp_path / "file")
        volumes.create(tmp_path / "link", SIZE)
        assert (tmp_path / "file").stat().st_size == SIZE
        assert (tmp_path / "link").is_symlink()

    def test_what_is_neither_file_nor_device(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        server = socket.socket(socket.AF_UNIX)
        server.bind(os.fspath(tmp_path / "socket"))
        server.close()
        for path, name in [(tmp_path, "directory"), (tmp_path / "fifo", "FIFO"), (tmp_path / "socket", "socket"),
                           (Path("/dev/null"), "character device")]:  # fmt: skip
            for action in (
                lambda path=path: volumes.create(path, SIZE),
                lambda path=path: volumes.create(path, SIZE, force=os.fspath(path)),
                lambda path=path: volumes.open_or_create(path, SIZE),
                lambda path=path: volumes.info(path),
                lambda path=path: volumes.fsck(path),
            ):
                refused(VolumeError, action, "expected a regular file or a block device", name)

    def test_a_mounted_volume(self, volume: Path) -> None:
        with opened_volume(volume, owner='{"pid": 4711, "mountpoint": "/mnt/kv"}'):
            for force in (None, os.fspath(volume)):
                refused(VolumeInUse, lambda force=force: volumes.create(volume, force=force), "4711", "/mnt/kv")


class TestForce:
    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        path = tmp_path / "thesis.txt"
        path.write_text("precious\n" * 1000)
        return path

    @pytest.fixture
    def ext4(self, tmp_path: Path) -> Path:
        path = tmp_path / "disk.img"
        path.touch()
        os.truncate(path, 64 * MIB)
        run("mkfs.ext4", "-q", path)
        return path

    @pytest.mark.parametrize("holder", ["text", "ext4", "volume"])
    def test_what_holds_anything_is_refused(self, holder: str, request: pytest.FixtureRequest) -> None:
        path: Path = request.getfixturevalue(holder)
        before = path.read_bytes()
        words = {"text": "unknown kind", "ext4": "ext4", "volume": "kvfs volume (uuid"}
        text = refused(ForeignData, lambda: volumes.create(path, 20 * MIB), words[holder], f"--force {path}")
        assert str(path) in text
        for other in ("", "yes", str(path) + "x", path.name):
            refused(UsageError, lambda other=other: volumes.create(path, 20 * MIB, force=other), f"found {other!r}")
        assert path.read_bytes() == before
        created = volumes.create(path, 20 * MIB, force=os.fspath(path))
        assert created.device_size == 20 * MIB
        assert path.stat().st_blocks * 512 < MIB, "the old data's space is free"
        assert "kvfs" in signatures.probe(path).description

    def test_a_geometry_that_cannot_be_destroys_nothing(self, ext4: Path) -> None:
        before = ext4.read_bytes()
        for options in ({"segment_size": 8 * MIB}, {"size": MIB}, {"size": 1 << 50}):
            with pytest.raises(VolumeError):
                volumes.create(ext4, **options, force=os.fspath(ext4))
        assert ext4.read_bytes() == before

    def test_force_for_another_is_refused_even_when_it_is_not_needed(self, tmp_path: Path) -> None:
        refused(UsageError, lambda: volumes.create(tmp_path / "new", SIZE, force="/dev/sda"), "--force")
        assert os.listdir(tmp_path) == []

    def test_a_smaller_volume_is_not_taken_for_the_old_one(self, tmp_path: Path) -> None:
        path = make_volume(tmp_path / "store", 64 * MIB)
        for _ in range(3):
            with opened_volume(path) as client:
                client.create(ROOT, b"old %d" % client.used_blocks(), b"data")
        created = volumes.create(path, SIZE, force=os.fspath(path))
        assert created.epoch == 0
        with opened_volume(path) as client:
            assert client.names() == []


class TestInfo:
    def test_what_it_says(self, volume: Path) -> None:
        owner = {"pid": 1, "mountpoint": "/mnt/kv"}
        with opened_volume(volume, owner=msgspec.json.encode(owner).decode()):
            mounted = volumes.info(volume)
        assert (mounted.clean, mounted.owner, mounted.epoch) == (False, owner, 1)
        closed = volumes.info(volume)
        assert (closed.clean, closed.owner, closed.epoch) == (True, owner, 1)
        assert closed.format_version == 1
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", closed.uuid)
        assert msgspec.json.decode(msgspec.json.encode(closed), type=volumes.VolumeInfo) == closed

    def test_an_owner_that_is_no_json(self, volume: Path) -> None:
        with opened_volume(volume, owner="just words"):
            pass
        assert volumes.info(volume).owner == {"text": "just words"}

    def test_a_damaged_copy_is_named(self, volume: Path) -> None:
        put(volume, 64 * 1024 + 100, b"damage")
        [a, b, end] = volumes.info(volume).superblocks
        assert (a.valid, a.problem, end.valid) == (True, None, True)
        assert not b.valid
        assert b.problem is not None
        assert re.search(r"expected crc32c \w+, found \w+", b.problem)

    def test_all_copies_are_damaged(self, volume: Path) -> None:
        for offset in kvfs1.superblock_offsets(SIZE).values():
            put(volume, offset + 100, b"damage")
        for action in (
            lambda: volumes.info(volume),
            lambda: volumes.fsck(volume),
            lambda: volumes.open_or_create(volume),
        ):
            text = refused(VolumeCorrupt, action, "superblock A", "expected crc32c", "found", str(volume))
            assert text.count(str(volume)) == 1

    def test_a_newer_one(self, volume: Path) -> None:
        image = volume.read_bytes()
        for offset in kvfs1.superblock_offsets(SIZE).values():
            put(volume, offset, replace(kvfs1.Superblock.parse(image[offset:][:BLOCK]), version=7).pack())
        before = volume.read_bytes()
        for action in (
            lambda: volumes.info(volume),
            lambda: volumes.fsck(volume),
            lambda: volumes.open_or_create(volume),
        ):
            refused(VolumeTooNew, action, "expected format version 1", "found 7", "newer kvfs")
        refused(ForeignData, lambda: volumes.create(volume, SIZE), "newer")
        assert volume.read_bytes() == before

    @pytest.mark.parametrize("size", [SIZE - BLOCK, 5 * MIB, BLOCK])
    def test_a_truncated_one(self, volume: Path, size: int) -> None:
        os.truncate(volume, size)
        for action in (
            lambda: volumes.info(volume),
            lambda: volumes.fsck(volume),
            lambda: volumes.open_or_create(volume),
        ):
            refused(VolumeCorrupt, action, "truncated", f"expected {SIZE}", f"found {size}")
        refused(ForeignData, lambda: volumes.create(volume, SIZE), "kvfs volume")
        assert volume.stat().st_size == size

    def test_what_is_not_a_volume(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        for action in (lambda: volumes.info(path), lambda: volumes.fsck(path)):
            refused(VolumeError, action, "no such file")
        path.write_text("text")
        for action in (lambda: volumes.info(path), lambda: volumes.fsck(path), lambda: volumes.open_or_create(path)):
            refused(NotAVolume, action, "expected a kvfs volume", "unknown kind", "kvfsctl format")
        assert path.read_text() == "text"


class TestFsck:
    def test_a_good_one(self, volume: Path) -> None:
        with opened_volume(volume) as client:
            client.store.mkdir(ROOT, b"dir", 0o755, 0, 0)
            client.create(ROOT, b"file", bytes(range(256)) * 1000)
        seen: list[tuple[int, int]] = []
        report = volumes.fsck(volume, lambda done, total: seen.append((done, total)))
        assert (report.files, report.directories, report.bytes) == (1, 2, 256_000)
        assert report.clean
        assert report.closed_in_order
        assert (report.problems, report.problem_count) == ((), 0)
        assert seen
        assert msgspec.json.decode(msgspec.json.encode(report), type=volumes.FsckReport) == report

    def test_a_crashed_one_is_clean_too(self, volume: Path) -> None:
        copy = volume.with_name("crashed")
        with opened_volume(volume) as client:
            client.create(ROOT, b"file", b"data", durable=True)
            copy.write_bytes(volume.read_bytes())
        report = volumes.fsck(copy)
        assert report.clean
        assert not report.closed_in_order
        assert report.files == 1

    def test_a_bad_one(self, volume: Path) -> None:
        data = os.urandom(100_000)
        with opened_volume(volume) as client:
            client.create(ROOT, b"page.kv", data)
        put(volume, volume.read_bytes().index(data[:BLOCK]) + 50, b"damage")
        report = volumes.fsck(volume)
        assert not report.clean
        [problem] = report.problems
        assert "page.kv" in problem.where
        assert volumes.fsck(volume, verify_data=False).clean

    def test_a_mounted_one(self, volume: Path) -> None:
        with opened_volume(volume, owner='{"pid": 4711}'):
            refused(VolumeInUse, lambda: volumes.fsck(volume), "4711")


class TestOpenOrCreate:
    def test_absent(self, tmp_path: Path) -> None:
        path = tmp_path / "new"
        made = volumes.open_or_create(path, SIZE)
        assert made.size == SIZE
        assert volumes.open_or_create(path, SIZE) == made
        assert volumes.open_or_create(path) == made

    @pytest.mark.parametrize("size", [0, 20 * MIB])
    def test_present_and_empty(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "empty"
        path.touch()
        os.truncate(path, size)
        assert volumes.open_or_create(path, SIZE if size == 0 else None).size == (size or SIZE)

    def test_another_size_than_it_has(self, volume: Path) -> None:
        before = volume.read_bytes()
        refused(VolumeError, lambda: volumes.open_or_create(volume, 2 * SIZE), str(2 * SIZE), f"found one of {SIZE}")
        assert volume.read_bytes() == before
        assert volumes.open_or_create(volume, SIZE + 100).size == SIZE

    def test_the_default_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its directory is made, and goes again when the store cannot be made."""
        path = tmp_path / "data" / "kvfs" / "default.kvfs"
        monkeypatch.setattr(volumes.paths, "default_store", lambda: path)
        assert volumes.default_path() == path
        refused(VolumeTooSmall, lambda: volumes.open_or_create(path, MIB))
        assert os.listdir(tmp_path) == []
        free = volumes._free_bytes(tmp_path)
        monkeypatch.setattr(volumes, "_free_bytes", lambda _path: free)  # others use the file system meanwhile
        made = volumes.open_or_create(volumes.default_path())
        assert made.size % MIB == 0
        assert 13 * MIB < made.size <= (free + 4 * MIB) // 2
        assert path.stat().st_blocks * 512 < 8 * MIB

    def test_default_size_where_there_is_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(volumes, "_free_bytes", lambda _path: 26 * MIB)
        refused(NoSpace, lambda: volumes.default_size(tmp_path), "26 MiB free")
        monkeypatch.setattr(volumes, "_free_bytes", lambda _path: 29 * MIB)
        assert volumes.default_size(tmp_path / "not" / "yet") == 14 * MIB


@pytest.mark.root
class TestDevices:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Path:
        path = tmp_path / "disk.img"
        path.touch()
        os.truncate(path, 64 * MIB)
        return path

    def test_an_empty_device(self, disk: Path) -> None:
        with loop_device(disk) as device:
            refused(NotAVolume, lambda: volumes.open_or_create(device), "found nothing", f"kvfsctl format {device}")
            info = volumes.create(device)
            assert (info.kind, info.size, info.device_size) == ("device", 64 * MIB, 64 * MIB)
            with opened_volume(device) as client:
                client.create(ROOT, b"file", b"data")
                refused(VolumeInUse, lambda: volumes.create(device, force=os.fspath(device)), "expected")
            assert volumes.fsck(device).files == 1
            assert volumes.open_or_create(device).uuid == info.uuid

    def test_part_of_a_device(self, disk: Path) -> None:
        with loop_device(disk) as device:
            refused(VolumeError, lambda: volumes.create(device, 65 * MIB), "at least", f"found {64 * MIB} bytes")
            assert volumes.create(device, SIZE).size == SIZE
            with opened_volume(device) as client:
                client.create(ROOT, b"file", b"data")
            assert volumes.info(device).size == SIZE

    def test_one_that_holds_a_file_system(self, disk: Path) -> None:
        run("mkfs.ext4", "-q", disk)
        before = disk.read_bytes()
        with loop_device(disk) as device:
            refused(ForeignData, lambda: volumes.create(device), "ext4", f"--force {device}")
            assert disk.read_bytes() == before
            volumes.create(device, force=os.fspath(device))
            assert "kvfs" in signatures.probe(device).description
        assert disk.stat().st_blocks * 512 < 4 * MIB, "the device was told to forget"

    def test_a_stale_volume_at_the_end_does_not_come_back(self, disk: Path) -> None:
        with loop_device(disk) as device:
            volumes.create(device)
            for _ in range(3):
                with opened_volume(device):
                    pass
            volumes.create(device, SIZE, force=os.fspath(device))
            put(device, 0, bytes(BLOCK))
            put(device, 64 * 1024, bytes(BLOCK))
            refused(NotAVolume, lambda: volumes.info(device), "kvfs volume")

    def test_a_mounted_one(self, disk: Path, tmp_path: Path) -> None:
        run("mkfs.ext4", "-q", disk)
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        with loop_device(disk) as device:
            run("mount", device, mountpoint)
            try:
                for force in (None, os.fspath(device)):
                    refused(VolumeInUse, lambda force=force: volumes.create(device, force=force), str(mountpoint))
            finally:
                run("umount", mountpoint)

    def test_a_read_only_one(self, disk: Path) -> None:
        with loop_device(disk, read_only=True) as device:
            refused(VolumeReadOnly, lambda: volumes.create(device), "read-only", "blockdev --setrw")
        make_volume(disk.with_name("volume"), SIZE)
        with loop_device(disk.with_name("volume"), read_only=True) as device:
            assert volumes.open_or_create(device).size == SIZE
            with opened_volume(device, read_only=True) as client:
                assert client.names() == []

    def test_one_that_is_too_small(self, tmp_path: Path) -> None:
        path = tmp_path / "small"
        path.touch()
        os.truncate(path, 8 * MIB)
        with loop_device(path) as device:
            refused(VolumeTooSmall, lambda: volumes.create(device), str(13 * MIB + BLOCK), f"found {8 * MIB} bytes")
