"""``tools/guest`` on this side: what it finds, makes and refuses, and that it leaves nothing behind."""

import lzma
import os
import signal
import subprocess
from pathlib import Path
from typing import cast

import pytest
from guestlib import archive, boot, cpio, kernel, machine, modules
from guestlib.command import start_guest
from guestlib.errors import GuestFailed, GuestNotReady, GuestUnavailable
from guestlib.initramfs import Command, is_static
from support.guest_session import CHECKOUT, UNAVAILABLE
from support.mount import clean_mount, wait_for

from kvfs.errors import UsageError

GUEST = CHECKOUT / "tools/guest"


class TestCpio:
    def test_one_file(self) -> None:
        data = cpio.archive([cpio.Entry("a/b", b"hello", 0o644)])
        head = b"070701" + b"00000001" + b"000081A4" + b"00000000" * 2 + b"00000001" + b"00000000" + b"00000005"
        assert data[:62] == head
        assert data[94:102] == b"00000004"  # with the zero at its end
        assert data[110:114] == b"a/b\0"
        assert data[116:121] == b"hello"
        assert len(data) % 4 == 0

    def test_cpio_reads_it(self, tmp_path: Path) -> None:
        entries = [cpio.Entry("d"), *(cpio.Entry(f"d/{'n' * size}", os.urandom(size)) for size in range(1, 9))]
        subprocess.run(["busybox", "cpio", "-idm", "--quiet"], input=cpio.archive(entries), cwd=tmp_path, check=True)
        for entry in entries[1:]:
            assert (tmp_path / entry.name).read_bytes() == entry.data


class TestModules:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> modules.ModuleTree:
        """top needs middle-one and, softly, soft; both need bottom; bottom and loop need each other."""
        said = {
            "top": "depends=middle_one\0softdep=pre: soft absent post: later",
            "middle-one": "depends=bottom",
            "soft": "depends=bottom",
            "bottom": "depends=round",
            "round": "depends=bottom",
        }
        for name, info in said.items():
            place = tmp_path / "kernel/drivers" / name
            place.mkdir(parents=True)
            (place / f"{name}.ko.xz").write_bytes(lzma.compress(b"\x7fELF\0license=GPL\0" + info.encode() + b"\0"))
        return modules.ModuleTree(tmp_path)

    def test_what_is_needed_comes_first(self, tree: modules.ModuleTree) -> None:
        names = [module.name for module in tree.in_load_order(["top"])]
        assert names == ["round", "bottom", "middle_one", "soft", "top"]

    def test_each_once_and_what_is_built_in_not_at_all(self, tree: modules.ModuleTree) -> None:
        names = [module.name for module in tree.in_load_order(["soft", "built-in", "middle_one", "soft"])]
        assert names == ["round", "bottom", "soft", "middle_one"]

    def test_no_modules(self, tmp_path: Path) -> None:
        with pytest.raises(GuestUnavailable, match="expected kernel modules, found none"):
            modules.ModuleTree(tmp_path)


def _package(name: str) -> archive.Package:
    return archive.Package(name, "1", "0" * 64, 1)


def _releases(*names: str, prefix: str = "") -> list[str]:
    return [each.release for each in archive.candidates(map(_package, names), prefix)]


class TestArchive:
    def test_index(self) -> None:
        text = (
            "Package: linux-image-6.18.5+deb13-amd64\nVersion: 6.18.5-1~bpo13+1\nDepends: kmod, a: b\n"
            "Size: 100\nSHA256: aa\nDescription: Linux\n Package: not-this\n\n"
            "Package: without-a-checksum\nVersion: 1\n\n\n"
        )
        assert archive.parse_index(text) == [
            archive.Package("linux-image-6.18.5+deb13-amd64", "6.18.5-1~bpo13+1", "aa", 100)
        ]

    def test_the_longterm_series_then_the_newest(self) -> None:
        names = [
            *("linux-image-6.12.95+deb12-amd64", "linux-image-6.18.9+deb13-amd64", "linux-image-6.18.15+deb13-amd64"),
            *("linux-binary-7.10.1+deb13-amd64", "linux-modules-7.10.1+deb13-amd64"),
            *("linux-binary-7.2.12+deb13-amd64", "linux-modules-7.2.12+deb13-amd64"),
        ]
        assert _releases(*names) == [
            *("6.18.15+deb13-amd64", "6.18.9+deb13-amd64", "7.10.1+deb13-amd64", "7.2.12+deb13-amd64"),
        ]
        assert _releases(*names, prefix="7.2") == ["7.2.12+deb13-amd64"]

    def test_variants_and_what_is_no_kernel(self) -> None:
        assert not _releases(
            *("linux-image-6.18.15+deb13-rt-amd64", "linux-image-6.18.15+deb13-cloud-amd64", "linux-image-amd64"),
            *("linux-image-6.18.15+deb13-amd64-dbg", "linux-headers-6.18.15+deb13-amd64"),
        )

    def test_half_a_kernel(self) -> None:
        assert not _releases("linux-image-7.2.12+deb13-amd64", "linux-binary-7.2.12+deb13-amd64")
        assert not _releases("linux-modules-7.2.12+deb13-amd64")

    def test_unsigned_where_there_is_no_signed_one(self) -> None:
        only = archive.candidates(
            map(_package, ["linux-image-6.18.9+deb13-amd64-unsigned", "linux-modules-7.3.4+deb13-amd64"])
        )
        assert [package.name for each in only for package in each.packages] == [
            "linux-image-6.18.9+deb13-amd64-unsigned"
        ]
        both = archive.candidates(
            map(_package, ["linux-image-6.18.9+deb13-amd64-unsigned", "linux-image-6.18.9+deb13-amd64"])
        )
        assert [package.name for each in both for package in each.packages] == ["linux-image-6.18.9+deb13-amd64"]
        new = archive.candidates(
            map(_package, ["linux-binary-unsigned-7.3.4+deb13-amd64", "linux-modules-7.3.4+deb13-amd64"])
        )
        assert [len(each.packages) for each in new] == [2]


