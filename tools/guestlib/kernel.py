"""Kernels ready to boot, in a cache: ``KVFS_GUEST_CACHE``, or kvfs/guest in the user's cache directory.

``CACHE/kernels/RELEASE-DIGEST/``: ``vmlinux`` (QEMU starts an ELF kernel faster than a compressed one), ``modules/``
and ``kernel.json``. DIGEST is of the packages' checksums. A directory appears under its name when it is complete;
what fetches one holds ``CACHE/lock``. Kernels leave the archive after a while: one that was fetched is used for as
long as it suits.
"""

import fcntl
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from guestlib import archive
from guestlib.errors import GuestUnavailable

_ELF = b"\x7fELF"
_ZSTD, _XZ = b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"


class Description(msgspec.Struct, frozen=True):
    """``kernel.json``: what was unpacked. ``packages``: name, version and SHA-256 of each."""

    release: str
    version: tuple[int, ...]
    packages: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Kernel:
    place: Path
    description: Description

    @property
    def release(self) -> str:
        return self.description.release

    @property
    def vmlinux(self) -> Path:
        return self.place / "vmlinux"

    @property
    def modules(self) -> Path:
        return self.place / "modules"


def cache_directory() -> Path:
    """Where kernels are kept; made when it is not there."""
    named = os.environ.get("KVFS_GUEST_CACHE")
    place = (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvfs" / "guest"
    )
    place.mkdir(parents=True, exist_ok=True)
    return place


def kernel(prefix: str = "", *, refresh: bool = False) -> Kernel:
    """The best kernel whose release begins with ``prefix``: of the cache, else, or to ``refresh`` it, of the archive.

    GuestUnavailable when none can be had.
    """
    cache = cache_directory()
    with _locked(cache):
        cached = [] if refresh else [each for each in _cached(cache) if each.release.startswith(prefix)]
        if cached:
            return max(cached, key=lambda each: archive.preference(each.description.version))
        with archive.found(prefix) as (candidate, apt):
            digest = hashlib.sha256("".join(each.sha256 for each in candidate.packages).encode()).hexdigest()[:16]
            place = cache / "kernels" / f"{candidate.release}-{digest}"
            description = Description(
                candidate.release,
                candidate.version,
                tuple((each.name, each.version, each.sha256) for each in candidate.packages),
            )
            if not place.exists():
                place.parent.mkdir(exist_ok=True)
                with tempfile.TemporaryDirectory(dir=cache) as work:
                    debs = [apt.download(package, Path(work)) for package in candidate.packages]
                    unpack(debs, description, Path(work) / "kernel")
                    (Path(work) / "kernel").rename(place)
    return Kernel(place, description)


def unpack(debs: list[Path], description: Description, place: Path) -> None:
    """Make the directory of a kernel from its packages."""
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        for deb in debs:
            subprocess.run(["dpkg-deb", "--extract", deb, work], check=True, stdin=subprocess.DEVNULL)
        images = [*Path(work).glob("boot/vmlinuz-*"), *Path(work).glob("usr/lib/modules/*/vmlinuz")]
        trees = [*Path(work).glob("lib/modules/*/kernel"), *Path(work).glob("usr/lib/modules/*/kernel")]
        if not images or not trees:
            raise GuestUnavailable(
                f"{description.release}: expected an image and modules in its packages, found neither"
            )
        place.mkdir()
        (place / "vmlinux").write_bytes(vmlinux(images[0].read_bytes()))
        (place / "modules").mkdir()
        shutil.move(trees[0], place / "modules" / "kernel")
        (place / "kernel.json").write_bytes(msgspec.json.encode(description))


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel in a bzImage. Its header (Documentation/arch/x86/boot.rst) says where the compressed payload
    lies.
    """
    if image[:4] == _ELF:
        return image
    if image[0x202:0x206] != b"HdrS":
        raise GuestUnavailable(
            "expected the header of an x86 kernel (HdrS) in its image, found none", "choose another --kernel"
        )
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (setup_sectors + 1) * 512 + offset
    payload = image[begin : begin + length]
    if payload[:4] == _ELF:
        elf = payload
    elif payload[:4] == _ZSTD:
        # without the four bytes at its end, which are the size of what comes out
        elf = subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    elif payload[:6] == _XZ:
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    else:
        raise GuestUnavailable(f"expected a kernel in zstd or xz, found one that begins with {payload[:6].hex()}")
    if elf[:4] != _ELF:
        raise GuestUnavailable(f"expected an ELF file in the kernel's image, found {elf[:4].hex()}")
    return elf


def _cached(cache: Path) -> list[Kernel]:
    return [
        Kernel(file.parent, msgspec.json.decode(file.read_bytes(), type=Description))
        for file in cache.glob("kernels/*/kernel.json")
    ]


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with open(cache / "lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
