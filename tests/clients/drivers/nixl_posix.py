"""NIXL 1.5.1, POSIX plugin: transfers between registered memory and files, as its offloading users do them.

Options: ``queue`` "linux_aio", "posix_aio" or "io_uring"; ``direct``: open the files with O_DIRECT.

Like SGLang's and LMCache's NIXL backends: files are opened ``O_RDWR | O_CREAT``, written in place in one transfer
of many descriptors, and completion is polled. The plugin takes any result of an asynchronous read for success, so
the bytes are compared and nothing else is believed.
"""

import itertools
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import KIB, MIB, check, check_bytes, main, page_bytes, wait_until
from nixl._api import nixl_agent, nixl_agent_config

# backend parameter that asks for each kind of queue
QUEUES = {"linux_aio": "use_aio", "posix_aio": "use_posix_aio", "io_uring": "use_uring"}
# bytes of each page, a mixture of what engines hand over; multiples of 4 KiB, as O_DIRECT wants them
SIZES = [2 * MIB] * 8 + [98 * 57_344] * 4 + [32 * MIB] * 2 + [4 * KIB, 64 * KIB, 128 * KIB, 1 * MIB]
POOL_PAGES = 64  # pages of one pool file, as FlexKV and SGLang's hf3fs lay them out
POOL_PAGE = 256 * KIB
OTHER_CONTENT = 1000


class Piece(NamedTuple):
    """One descriptor: ``size`` bytes at ``begin`` in the staging buffer and at ``where`` in the file, of ``seed``."""

    begin: int
    size: int
    fd: int
    where: int
    seed: int


class Agent:
    """One agent with one POSIX backend and one registered staging buffer."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.direct: bool = options["direct"]
        self.agent = nixl_agent("kvfs-clients", nixl_agent_config(backends=[]))
        self.agent.create_backend("POSIX", {QUEUES[options["queue"]]: "true"})
        memory = mmap.mmap(-1, sum(SIZES))  # page-aligned
        self.buffer = np.frombuffer(memory, dtype=np.uint8)
        self.address = self.buffer.ctypes.data
        self.registered = self.agent.register_memory([(self.address, len(memory), 0, "staging")], "DRAM")

    def transfer(self, operation: str, pieces: list[Piece]) -> None:
        """All pieces in one request, as an engine hands over the pages of a prompt."""
        local = self.agent.get_xfer_descs([(self.address + piece.begin, piece.size, 0) for piece in pieces], "DRAM")
        remote = self.agent.get_xfer_descs([(piece.where, piece.size, piece.fd) for piece in pieces], "FILE")
        ends: dict[int, int] = {}
        for piece in pieces:
            ends[piece.fd] = max(ends.get(piece.fd, 0), piece.where + piece.size)
        files = self.agent.register_memory([(0, end, fd, "file") for fd, end in ends.items()], "FILE")
        request = self.agent.initialize_xfer(operation, local, remote, self.agent.name)
        state = self.agent.transfer(request)

        def finished() -> bool:
            nonlocal state
            if state == "PROC":
                state = self.agent.check_xfer_state(request)
            return state != "PROC"

        wait_until(finished, f"{operation} of {len(pieces)} pieces")
        check(state == "DONE", f"NIXL says {state} for {operation} of {len(pieces)} pieces")
        self.agent.release_xfer_handle(request)
        self.agent.deregister_memory(files)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if self.direct else 0), 0o644)

    def pages(self, directory: Path, seed: int) -> list[Piece]:
        """Every page a file of its own."""
        begins = itertools.accumulate(SIZES, initial=0)
        return [
            Piece(begin, size, self.open(directory / f"page-{number}.bin"), 0, seed + number)
            for number, (begin, size) in enumerate(zip(begins, SIZES, strict=False))
        ]

    def pool(self, directory: Path, seed: int) -> list[Piece]:
        """Every page a slot of one file, in an order that leaves holes while it is written."""
        fd = self.open(directory / "pool.bin")
        return [
            Piece(number * POOL_PAGE, POOL_PAGE, fd, (number * 37) % POOL_PAGES * POOL_PAGE, seed + number)
            for number in range(POOL_PAGES)
        ]

    def write(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self.buffer[piece.begin : piece.begin + piece.size] = page_bytes(piece.seed, piece.size)
        self.transfer("WRITE", pieces)

    def read(self, pieces: list[Piece], what: str) -> None:
        """Into a buffer that was wiped, every byte compared."""
        self.buffer[:] = 0
        self.transfer("READ", pieces)
        for number, piece in enumerate(pieces):
            found = self.buffer[piece.begin : piece.begin + piece.size]
            check_bytes(found, piece.seed, f"{what}, piece {number}")


def with_seed(pieces: list[Piece], seed: int) -> list[Piece]:
    return [piece._replace(seed=seed + number) for number, piece in enumerate(pieces)]


def close_all(pieces: list[Piece]) -> None:
    for fd in {piece.fd for piece in pieces}:
        os.close(fd)


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """New files, files overwritten in place, and slots of a pool file; each read back in the same process."""
    agent = Agent(options)
    found = agent.agent.query_memory([(0, 0, 0, str(directory / "page-0.bin"))], "POSIX", "FILE")
    check(found == [None], f"query of a file that nobody wrote: {found}")
    pages = agent.pages(directory, OTHER_CONTENT)
    agent.write(pages)
    agent.read(pages, "a new file")
    pages = with_seed(pages, 0)
    agent.write(pages)
    agent.read(pages, "a file written over")
    close_all(pages)
    found = agent.agent.query_memory([(0, 0, 0, str(directory / "page-0.bin"))], "POSIX", "FILE")
    check(found[0] is not None, "query of a file that was written")

    pool = agent.pool(directory, OTHER_CONTENT)
    agent.write(pool)
    agent.read(pool, "a slot of a new pool")
    pool[::2] = with_seed(pool[::2], 0)
    agent.write(pool[::2])
    agent.read(pool, "a slot of a pool that was half written over")
    close_all(pool)
    sizes = [(directory / f"page-{number}.bin").stat().st_size for number in range(len(SIZES))]
    check(sizes == SIZES, f"sizes of the files are {sizes}, written were {SIZES}")
    return {"bytes": sum(SIZES), "pages": len(SIZES), "direct": agent.direct, "plugins": agent.agent.get_plugin_list()}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that the first process left."""
    agent = Agent(options)
    pages = agent.pages(directory, 0)
    agent.read(pages, "a file after the remount")
    close_all(pages)
    pool = agent.pool(directory, OTHER_CONTENT)
    pool[::2] = with_seed(pool[::2], 0)
    agent.read(pool, "a slot after the remount")
    close_all(pool)
    return {"pages": len(SIZES)}


if __name__ == "__main__":
    main({"store": store, "load": load})
