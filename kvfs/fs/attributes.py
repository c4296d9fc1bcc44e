"""Native attributes as pyfuse3 wants them, and how long the kernel may believe them.

The daemon is the only one that changes the store, and nearly every change comes through the kernel, which
then updates or forgets what it has cached. So names, present and absent, hold for long. What the kernel does not see:

* ``st_blocks``, which settles when data reaches the device: hence one second for files;
* atime when a file is opened and its pages are cached: announced with a notification when it is closed;
* a corrupt file that native drops: announced with a notification (see ``operations``).
"""

from stat import S_IFDIR, S_IFMT

from pyfuse3 import EntryAttributes

from kvfs._native import BLOCK_SIZE, ROOT_INODE, Attr

NAME_TIMEOUT = 3600.0  # s
FILE_ATTR_TIMEOUT = 1.0  # s
DIRECTORY_ATTR_TIMEOUT = 60.0  # s; permission checks of every path walk read these
ROOT_ATTR_TIMEOUT = 1.0  # s; whoever asks whether the mount is alive stats its root, and shall not be told by a cache


def entry(attr: Attr, into: EntryAttributes | None = None) -> EntryAttributes:
    """``attr`` as a directory entry, for LOOKUP, GETATTR and READDIRPLUS alike; reuses ``into`` when given."""
    result = EntryAttributes() if into is None else into
    (
        ino,
        result.generation,
        mode,
        result.st_nlink,
        result.st_uid,
        result.st_gid,
        result.st_rdev,
        result.st_size,
        result.st_blocks,
        result.st_atime_ns,
        result.st_mtime_ns,
        result.st_ctime_ns,
    ) = attr
    result.st_ino = ino
    result.st_mode = mode
    result.st_blksize = BLOCK_SIZE
    result.entry_timeout = NAME_TIMEOUT
    if S_IFMT(mode) != S_IFDIR:
        result.attr_timeout = FILE_ATTR_TIMEOUT
    else:
        result.attr_timeout = ROOT_ATTR_TIMEOUT if ino == ROOT_INODE else DIRECTORY_ATTR_TIMEOUT
    return result


def absent_entry() -> EntryAttributes:
    """What makes the kernel remember that a name does not exist: inode number 0 and a lifetime."""
    result = EntryAttributes()
    result.st_ino = 0
    result.entry_timeout = NAME_TIMEOUT
    return result