class TestKernelImage:
    def test_not_a_kernel(self) -> None:
        with pytest.raises(GuestUnavailable, match="HdrS"):
            kernel.vmlinux(bytes(4096))

    @pytest.mark.parametrize("payload", [lzma.compress(b"\x7fELF" + bytes(5000)), b"\x7fELF" + bytes(5000)])
    def test_payload(self, payload: bytes) -> None:
        image = bytearray(3 * 512 + 128)
        image[0x1F1] = 2
        image[0x202:0x206] = b"HdrS"
        image[0x248:0x250] = (128).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
        assert kernel.vmlinux(bytes(image) + payload) == b"\x7fELF" + bytes(5000)


class TestMachine:
    def test_drives(self) -> None:
        assert machine.parse_drives("2x512M") == (512 << 20, 512 << 20)
        assert machine.parse_drives("1G") == (1 << 30,)

    @pytest.mark.parametrize("text", ["", "0x1G", "17x1G", "2x", "x1G", "2x1000", "much"])
    def test_no_drives(self, text: str) -> None:
        with pytest.raises(UsageError, match="expected"):
            machine.parse_drives(text)

    def test_mounts_on_the_way(self) -> None:
        points = ["/", "/proc", "/home", "/home/a b/c", "/home/a b/c/d/deep", "/homely", "/srv"]
        table = "".join(f"1 2 0:1 / {point} rw - x x rw\n".replace("a b", "a\\040b") for point in points)
        assert machine.mounts_of([Path("/home/a b/c/d"), Path("/etc")], table) == ["/home", "/home/a b/c"]

    @pytest.mark.root
    @pytest.mark.kvfs_only
    def test_no_kvfs_mount_is_kept(self, tmp_path: Path) -> None:
        """A copy of the mount in virtiofsd's namespace would keep its daemon from ending as long as the guest runs."""
        show = tmp_path / "show"
        show.write_text("#!/bin/sh\ncat /proc/self/mountinfo\n")
        show.chmod(0o755)
        with clean_mount("64M") as mount:
            command = machine.virtiofsd_command(os.fspath(show), tmp_path, tmp_path / "socket", [])
            there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            assert os.path.ismount(mount.path)
        assert f" {tmp_path}/root " in there
        assert "fuse.kvfs" not in there

    def test_command_line(self) -> None:
        script = Command(("echo", "it's", "$HOME"), Path("/"), {"A": "b c; exit 3"}).script()
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "it's $HOME\n"

    def test_static(self) -> None:
        assert not is_static(Path("/bin/bash").read_bytes())


