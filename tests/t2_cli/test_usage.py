"""A wrong command line: one line, exit status 2, nothing done."""

import pytest
from place import Place


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("kvfs mount", "Missing argument"),
        ("kvfs mount --siez 1G mnt", "No such option: --siez"),
        ("kvfs mount --size", "requires an argument"),
        ("kvfs mount --size 3x mnt", "expected a size, found '3x'"),
        ("kvfs mount --size 0 mnt", "expected a size from 1 byte"),
        ("kvfs mount a b mnt", "expected one store, found 2: a, b"),
        ("kvfs mount -o foo store.kvfs mnt", "unknown mount option 'foo'"),
        ("kvfs mount -o size= store.kvfs mnt", "option size needs a value"),
        ("kvfs mount --data-path warp store.kvfs mnt", "'warp' is not"),
        ("kvfs mnt", "No such command 'mnt'"),
        ("kvfs umount", "Missing argument"),
        ("kvfs umount mnt mnt", "unexpected extra argument"),
        ("kvfs umount --timeout soon mnt", "Invalid value for '--timeout'"),
        ("kvfsctl format", "Missing argument"),
        ("kvfsctl format --size 64Q store.kvfs", "expected a size, found '64Q'"),
        ("kvfsctl format --size 64M --segment-size 3M store.kvfs", "segment size"),
        ("kvfsctl format --size 64M --label " + "x" * 65 + " store.kvfs", "label"),
        ("kvfsctl format --size 64M --force other store.kvfs", "found other"),
        ("kvfsctl format --size 64M store.kvfs store.kvfs", "store.kvfs twice"),
        ("kvfsctl format store.kvfs", "give --size"),
        ("kvfsctl info", "Missing argument"),
        ("kvfsctl fsck", "Missing argument"),
        ("kvfsctl status", "Missing argument"),
        ("kvfsctl status --json", "Missing argument"),
        ("kvfsctl doctor mnt", "unexpected extra argument"),
        ("mount.kvfs store.kvfs", "Missing argument"),
        ("mount.kvfs store.kvfs mnt -o foo", "unknown mount option 'foo'"),
        ("mount.kvfs store.kvfs mnt -N x", "-N is not supported"),
    ],
)
def test_wrong_usage(place: Place, command: str, says: str) -> None:
    before = sorted(place.root.rglob("*"))
    name, *arguments = command.split()
    done = place.run(name, *arguments)
    done.says(f"{name}: ", says)
    assert done.status == 2
    assert sorted(place.root.rglob("*")) == before


@pytest.mark.parametrize("name", ["kvfs", "kvfsctl"])
def test_without_a_command_there_is_help(place: Place, name: str) -> None:
    done = place.run(name)
    assert done.status == 2
    assert "Usage:" in done.output
    assert place.run(name, "--help").status == 0


def test_version(place: Place) -> None:
    done = place.run("kvfs", "--version")
    assert (done.status, done.error) == (0, "")
    assert done.output == place.run("kvfsctl", "--version").output


def test_help_needs_none_of_the_slow_modules(place: Place) -> None:
    """`kvfs --help`, and whatever the parent of a daemon does before it forks, starts no event loop or native code."""
    code = (
        "import sys; import kvfs.cli.kvfs, kvfs.cli.kvfsctl, kvfs.cli.mount_helper;"
        "print(sorted({'trio', 'pyfuse3', 'kvfs._native'} & set(sys.modules)))"
    )
    done = place.run("python", "-c", code)
    assert (done.status, done.output) == (0, "[]\n"), done
