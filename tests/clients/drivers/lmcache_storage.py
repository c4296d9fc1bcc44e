"""LMCache 0.5.6: its storage manager with one of its file backends, as the cache engine uses it.

Options: ``backend`` "disk" (LocalDisk), "fs" (FS connector) or "nixl" (NIXL's POSIX plugin, a file a chunk); ``model``;
``chunk_size`` in tokens; ``odirect``; for "fs" also ``chunk_meta`` (28-byte header before the body), ``tmp_dir``
(relative sub-directory for temporary files) and ``read_ahead`` (bytes).

LocalDisk keeps its index in RAM: a new process finds nothing, and stores over the files that the last one left.
The others' index is the directory.
"""

import asyncio
from pathlib import Path
from typing import Any

import torch
from common import MODELS, PATIENCE, check, check_bytes, main, page_bytes, wait_until
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.event_manager import EventManager
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.storage_manager import StorageManager

CHUNKS = 8
OTHER_CONTENT = 1000  # added to a chunk's number: the seed of what it is stored over with
LOCATION = {"disk": "LocalDiskBackend", "fs": "RemoteBackend-fs", "nixl": "NixlStorageBackend"}


class Engine:
    """The part of LMCacheEngine that is not about the GPU: chunks in, chunks out."""

    def __init__(self, directory: Path, options: dict[str, Any]) -> None:
        self.options = options
        self.location = LOCATION[options["backend"]]
        model = MODELS[options["model"]]
        self.chunk_size: int = options["chunk_size"]
        self.metadata = LMCacheMetadata(
            model_name=f"org/{options['model']}",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.bfloat16,
            kv_shape=(model["layers"], 2, self.chunk_size, model["heads"], model["head_size"]),
            chunk_size=self.chunk_size,
        )
        self.manager = StorageManager(self._config(directory), self.metadata, EventManager())
        self.backend = self.manager.storage_backends[self.location]

    def _config(self, directory: Path) -> LMCacheEngineConfig:
        common = {"chunk_size": self.chunk_size, "local_cpu": False, "max_local_cpu_size": 1.0}
        odirect = bool(self.options.get("odirect"))
        if self.options["backend"] == "disk":
            return LMCacheEngineConfig.from_defaults(
                **common,
                local_disk=str(directory),
                max_local_disk_size=4.0,
                extra_config={"use_odirect": odirect},
            )
        if self.options["backend"] == "nixl":
            return LMCacheEngineConfig.from_defaults(
                **common,
                nixl_buffer_device="cpu",
                save_unfull_chunk=False,
                extra_config={
                    "enable_nixl_storage": True,
                    "nixl_backend": "POSIX",
                    "nixl_pool_size": 0,  # files by name, not a pool of them
                    "nixl_path": str(directory),
                    "use_direct_io": odirect,
                },
            )
        extra: dict[str, Any] = {
            "remote_storage_plugin.fs.base_path": str(directory),
            "save_chunk_meta": bool(self.options.get("chunk_meta")),
            "fs_connector_use_odirect": odirect,
        }
        if "tmp_dir" in self.options:
            extra["fs_connector_relative_tmp_dir"] = self.options["tmp_dir"]
        if "read_ahead" in self.options:
            extra["fs_connector_read_ahead_size"] = self.options["read_ahead"]
        return LMCacheEngineConfig.from_defaults(
            **common, remote_storage_plugins=["fs"], remote_serde="naive", extra_config=extra
        )

    def facts(self) -> dict[str, Any]:
        """What the client made of its configuration and of the file system's statfs."""
        if self.options["backend"] == "nixl":
            return {"odirect": bool(self.backend.direct_io_flag)}
        subject = self.backend if self.options["backend"] == "disk" else self.backend.connection.getWrappedConnector()
        return {"odirect": subject.use_odirect, "block_size": subject.os_disk_bs}

    def key(self, chunk: int) -> CacheEngineKey:
        return CacheEngineKey(self.metadata.model_name, 1, 0, 0x5EED_0000_0000 + chunk, torch.bfloat16)

    def tokens(self, chunk: int) -> int:
        """The last chunk of a prompt is not full, where the client stores such chunks."""
        is_partial = chunk == CHUNKS - 1 and self.options["backend"] != "nixl"
        return self.chunk_size // 2 + 1 if is_partial else self.chunk_size

    def store(self, chunks: list[int], offset: int = 0) -> int:
        """All chunks in one batch, as store() of the cache engine does; their bytes."""
        objects: list[MemoryObj] = []
        for chunk in chunks:
            memory = self.manager.allocate(self.metadata.get_shapes(self.tokens(chunk))[0], torch.bfloat16)
            check(memory is not None, "LMCache has no staging memory left")
            view = memoryview(memory.byte_array).cast("B")
            view[:] = page_bytes(chunk + offset, len(view)).data
            objects.append(memory)
        total = sum(len(memory.byte_array) for memory in objects)
        keys = [self.key(chunk) for chunk in chunks]
        self.manager.batched_put(keys, objects)
        wait_until(
            lambda: not any(self.backend.exists_in_put_tasks(key) for key in keys), f"stores of {len(keys)} chunks done"
        )
        return total

    def hits(self, chunks: list[int]) -> list[bool]:
        return [self.manager.contains(self.key(chunk), search_range=[self.location]) is not None for chunk in chunks]

    def remove(self, chunk: int) -> None:
        """By the storage manager, which does not know how for a remote connector."""
        if self.options["backend"] == "fs":
            removed = self.backend.connection.remove_sync(self.key(chunk))
        else:
            removed = self.manager.remove(self.key(chunk), [self.location]) == 1
        check(removed, f"chunk {chunk} is stored and cannot be removed")

    def load(self, chunks: list[int], offset: int = 0) -> None:
        """One by one and as a batch (read by several threads at once), every byte compared."""
        for chunk in chunks:
            self._compare(chunk, offset, self.manager.get(self.key(chunk), location=self.location))
        batch = self.manager.batched_get([self.key(chunk) for chunk in chunks], location=self.location)
        check(len(batch) == len(chunks), f"batched_get of {len(chunks)} chunks returned {len(batch)}")
        for chunk, memory in zip(chunks, batch, strict=True):
            self._compare(chunk, offset, memory)

    def _compare(self, chunk: int, offset: int, memory: MemoryObj | None) -> None:
        check(memory is not None, f"chunk {chunk} was stored and is a miss")
        shape, wanted = memory.get_shape(), self.metadata.get_shapes(self.tokens(chunk))[0]
        check(shape == wanted, f"chunk {chunk}: shape {shape}, stored as {wanted}")
        check_bytes(memory.byte_array, chunk + offset, f"chunk {chunk}")
        memory.ref_count_down()

    def close(self) -> None:
        """memcheck: the client itself lost no staging memory on the way."""
        check(self.manager.memcheck(), "LMCache's own memory check fails")
        self.manager.close()


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """A first engine: misses, stores, hits, reads; stores again; removes one chunk and stores it anew."""
    engine = Engine(directory, options)
    chunks = list(range(CHUNKS))
    check(not any(engine.hits(chunks)), "a hit in an empty cache")
    check(engine.manager.get(engine.key(0), location=engine.location) is None, "a get from an empty cache")
    total = engine.store(chunks)
    check(all(engine.hits(chunks)), f"misses right after the store: {engine.hits(chunks)}")
    check(not any(engine.hits([CHUNKS, CHUNKS + 1])), "a hit of a chunk that nobody stored")
    engine.load(chunks)

    engine.store(chunks[:2], OTHER_CONTENT)
    if options["backend"] == "disk":  # a chunk that is there is not written again
        engine.load(chunks[:2])
    else:
        engine.load(chunks[:2], OTHER_CONTENT)
        engine.store(chunks[:2])
    engine.remove(3)
    check(engine.hits(chunks) == [chunk != 3 for chunk in chunks], f"hits after the removal: {engine.hits(chunks)}")
    engine.store([3])
    engine.load(chunks)
    engine.close()
    return {"bytes": total, "chunks": CHUNKS, **engine.facts()}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """A second engine on what the first one left."""
    engine = Engine(directory, options)
    chunks = list(range(CHUNKS))
    found = engine.hits(chunks)
    if options["backend"] == "disk":
        check(not any(found), "LocalDisk has no index on disk, yet a new process hits")
        engine.store(chunks, OTHER_CONTENT)
        engine.load(chunks, OTHER_CONTENT)
    else:
        check(all(found), f"misses in a new process: {found}")
        engine.load(chunks)
    if options["backend"] == "fs":
        listing = engine.backend.connection.list()
        names = asyncio.run_coroutine_threadsafe(listing, engine.manager.loop).result(PATIENCE)
        check(len(names) == CHUNKS, f"the connector lists {len(names)} keys, {CHUNKS} were stored")
    for chunk in chunks:
        engine.remove(chunk)
    check(not any(engine.hits(chunks)), "hits after everything was removed")
    engine.close()
    return {"hits": sum(found), **engine.facts()}


if __name__ == "__main__":
    main({"store": store, "load": load})
