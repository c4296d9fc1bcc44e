"""Makes empty files until no more fit, then removes them all; fails when the store does not survive that.

Used by test_space.py. Usage: crowd.py STORE.
"""

import errno
import sys
from pathlib import Path

from client import DIRECTORY, FILE, INO, MIB, ROOT, opened_volume


def main(path: Path) -> None:
    with opened_volume(path) as client:
        directory = client.store.mkdir(ROOT, b"dir", DIRECTORY, 0, 0)[INO]
        count = 0
        try:
            while count < 300_000:
                attr = client.store.mknod(directory, b"%0200d" % count, FILE, 0, 0)
                client.store.forget(attr[INO], 1)
                count += 1
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
        assert count > 10_000, f"full after {count} names"
        client.sync()
        for number in range(count):
            client.store.unlink(directory, b"%0200d" % number)
        client.store.rmdir(ROOT, b"dir")
        client.sync()
        client.create(ROOT, b"page", bytes(MIB), durable=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
