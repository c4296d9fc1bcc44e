"""NIXL 1.5.1, POSIX plugin: transfers between registered memory and files, as its offloading users do them.

Options: ``queue`` "linux_aio", "posix_aio" or "io_uring"; ``direct``: open the files with O_DIRECT.

Like SGLang's and LMCache's NIXL backends: files are opened ``O_RDWR | O_CREAT``, written in place in one transfer
of many descriptors, and completion is polled. The plugin takes any result of an asynchronous read for success, so
the bytes are compared and nothing else is believed.
"""

import mmap
import os
from pathlib import Path
from typing import Any

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

    def transfer(self, operation: str, pieces: list[tuple[int, int, int, int]]) -> None:
        """``pieces``: (offset in the buffer, length, file descriptor, offset in the file), all in one request."""
        local = self.agent.get_xfer_descs([(self.address + begin, size, 0) for begin, size, _, _ in pieces], "DRAM")
        remote = self.agent.get_xfer_descs([(where, size, fd) for _, size, fd, where in pieces], "FILE")
        ends: dict[int, int] = {}
        for _, size, fd, where in pieces:
            ends[fd] = max(ends.get(fd, 0), where + size)
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

    def pages(self, directory: Path) -> list[tuple[int, int, int, int]]:
        """Every page a file of its own."""
        pieces, begin = [], 0
        for number, size in enumerate(SIZES):
            pieces.append((begin, size, self.open(directory / f"page-{number}.bin"), 0))
            begin += size
        return pieces

    def pool(self, directory: Path) -> list[tuple[int, int, int, int]]:
        """Every page a slot of one file, in an order that leaves holes while it is written."""
        fd = self.open(directory / "pool.bin")
        slots = [(number * 37) % POOL_PAGES for number in range(POOL_PAGES)]
        return [(number * POOL_PAGE, POOL_PAGE, fd, slot * POOL_PAGE) for number, slot in enumerate(slots)]

    def fill(self, pieces: list[tuple[int, int, int, int]], seed: int) -> None:
        for number, (begin, size, _, _) in enumerate(pieces):
            self.buffer[begin : begin + size] = page_bytes(seed + number, size)

    def compare(self, pieces: list[tuple[int, int, int, int]], seed: int, what: str) -> None:
        for number, (begin, size, _, _) in enumerate(pieces):
            check_bytes(self.buffer[begin : begin + size], seed + number, f"{what}, piece {number}")

    def round_trip(self, pieces: list[tuple[int, int, int, int]], seed: int, what: str) -> None:
        self.fill(pieces, seed)
        self.transfer("WRITE", pieces)
        self.read_back(pieces, seed, what)

    def read_back(self, pieces: list[tuple[int, int, int, int]], seed: int, what: str) -> None:
        self.buffer[:] = 0
        self.transfer("READ", pieces)
        self.compare(pieces, seed, what)


def close_all(pieces: list[tuple[int, int, int, int]]) -> None:
    for fd in {fd for _, _, fd, _ in pieces}:
        os.close(fd)


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """New files, files overwritten in place, and slots of a pool file; each read back in the same process."""
    agent = Agent(options)
    found = agent.agent.query_memory([(0, 0, 0, str(directory / "page-0.bin"))], "POSIX", "FILE")
    check(found == [None], f"query of a file that nobody wrote: {found}")
    pages = agent.pages(directory)
    agent.round_trip(pages, OTHER_CONTENT, "a new file")
    agent.round_trip(pages, 0, "a file written over")
    close_all(pages)
    found = agent.agent.query_memory([(0, 0, 0, str(directory / "page-0.bin"))], "POSIX", "FILE")
    check(found[0] is not None, "query of a file that was written")
    pool = agent.pool(directory)
    agent.round_trip(pool, OTHER_CONTENT, "a slot of a new pool")
    agent.round_trip(pool[::2], 0, "a slot written over")
    close_all(pool)
    sizes = [(directory / f"page-{number}.bin").stat().st_size for number in range(len(SIZES))]
    check(sizes == SIZES, f"sizes of the files are {sizes}, written were {SIZES}")
    return {"bytes": sum(SIZES), "pages": len(SIZES), "direct": agent.direct, "plugins": agent.agent.get_plugin_list()}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that the first process left."""
    agent = Agent(options)
    pages = agent.pages(directory)
    agent.read_back(pages, 0, "a file after the remount")
    close_all(pages)
    pool = agent.pool(directory)
    agent.read_back(pool[::2], 0, "a slot after the remount")
    agent.buffer[:] = 0
    agent.transfer("READ", pool[1::2])
    for number, (begin, size, _, _) in enumerate(pool):
        if number % 2:
            check_bytes(agent.buffer[begin : begin + size], OTHER_CONTENT + number, f"slot of piece {number}")
    close_all(pool)
    return {"pages": len(SIZES)}


if __name__ == "__main__":
    main({"store": store, "load": load})
