"""Commands as a user types them, in a directory of their own that is always cleared."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvfs.cli.mounts import mount_table
from kvfs.paths import default_log

BINARIES = Path(sys.executable).parent
NOBODY = 65534
# an ordinary user who may search and read like root, because Python itself may lie in root's home
_AS_NOBODY = (
    *(shutil.which("setpriv") or "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@dataclass(frozen=True)
class Done:
    """How a command ended. ``error``: its standard error, which for a failure has to be one line."""

    status: int
    output: str
    error: str

    def says(self, *parts: str) -> None:
        """The command failed with one line on standard error that has all ``parts``, and printed nothing else."""
        assert self.status != 0, self
        assert self.output == "", self
        assert self.error.count("\n") == 1, self
        assert self.error.endswith("\n"), self
        assert not re.search(r"(\S+): \1:", self.error), f"says the same twice: {self.error}"
        missing = [part for part in parts if part not in self.error]
        assert not missing, f"{missing} not in: {self.error}"


class Place:
    """A directory with a mountpoint ``mnt`` and room for stores; ``home`` stands for the user's own."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kvfs-cli-"))
        self.root.chmod(0o755)
        self.mountpoint = self.root / "mnt"
        self.store = self.root / "store.kvfs"
        self.log = self.root / "log"
        self.home = self.root / "home"
        self.mountpoint.mkdir()
        self.home.mkdir()

    def run(
        self,
        name: str,
        *arguments: str | os.PathLike[str],
        nobody: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Done:
        """Run a console script of this environment, or ``/a/program``, in this directory."""
        command = [self.program(name), *map(os.fspath, arguments)]
        done = subprocess.run(
            [*_AS_NOBODY, *command] if nobody else command,
            cwd=self.root,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, _text(done.stdout), _text(done.stderr))

    def start(
        self, name: str, *arguments: str | os.PathLike[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """As ``run``, without waiting."""
        return subprocess.Popen(
            [self.program(name), *map(os.fspath, arguments)],
            cwd=self.root,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def program(self, name: str) -> str:
        return str(BINARIES / name)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NOTIFY_"))}
        return {**kept, "HOME": str(self.home), "COLUMNS": "120", **(more or {})}

    def mount(self, *options: str | os.PathLike[str]) -> Done:
        """``kvfs mount`` of ``store`` on ``mountpoint``, logging to ``log``."""
        return self.run("kvfs", "mount", "--size", "64M", "--log", self.log, *options, self.store, self.mountpoint)

    def format(self, *options: str | os.PathLike[str]) -> None:
        done = self.run("kvfsctl", "format", "--size", "64M", *options, self.store)
        assert done.status == 0, done

    @contextmanager
    def open_fuse_device(self) -> Iterator[None]:
        """/dev/fuse as udev makes it, for everyone; a container's is often root's alone."""
        device = Path("/dev/fuse")
        mode = stat.S_IMODE(device.stat().st_mode)
        device.chmod(0o666)
        try:
            yield
        finally:
            device.chmod(mode)

    def clear(self) -> None:
        """Detach every mount below this directory, which a walk could hang in; remove what was made, and logs."""
        for mount in reversed(mount_table()):
            if mount.mountpoint.is_relative_to(self.root):
                subprocess.run(["umount", "-l", mount.mountpoint], timeout=60, check=True)
        shutil.rmtree(self.root)
        log = default_log(self.root)
        for left in log.parent.glob(f"{log.stem}*"):
            left.unlink()


def _text(output: bytes) -> str:
    return output.decode(errors="surrogateescape")