def _guest(*words: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [GUEST, *words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestCommand:
    def test_no_command(self) -> None:
        process = _guest()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert said == "guest: expected a command, found none; write it after --, as in tools/guest -- uname -r\n"

    def test_a_kernel_that_is_not_there(self, tmp_path: Path) -> None:
        fake = tmp_path / "bin"
        fake.mkdir()
        (fake / "apt-get").write_text("#!/bin/sh\necho E: no network >&2; exit 100\n")
        (fake / "apt-get").chmod(0o755)
        process = _guest("--", "true", KVFS_GUEST_CACHE=str(tmp_path / "cache"), PATH=f"{fake}:{os.environ['PATH']}")
        _, said = process.communicate(timeout=60)
        assert process.returncode == UNAVAILABLE
        assert said == "guest: apt-get: exit status 100: E: no network; check network and apt\n"


class TestStart:
    """A guest whose kernel panics before the command begins is started again, twice at most."""

    @pytest.fixture
    def starts(self, monkeypatch: pytest.MonkeyPatch) -> list[BaseException | int]:
        """What each start comes to."""
        come: list[BaseException | int] = []

        def start(*_: object, **__: object) -> int:
            result = come.pop(0)
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(boot, "run", start)
        return come

    @staticmethod
    def _run(tmp_path: Path) -> int:
        job = Command(("true",), tmp_path, {})
        nothing = cast("kernel.Kernel", None)  # boot.run is what would look at it
        return start_guest(nothing, machine.Machine((), 1 << 30, 1, ()), job, 1.0, None)

    def test_again(self, starts: list[BaseException | int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        starts += [GuestNotReady("ended", "int3"), GuestNotReady("ended", "int3"), 7]
        assert self._run(tmp_path) == 7
        assert capsys.readouterr().err == "int3\nguest: ended; starting it again\n" * 2

    def test_never(self, starts: list[BaseException | int], tmp_path: Path) -> None:
        starts += [GuestNotReady("ended", "int3")] * 3
        with pytest.raises(GuestNotReady):
            self._run(tmp_path)
        assert not starts

    def test_not_a_command_that_had_begun(self, starts: list[BaseException | int], tmp_path: Path) -> None:
        starts += [GuestFailed("ended", "Oops")]
        with pytest.raises(GuestFailed):
            self._run(tmp_path)

    @pytest.mark.root
    @pytest.mark.ci
    def test_a_kernel_that_cannot_start(self, tmp_path: Path) -> None:
        process = _guest("--memory", "64M", "--", "true", TMPDIR=str(tmp_path))
        _, said = process.communicate(timeout=280)
        if process.returncode == UNAVAILABLE and not os.environ.get("KVFS_CI"):
            pytest.skip(f"NOT TESTED: {said.strip()}")
        assert process.returncode == 125
        assert said.count("starting it again") == 2
        assert list(tmp_path.iterdir()) == []


@pytest.mark.root
class TestEnd:
    @pytest.fixture(autouse=True)
    def _can_be_had(self) -> None:
        process = _guest("--fetch")
        _, said = process.communicate(timeout=280)
        if process.returncode == UNAVAILABLE and not os.environ.get("KVFS_CI"):
            pytest.skip(f"NOT TESTED: {said.strip()}")
        assert process.returncode == 0, said

    def test_hung(self, tmp_path: Path) -> None:
        process = _guest("--timeout", "2s", "--memory", "512M", "--", "sleep", "1000", TMPDIR=str(tmp_path))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 124, said
        assert said.splitlines()[-1].startswith("guest: expected `sleep 1000` to end within 2 s; the guest was killed;")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_interrupted(self, number: signal.Signals, tmp_path: Path) -> None:
        process = _guest("--memory", "512M", "--", "sleep", "1000", TMPDIR=str(tmp_path))
        children = wait_for(lambda: found if len(found := _children(process.pid)) == 2 else None, "QEMU and virtiofsd")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == "guest: interrupted\n"
        assert list(tmp_path.iterdir()) == []
        wait_for(lambda: not any(_is_alive(pid) for pid in children), "no child")

    def test_killed(self, tmp_path: Path) -> None:
        """Outright: nothing can tidy up, but no process stays, and with them their mounts are gone."""
        process = _guest("--memory", "512M", "--", "sleep", "1000", TMPDIR=str(tmp_path))
        children = wait_for(lambda: found if len(found := _children(process.pid)) == 2 else None, "QEMU and virtiofsd")
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not any(_is_alive(pid) for pid in children), "no child")
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()

    @pytest.mark.ci
    def test_status_and_result(self, tmp_path: Path) -> None:
        result = tmp_path / "result"
        script = "ls /dev/nvme?n1; touch written; echo to the file > /run/guest/result; echo $WITH; exit 7"
        words = [
            "--drives",
            "64M",
            "--drives",
            "2x32M",
            "--memory",
            "512M",
            "--result",
            str(result),
            "--env",
            "WITH=a b",
        ]
        process = _guest(*words, "--directory", str(tmp_path), "--", "sh", "-c", script)
        output, said = process.communicate(timeout=280)
        assert process.returncode == 7, said
        assert output.splitlines() == ["/dev/nvme0n1", "/dev/nvme1n1", "/dev/nvme2n1", "a b"]
        assert result.read_text() == "to the file\n"
        assert sorted(tmp_path.iterdir()) == [result]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
