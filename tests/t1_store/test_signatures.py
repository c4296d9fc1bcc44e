"""What a store holds is recognised, or at least noticed, before it is formatted."""

import os
import shutil
import struct
from pathlib import Path

import pytest
from client import BLOCK, MIB, ROOT, make_volume, opened_volume
from loop import loop_device, run

from kvfs.store import format as kvfs1
from kvfs.store import signatures
from kvfs.store.signatures import Content, probe

needs_blkid = pytest.mark.skipif(
    shutil.which("blkid", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None,
    reason="NOT TESTED: blkid is missing",
)


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MIB)
    return path


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


class TestEmpty:
    @pytest.mark.parametrize("size", [0, 1, BLOCK, MIB, 3 * MIB + 5])
    def test_zeros(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "zeros"
        path.write_bytes(bytes(size))
        assert probe(path).content is Content.EMPTY

    def test_a_hole(self, blank: Path) -> None:
        assert probe(blank).content is Content.EMPTY

    def test_preallocated_space(self, blank: Path) -> None:
        with blank.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 64 * MIB)
        assert probe(blank).content is Content.EMPTY


class TestUnknown:
    @pytest.mark.parametrize("offset", [0, 511, 12_345, MIB - 1, 20 * MIB, 63 * MIB, 64 * MIB - 1])
    def test_a_single_byte_in_a_sparse_file(self, blank: Path, offset: int) -> None:
        put(blank, offset, b"x")
        found = probe(blank)
        assert found.content is Content.UNKNOWN
        assert str(offset) in found.description

    def test_a_small_file(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("do not destroy\n")
        assert probe(path).content is Content.UNKNOWN

    def test_data_in_the_middle_of_a_file_without_holes(self, tmp_path: Path) -> None:
        path = tmp_path / "disk.img"
        image = bytearray(64 * MIB)
        image[30 * MIB : 32 * MIB] = b"\1" * (2 * MIB)
        path.write_bytes(image)
        assert probe(path).content is Content.UNKNOWN

    def test_without_blkid(self, blank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run("mkfs.ext4", "-q", blank)
        monkeypatch.setattr(signatures.shutil, "which", lambda *_args, **_kwargs: None)
        assert probe(blank).content is Content.UNKNOWN


@needs_blkid
class TestKnown:
    def test_a_file_system(self, blank: Path) -> None:
        run("mkfs.ext4", "-q", "-L", "precious", blank)
        found = probe(blank)
        assert found.content is Content.KNOWN
        assert "file system, ext4" in found.description
        assert "label precious" in found.description

    def test_swap(self, blank: Path) -> None:
        run("mkswap", blank)
        assert probe(blank).content is Content.KNOWN
        assert "swap space" in probe(blank).description

    def test_a_partition_table(self, blank: Path) -> None:
        entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\2\0", 2048, 100_000)
        put(blank, 446, entry)
        put(blank, 510, b"\x55\xaa")
        found = probe(blank)
        assert found.content is Content.KNOWN
        assert "dos partition table" in found.description

    def test_lvm(self, blank: Path) -> None:
        """A label as pvcreate writes it: magic, its sector, crc (checked by blkid), offset, type."""
        label = bytearray(512)
        label[0:8] = b"LABELONE"
        label[8:16] = struct.pack("<Q", 1)
        label[20:24] = struct.pack("<I", 32)
        label[24:32] = b"LVM2 001"
        label[32:64] = b"0123456789abcdef0123456789abcdef"
        label[16:20] = struct.pack("<I", lvm_crc(bytes(label[20:])))
        put(blank, 512, bytes(label))
        found = probe(blank)
        assert found.content is Content.KNOWN
        assert "LVM physical volume" in found.description

    def test_luks(self, blank: Path) -> None:
        put(blank, 0, b"LUKS\xba\xbe\0\1" + b"aes".ljust(32, b"\0") + bytes(168))
        found = probe(blank)
        assert found.content is Content.KNOWN
        assert "LUKS" in found.description

    def test_an_md_member(self, blank: Path) -> None:
        superblock = struct.pack("<IIII16s", 0xA92B4EFC, 1, 0, 0, bytes(range(16))).ljust(128, b"\0")
        superblock = bytearray(superblock + struct.pack("<QQQ", 0, 1000, 8))
        put(blank, 4096, bytes(superblock))
        assert probe(blank).content is not Content.EMPTY


def lvm_crc(data: bytes) -> int:
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc


class TestKvfs:
    def test_a_volume(self, volume: Path) -> None:
        found = probe(volume)
        assert found.content is Content.KVFS
        superblock = kvfs1.Superblock.parse(volume.read_bytes()[:BLOCK])
        assert superblock.uuid.hex() in found.description.replace("-", "")
        assert "created 20" in found.description

    def test_whatever_its_files_hold(self, tmp_path: Path, blank: Path) -> None:
        """A page that is itself an image of a file system."""
        volume = make_volume(tmp_path / "store.kvfs", 128 * MIB)
        run("mkfs.ext4", "-q", blank)
        with opened_volume(volume) as client:
            client.create(ROOT, b"image", blank.read_bytes())
        assert probe(volume).content is Content.KVFS

    @pytest.mark.parametrize("left", ["B", "end"])
    def test_one_copy_is_left(self, volume: Path, left: str) -> None:
        for name, offset in kvfs1.superblock_offsets(32 * MIB).items():
            if name != left:
                put(volume, offset, bytes(BLOCK))
        assert probe(volume).content is Content.KVFS

    def test_a_damaged_one(self, volume: Path) -> None:
        for offset in kvfs1.superblock_offsets(32 * MIB).values():
            put(volume, offset + 60, b"\xff")
        found = probe(volume)
        assert found.content is Content.KVFS
        assert "damaged" in found.description
        assert "expected crc32c" in found.description

    @needs_blkid
    def test_a_file_system_was_made_over_it(self, tmp_path: Path) -> None:
        volume = make_volume(tmp_path / "store.kvfs", 64 * MIB)
        run("mkfs.ext4", "-q", "-F", volume)
        assert "ext4" in probe(volume).description


@pytest.mark.root
class TestDevices:
    def test_an_empty_one(self, blank: Path) -> None:
        with loop_device(blank) as device:
            assert probe(device).content is Content.EMPTY

    def test_unknown_data(self, blank: Path) -> None:
        put(blank, 64 * MIB - 100, b"tail")
        with loop_device(blank) as device:
            assert probe(device).content is Content.UNKNOWN

    def test_a_mounted_one(self, blank: Path, tmp_path: Path) -> None:
        run("mkfs.ext4", "-q", blank)
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        with loop_device(blank) as device:
            assert signatures.describe_kernel_use(device) is None
            run("mount", device, mountpoint)
            try:
                assert signatures.describe_kernel_use(device) == f"mounted on {mountpoint}"
            finally:
                run("umount", mountpoint)
