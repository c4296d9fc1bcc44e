"""Changes pages on a store until it is killed. See test_crash.py.

Usage: victim.py STORE SEED. Prints ``begin NAME VERSION`` before a change and ``done NAME VERSION`` when it is durable;
version 0 is a deletion.
"""

import random
import sys
import time
from pathlib import Path

from client import ROOT, Client

NAMES = 24


def page(name: str, version: int) -> bytes:
    """Its content: the version, then noise that depends on it."""
    chance = random.Random(f"{name} {version}")
    return version.to_bytes(8, "little") + chance.randbytes(chance.choice([0, 100, 5_000, 300_000, 600_000]))


def main(path: Path, seed: int) -> None:
    client = Client(path)
    chance = random.Random(seed)
    if client.find(ROOT, b"tmp") is not None:
        client.store.unlink(ROOT, b"tmp")
    while True:
        name = f"page{chance.randrange(NAMES)}"
        encoded = name.encode()
        present = client.find(ROOT, encoded)
        action = chance.choice(["rename", "rename", "overwrite", "unlink"]) if present else "rename"
        version = 0 if action == "unlink" else time.time_ns()  # grows from one victim to the next as well
        print("begin", name, version, flush=True)
        if action == "unlink":
            client.store.unlink(ROOT, encoded)
            client.fsync(ROOT)
        elif action == "overwrite" and present:
            with client.opened(present, write=True):
                data = page(name, version)
                client.write(present, 0, data)
                client.truncate(present, len(data))
                client.fsync(present)
        else:
            client.create(ROOT, b"tmp", page(name, version), durable=chance.random() < 0.5)
            client.rename(ROOT, b"tmp", ROOT, encoded)
            client.fsync(ROOT)
        print("done", name, version, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
