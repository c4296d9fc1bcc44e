"""Kernels in the Debian archive: found with apt, in the archive that apt is set up with here, and verified by it.

apt runs on directories of its own (``_Apt``): the machine's lists and configuration stay as they are, while its
proxies, certificates and keys are used. What it downloads it checks against the signed index; the SHA-256 is checked
once more before a package is unpacked.

Up to 6.18 a kernel is one package, linux-image-R; from 6.19 on that name is empty and the parts are linux-binary-R and
linux-modules-R, of which an archive may have lost one.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guestlib.errors import GuestUnavailable
from kvfs.units import format_size

LEAST = (6, 18)  # NVMe target with reservations, FUSE passthrough and FUSE over io_uring
LONGTERM = (6, 18)  # preferred while it is to be had: changes less from one day to the next
SUITES = ("trixie-backports", "bookworm-backports", "trixie")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NAME = re.compile(r"linux-(image|binary|modules)-(unsigned-)?((\d+)\.(\d+)\.(\d+)\S*-amd64?)(-unsigned)?")
_VARIANT = re.compile(r"-(rt|cloud)-amd64$")
_TIMEOUT = 600.0  # s, of one apt command


@dataclass(frozen=True)
class Package:
    """One binary package of an index."""

    name: str
    version: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Candidate:
    """A kernel that can be had. ``release``: what uname -r says; ``version``: (major, minor, patch)."""

    release: str
    version: tuple[int, ...]
    packages: tuple[Package, ...]


def parse_index(text: str) -> list[Package]:
    """The packages of a Debian ``Packages`` index (deb822); what has no checksum is left out."""
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line.startswith(" "))
        if {"Package", "Version", "SHA256", "Size"} <= fields.keys():
            found.append(Package(fields["Package"], fields["Version"], fields["SHA256"], int(fields["Size"])))
    return found


def candidates(packages: Iterable[Package], prefix: str = "") -> list[Candidate]:
    """Suitable kernels among ``packages`` whose release begins with ``prefix``, the best one first."""
    parts: dict[str, dict[str, Package]] = {}
    versions: dict[str, tuple[int, ...]] = {}
    for package in packages:
        match = _NAME.fullmatch(package.name)
        if match is None or _VARIANT.search(package.name) or not match[3].startswith(prefix):
            continue
        kind = match[1] + ("-unsigned" if match[2] or match[7] else "")
        parts.setdefault(match[3], {})[kind] = package
        versions[match[3]] = (int(match[4]), int(match[5]), int(match[6]))
    found = [
        Candidate(release, versions[release], chosen)
        for release, kinds in parts.items()
        if versions[release] >= LEAST and (chosen := _complete(kinds, versions[release]))
    ]
    return sorted(found, key=lambda each: preference(each.version), reverse=True)


def preference(version: tuple[int, ...]) -> tuple[bool, tuple[int, ...]]:
    """A key to sort by: the best is greatest."""
    return version[:2] == LONGTERM, version


def _complete(kinds: dict[str, Package], version: tuple[int, ...]) -> tuple[Package, ...]:
    """What has to be unpacked for one kernel; empty when the archive does not have all of it."""
    if version < (6, 19):
        image = kinds.get("image") or kinds.get("image-unsigned")
        return (image,) if image else ()
    binary, modules = kinds.get("binary") or kinds.get("binary-unsigned"), kinds.get("modules")
    return (binary, modules) if binary and modules else ()


@contextmanager
def found(prefix: str = "") -> Iterator[tuple[Candidate, "_Apt"]]:
    """The best kernel of the first suite that has one, and the apt to download it with; GuestUnavailable if none."""
    base = archive_base()
    said = []
    for suite in SUITES:
        with tempfile.TemporaryDirectory(prefix="kvfs-guest-apt-") as place:
            apt = _Apt(Path(place), base, suite)
            try:
                kernels = candidates(parse_index(apt.index()), prefix)
            except GuestUnavailable as error:
                said.append(str(error))
                continue
            if kernels:
                yield kernels[0], apt
                return
            said.append(f"none in {suite}")
    wanted = f"that begins with {prefix}" if prefix else f"{LEAST[0]}.{LEAST[1]} or later"
    raise GuestUnavailable(
        f"expected a kernel {wanted} in the Debian archive, found: {', '.join(said)}", "check network and apt"
    )


def archive_base() -> str:
    """Where apt has Debian's packages from on this machine, without a slash at the end. GuestUnavailable if nowhere."""
    if shutil.which("apt-get") is None:
        raise GuestUnavailable("expected apt, which finds and verifies kernels, found none", "use Debian")
    said = _run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"])
    rows = [line.split("|") for line in said.splitlines() if line.count("|") == 2]
    official = [uri for origin, label, uri in rows if (origin, label) == ("Debian", "Debian")]
    # where no list was ever fetched, the origin is not known, only the place
    likely = [uri for _, _, uri in rows if uri.rstrip("/").endswith("/debian")]
    if not official + likely:
        raise GuestUnavailable("expected Debian's archive among apt's sources, found none", "see sources.list(5)")
    return (official + likely)[0].rstrip("/")


class _Apt:
    """apt with one source, and with all that it keeps below ``place``."""

    def __init__(self, place: Path, base: str, suite: str) -> None:
        self._suite = suite
        for name in ("lists/partial", "archives/partial"):
            (place / name).mkdir(parents=True)
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        (place / "sources.list").write_text(f"deb {signed}{base} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": place / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": place / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": place,
            "Dir::Cache::archives": place / "archives",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def index(self) -> str:
        """The suite's index, brought up to date."""
        try:
            _run(["apt-get", *self._options, "update"])
        except GuestUnavailable as error:
            raise GuestUnavailable(f"no index of {self._suite} ({error.message})") from error
        return _run(["apt-cache", *self._options, "dumpavail"])

    def download(self, package: Package, directory: Path) -> Path:
        """The package's file in ``directory``, its SHA-256 verified."""
        print(f"guest: fetching {package.name} {package.version}, {format_size(package.size)}", file=sys.stderr)
        before = set(directory.glob("*.deb"))
        _run(["apt-get", *self._options, "download", f"{package.name}={package.version}"], directory)
        (file,) = set(directory.glob("*.deb")) - before
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != package.sha256:
            raise GuestUnavailable(f"{package.name}: expected SHA-256 {package.sha256}, found {digest}", "try again")
        return file


def _run(command: list[str], directory: Path | None = None) -> str:
    """Its output. GuestUnavailable, with the last line that it said, when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GuestUnavailable(f"{command[0]}: expected an end within {_TIMEOUT:.0f} s", "check the network") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise GuestUnavailable(f"{command[0]}: exit status {done.returncode}: {lines[-1]}", "check network and apt")
    return done.stdout
