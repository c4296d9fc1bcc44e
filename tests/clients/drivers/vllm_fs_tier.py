"""vLLM 0.33: TieringOffloadingSpec with a secondary tier of type "fs", driven as the scheduler drives it.

Options: ``chunk_bytes``; ``chunks``, at least 8; ``python_io``: without the compiled ``fs_io_C``, as where vLLM was
installed without it.

The GPU's part is played by writes to and reads from the CPU tier's memory. What is stored there cascades to files;
after a cache reset, or in a new process, look-ups find the files and promote them.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import check, check_bytes, main, page_bytes, wait_until

BATCHES = 6  # of the chunks, each a request of its own, so a job of its own and on a thread of its own
SPARE_CHUNKS = 4


class Engine:
    def __init__(self, directory: Path, options: dict[str, Any]) -> None:
        if options.get("python_io"):
            sys.modules["vllm.fs_io_C"] = None  # type: ignore[assignment]
        from vllm.v1.kv_offload import base, config
        from vllm.v1.kv_offload.factory import OffloadingSpecFactory
        from vllm.v1.kv_offload.tiering.fs import io

        check(bool(options.get("python_io")) != io._HAS_FSIO_C, "vLLM's fs_io_C is not as the test wants it")
        self.base = base
        self.chunk_bytes: int = options["chunk_bytes"]
        self.spec = OffloadingSpecFactory.create_spec(
            config.OffloadingConfig(
                groups=(config.OffloadingGroupConfig(tokens_per_block=16, layer_names=("layer.0",), group_id=0),),
                worker_kv_bytes_per_block=self.chunk_bytes,
                enable_kv_cache_events=False,
                extra_config={
                    "spec_name": "TieringOffloadingSpec",
                    "cpu_bytes_to_use": (options["chunks"] + SPARE_CHUNKS) * self.chunk_bytes,
                    "secondary_tiers": [{"type": "fs", "root_dir": str(directory)}],
                },
                engine_id=f"kvfs-clients-{os.getpid()}",
                model=config.OffloadingModelConfig(name="org/model", dtype="bfloat16"),
                cache=config.OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
                parallel=config.OffloadingParallelConfig(
                    rank=0,
                    world_size=1,
                    tp_size=1,
                    pp_size=1,
                    pcp_size=1,
                    dcp_size=1,
                    data_parallel_index=0,
                    data_parallel_size=1,
                    data_parallel_rank_local=None,
                    is_parallelism_agnostic=False,
                ),
            )
        )
        self.manager = self.spec.get_manager()
        self.tier = self.manager.secondary_tiers[0]
        self.memory = np.asarray(self.manager.primary_tier.get_kv_memoryview()).view(np.uint8)
        self._requests = 0

    def slot(self, chunk_id: Any) -> np.ndarray:
        """The bytes of one chunk in the CPU tier."""
        return self.memory[int(chunk_id)][: self.chunk_bytes]

    def new_request(self) -> Any:
        self._requests += 1
        request = self.base.ReqContext(req_id=f"request-{self._requests}")
        self.manager.on_new_request(request)
        return request

    def key(self, chunk: int) -> Any:
        return self.base.make_offload_key(hashlib.sha256(f"chunk {chunk}".encode()).digest(), 0)

    def path(self, chunk: int) -> Path:
        return Path(self.tier.file_mapper.get_file_name(self.key(chunk)))

    def step(self) -> None:
        """The end of one scheduler step."""
        self.manager.on_schedule_end(self.base.ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))

    def settle(self) -> None:
        def idle() -> bool:
            self.step()
            return not self.manager.has_pending_work()

        wait_until(idle, "vLLM's transfers done")

    def store(self, batches: list[list[int]]) -> None:
        """Each batch by a request of its own; all are on their way to the files before the first is waited for."""
        for chunks in batches:
            request = self.new_request()
            keys = [self.key(chunk) for chunk in chunks]
            prepared = self.manager.prepare_store(keys, request)
            check(prepared is not None, f"vLLM has no room in its CPU tier for {len(keys)} chunks")
            check(list(prepared.keys_to_store) == keys, f"{len(prepared.keys_to_store)} of {len(keys)} chunks to store")
            for chunk, slot in zip(chunks, prepared.store_spec.chunk_ids, strict=True):
                self.slot(slot)[:] = page_bytes(chunk, self.chunk_bytes)
            self.manager.complete_store(keys, request)
            self.manager.on_request_finished(request)
        self.settle()

    def look_up(self, request: Any, chunks: list[int]) -> list[bool]:
        """Step by step until every look-up is answered and what was found is promoted; whether each is a hit."""
        result = self.base.LookupResult
        answers: list[Any] = []

        def answered() -> bool:
            nonlocal answers
            answers = [self.manager.lookup(self.key(chunk), request) for chunk in chunks]
            self.step()
            return all(answer in (result.HIT, result.MISS) for answer in answers)

        wait_until(answered, f"look-ups of {len(chunks)} chunks")
        return [answer is result.HIT for answer in answers]

    def load(self, chunks: list[int]) -> None:
        request = self.new_request()
        hits = self.look_up(request, chunks)
        check(all(hits), f"misses among chunks {chunks}: {hits}")
        keys = [self.key(chunk) for chunk in chunks]
        slots = self.manager.prepare_load(keys, request).chunk_ids
        for chunk, slot in zip(chunks, slots, strict=True):
            check_bytes(self.slot(slot), chunk, f"chunk {chunk}")
        self.manager.complete_load(keys, request)
        self.manager.on_request_finished(request)
        self.settle()

    def forget(self) -> None:
        """Empty the CPU tier, as a weight update does; the files stay."""
        self.manager.reset_cache()
        self.manager.on_reset_flushed()
        for slot in range(self.memory.shape[0]):
            self.slot(slot)[:] = 0

    def finish(self, request: Any) -> None:
        self.manager.on_request_finished(request)
        self.settle()

    def close(self) -> None:
        self.memory = np.empty(0, dtype=np.uint8)  # the manager unmaps it
        self.manager.shutdown()

    def facts(self) -> dict[str, Any]:
        return {"odirect": self.tier._use_o_direct}


def temporary_files(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if ".tmp" in path.name or "probe" in path.name]


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    engine = Engine(directory, options)
    chunks = list(range(options["chunks"]))
    request = engine.new_request()
    check(not any(engine.look_up(request, chunks)), "a hit in an empty cache")
    engine.finish(request)

    engine.store([chunks[batch::BATCHES] for batch in range(BATCHES)])
    sizes = {engine.path(chunk).stat().st_size for chunk in chunks}
    check(sizes == {engine.chunk_bytes}, f"files have {sizes} bytes, chunks {engine.chunk_bytes}")
    check(not temporary_files(directory), f"left behind: {temporary_files(directory)}")

    engine.forget()
    engine.load(chunks)  # from the files: the CPU tier was empty
    engine.forget()
    engine.store([[0, 1]])  # files that exist are not written again
    engine.forget()
    engine.load([0, 1])

    # a file cut short by somebody else: vLLM takes it for corrupt, removes it and recomputes
    os.truncate(engine.path(5), engine.chunk_bytes // 2)
    engine.forget()
    request = engine.new_request()
    check(engine.look_up(request, [5]) == [False], "a hit of a file that was cut short")
    engine.finish(request)
    check(not engine.path(5).exists(), "the file that was cut short is still there")
    engine.store([[5]])
    engine.forget()
    engine.load([4, 5, 6])
    facts = engine.facts()
    engine.close()
    return {"bytes": len(chunks) * options["chunk_bytes"], "chunks": len(chunks), **facts}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """A new engine on what the first one left: all chunks, with two requests for different ones at once."""
    engine = Engine(directory, options)
    chunks = list(range(options["chunks"]))
    request = engine.new_request()
    new = [len(chunks), len(chunks) + 1]
    check(engine.look_up(request, new[:1]) == [False], "a hit of a chunk that nobody stored")
    engine.finish(request)
    engine.load(chunks)
    engine.store([[chunk] for chunk in new])
    engine.forget()
    engine.load([*reversed(new), *chunks[:4]])
    facts = engine.facts()
    engine.close()
    return {"hits": len(chunks), **facts}


if __name__ == "__main__":
    main({"store": store, "load": load})
