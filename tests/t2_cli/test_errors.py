"""One hierarchy, one errno map, one line."""

import errno
import os

import pytest

from kvfs import errors


def test_one_line_joins_what_is_wrong_and_what_to_do() -> None:
    assert str(errors.MountError("a\nb  c\t", "d")) == "a b c; d"
    assert str(errors.MountError("a")) == "a"
    assert str(errors.MountError("bell \a, \x1b[31mred, lone \udcff")) == "bell \\x07, \\x1b[31mred, lone \\udcff"


def test_a_group_of_one_error_is_that_error() -> None:
    error = errors.MountError("a", "b")
    assert errors.only_error(ExceptionGroup("tasks", [error])) is error
    assert errors.only_error(ExceptionGroup("tasks", [ExceptionGroup("more", [error])])) is error
    for bug in ([error, ValueError()], [ValueError()], [error, errors.MountError("c")], [KeyboardInterrupt(), error]):
        group = BaseExceptionGroup("tasks", bug)
        assert errors.only_error(group) is group


def test_only_usage_exits_with_two() -> None:
    statuses = {
        name: kind.exit_status
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.KvfsError)
    }
    assert statuses.pop("UsageError") == 2
    assert set(statuses.values()) == {1}
    assert len(statuses) >= 14


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EBUSY, errors.VolumeInUse),
        (errno.EUCLEAN, errors.VolumeCorrupt),
        (errno.EMEDIUMTYPE, errors.NotAVolume),
        (errno.EPROTONOSUPPORT, errors.VolumeTooNew),
        (errno.EROFS, errors.VolumeReadOnly),
        (errno.ENOSPC, errors.NoSpace),
        (errno.EINVAL, errors.VolumeTooSmall),
        (errno.ENOENT, errors.VolumeError),
        (errno.EACCES, errors.VolumeError),
        (errno.EIO, errors.VolumeError),
        (errno.EXDEV, errors.VolumeError),
    ],
)
def test_every_errno_of_the_native_module_has_its_class(code: int, kind: type[errors.KvfsError]) -> None:
    found = errors.from_oserror(OSError(code, os.strerror(code)), "/dev/x")
    assert type(found) is kind
    assert str(found).startswith("/dev/x: ")


def test_native_text_is_kept_and_named_once() -> None:
    native = OSError(errno.EUCLEAN, "/dev/x: superblock A: expected crc 1, found 2")
    assert str(errors.from_oserror(native, "/dev/x")).startswith("/dev/x: superblock A: expected crc 1, found 2; ")
    assert str(errors.from_oserror(OSError(errno.EUCLEAN, "bad; fix it"), "/dev/x")) == "/dev/x: bad; fix it"


def test_the_holder_of_a_store_is_named_in_words() -> None:
    owner = '{"host":"h","pid":7,"mountpoint":"/mnt/kv","user":"u","since":"2025-01-01T00:00:00+00:00"}'
    found = str(errors.from_oserror(OSError(errno.EBUSY, f"in use by {owner}"), "/s"))
    assert found == (
        "/s: in use by pid 7 of u on h, mounted on /mnt/kv since 2025-01-01T00:00:00+00:00; "
        "run `kvfs umount /mnt/kv` first"
    )


@pytest.mark.parametrize("text", ["in use by {", 'in use by {"pid":1}', "in use by somebody", "in use by {}[]"])
def test_a_holder_that_is_not_understood_is_shown_as_it_is(text: str) -> None:
    assert text in str(errors.from_oserror(OSError(errno.EBUSY, text), "/s"))
