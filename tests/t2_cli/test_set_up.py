"""``tools/quickstart`` and ``tools/test`` before they have done anything: what they ask for, and how they say it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from place import NOBODY, Done, Place

TOOLS = Path(__file__).parents[2] / "tools"
# all that the scripts may use before they have asked for anything
COMMANDS = (
    *("bash", "cut", "date", "dirname", "find", "flock", "grep", "id", "mkdir", "mktemp"),
    *("rm", "sed", "sha256sum", "sort", "tail", "touch", "xargs"),
)


@pytest.fixture
def checkout(place: Place) -> Path:
    """A checkout of nobody's with the scripts alone, and ``bin`` beside it for a PATH with next to nothing."""
    checkout = place.root / "checkout"
    (checkout / "tools").mkdir(parents=True)
    for name in ("quickstart", "test"):
        shutil.copy(TOOLS / name, checkout / "tools" / name)
    shutil.copytree(TOOLS / "lib", checkout / "tools" / "lib")
    (place.root / "bin").mkdir()
    for name in COMMANDS:
        (place.root / "bin" / name).symlink_to(shutil.which(name) or f"/missing/{name}")
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    return checkout


def quickstart(place: Place, checkout: Path, *arguments: str, **environment: str) -> Done:
    script = str(checkout / "tools" / "quickstart")
    variables = {"PATH": str(place.root / "bin"), **environment}
    return place.run("/bin/bash", script, *arguments, nobody=True, environment=variables)


@pytest.mark.root
def test_what_is_missing_is_named_in_one_line(place: Place, checkout: Path) -> None:
    done = quickstart(place, checkout, "--setup")
    done.says("g++ pkg-config liburing-dev libxxhash-dev libfuse3-dev fuse3", "Debian")
    assert not (checkout / ".venv").exists()


@pytest.mark.root
def test_an_ordinary_user_is_told_what_to_run(place: Place, checkout: Path) -> None:
    apt = place.root / "bin" / "apt-get"
    apt.write_text("#!/bin/sh\nexit 1\n")
    apt.chmod(0o755)
    done = quickstart(place, checkout, "--setup")
    done.says("sudo apt-get install -y g++ ", "then run this again")


@pytest.mark.root
@pytest.mark.parametrize("old", [False, True])
def test_no_python_that_is_recent_enough(place: Place, checkout: Path, old: bool) -> None:
    for name in ("c++", "pkg-config", "fusermount3"):
        (place.root / "bin" / name).symlink_to("/bin/true")
    if old:
        # like Python 3.10: it says its version, and fails every question about a later one
        python = place.root / "bin" / "python3"
        python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12 || exit 1\n')
        python.chmod(0o755)
    # /usr/bin/python3 is looked at whatever the PATH is: hidden in a mount namespace of its own
    script = (
        f"mount --bind /bin/false /usr/bin/python3 && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "
    )
    script += f"env PATH={place.root}/bin bash {checkout}/tools/quickstart --setup"
    done = place.run("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script)
    done.says("expected Python 3.11 or later", "3.10.12" if old else "found none", "python3.11-venv", "KVFS_PYTHON")


@pytest.mark.root
def test_a_python_that_was_named_has_to_do(place: Place, checkout: Path) -> None:
    for name in ("c++", "pkg-config", "fusermount3"):
        (place.root / "bin" / name).symlink_to("/bin/true")
    done = quickstart(place, checkout, "--setup", KVFS_PYTHON="/bin/false")
    done.says("expected KVFS_PYTHON to be Python 3.11 or later, found /bin/false")


@pytest.mark.root
def test_a_checkout_of_somebody_else(place: Place, checkout: Path) -> None:
    os.chown(checkout, 0, 0)
    quickstart(place, checkout, "--setup").says("found it read-only for nobody", "a checkout of your own")


@pytest.mark.parametrize("script", ["quickstart", "test"])
def test_help(place: Place, script: str) -> None:
    done = place.run(str(TOOLS / script), "--help")
    assert (done.status, done.error) == (0, "")
    assert f"tools/{script}" in done.output
    assert "set -euo" not in done.output


def test_a_digest_follows_names_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        script = f"source {TOOLS}/lib/common.sh; content_hash {tmp_path}/tree {tmp_path}/none"
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout

    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a b").write_text("1")
    first = digest()
    os.utime(tree / "a b")
    assert digest() == first
    (tree / "a b").write_text("2")
    second = digest()
    (tree / "a b").rename(tree / "c")
    assert len({first, second, digest()}) == 3
