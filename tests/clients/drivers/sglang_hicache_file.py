"""SGLang 0.5.23: the HiCacheFile storage backend, called as HiCacheController's backup and prefetch threads call it.

Options: ``model``; ``page_tokens``; ``metadata_cache``: positive lookups are remembered by SGLang.

A second process finds the pages by name and, where a size limit is set, their age by mtime, for SGLang's own LRU.
SGLang's host pool classes import its multimodal models, so a plain pool of the same interface stands in for them.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from common import MODELS, at_once, check, check_bytes, main, page_bytes
from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig, PoolName, PoolTransfer

PAGES = 8
EXTRA = range(PAGES, PAGES + 3)
LRU_PAGES = 5  # the size limit of the LRU phases


def page_key(page: int) -> str:
    return hashlib.sha256(f"page {page}".encode()).hexdigest()


class HostPool:
    """Pages of ``page_size`` tokens in host memory, by the index of their first token, as HostKVCache has them."""

    def __init__(self, page_size: int, page_bytes_: int, pages: int) -> None:
        self.page_size = page_size
        self.page_elements = page_bytes_ // 2
        self.buffer = torch.zeros((pages, self.page_elements), dtype=torch.bfloat16)

    def get_data_page(self, index: int, flat: bool = True) -> torch.Tensor:
        return self.buffer[index // self.page_size]

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros(self.page_elements, dtype=torch.bfloat16)

    def set_from_flat_data_page(self, index: int, data_page: torch.Tensor) -> None:
        self.buffer[index // self.page_size] = data_page


class Engine:
    """The storage backend and the host memory that its pages travel through."""

    def __init__(self, directory: Path, options: dict[str, Any], limited: bool = False) -> None:
        model = MODELS[options["model"]]
        self.page_tokens: int = options["page_tokens"]
        self.page_size = self.page_tokens * 2 * 2 * model["layers"] * model["heads"] * model["head_size"]
        extra: dict[str, Any] = {
            "file_storage_path": str(directory),
            "enable_metadata_cache": bool(options.get("metadata_cache")),
        }
        if limited:  # statvfs at every write, listdir and mtimes at the start
            extra |= {"max_size": LRU_PAGES * self.page_size, "eviction_ratio": 1.0, "min_free_space": "1M"}
        self.pool = HostPool(self.page_tokens, self.page_size, PAGES + len(EXTRA))
        self.storage = HiCacheFile(
            HiCacheStorageConfig(
                tp_rank=0,
                tp_size=1,
                pp_rank=0,
                pp_size=1,
                attn_cp_rank=0,
                attn_cp_size=1,
                is_mla_model=False,
                enable_storage_metrics=False,
                is_page_first_layout=True,
                model_name=f"org/{options['model']}",
                extra_config=extra,
            )
        )
        self.storage.register_mem_pool_host(self.pool)
        self.storage.register_mem_host_pool_v2(self.pool, PoolName.KV)

    def hits(self, pages: list[int]) -> int:
        """How many from the first on are in storage."""
        return int(self.storage.batch_exists_v2([page_key(page) for page in pages]).kv_hit_pages)

    def _transfer(self, pages: list[int]) -> PoolTransfer:
        indices = [torch.arange(page * self.page_tokens, (page + 1) * self.page_tokens) for page in pages]
        return PoolTransfer(name=PoolName.KV, host_indices=torch.cat(indices), keys=[page_key(page) for page in pages])

    def backup(self, pages: list[int], offset: int = 0) -> None:
        for page in pages:
            content = torch.from_numpy(page_bytes(page + offset, self.page_size)).view(torch.bfloat16)
            self.pool.set_from_flat_data_page(page * self.page_tokens, content)
        done = self.storage.batch_set_v2([self._transfer(pages)])[PoolName.KV]
        check(done == [True] * len(pages), f"batch_set_v2 of pages {pages}: {done}")

    def prefetch(self, pages: list[int]) -> None:
        for page in pages:
            self.pool.set_from_flat_data_page(page * self.page_tokens, self.pool.get_dummy_flat_data_page())
        done = self.storage.batch_get_v2([self._transfer(pages)])[PoolName.KV]
        check(done == [True] * len(pages), f"batch_get_v2 of pages {pages}: {done}")
        for page in pages:
            found = self.pool.get_data_page(page * self.page_tokens).view(torch.uint8).numpy()
            check_bytes(found, page, f"page {page}")

    def get(self, pages: list[int]) -> list[bool]:
        """The older interface: pages one by one; which of them were there. Those that were are compared."""
        targets = [self.pool.get_dummy_flat_data_page() for _ in pages]
        found = self.storage.batch_get([page_key(page) for page in pages], targets)
        for page, content in zip(pages, found, strict=True):
            if content is not None:
                check_bytes(content.view(torch.uint8).numpy(), page, f"page {page}")
        return [content is not None for content in found]


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    engine = Engine(directory, options)
    pages = list(range(PAGES))
    first, second = pages[: PAGES // 2], pages[PAGES // 2 :]
    check(engine.hits(pages) == 0, "a hit in an empty cache")
    engine.backup(first)
    check(engine.hits(pages) == len(first), f"{engine.hits(pages)} hits after {len(first)} pages were stored")
    at_once(lambda: engine.backup(second), lambda: engine.prefetch(first))
    check(engine.hits(pages) == PAGES, f"{engine.hits(pages)} hits after {PAGES} pages were stored")
    engine.backup(first, offset=1000)  # a page that is there is not written again
    engine.prefetch(pages)

    check(engine.storage.clear(), "clear() failed")
    check(engine.hits(pages) == 0, "a hit after clear()")
    check(engine.get([0]) == [False], "a page after clear()")
    engine.backup(pages)
    check(all(engine.get(pages)), f"pages read one by one: {engine.get(pages)}")
    return {"bytes": PAGES * engine.page_size, "pages": PAGES}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    engine = Engine(directory, options)
    pages = list(range(PAGES))
    found = engine.hits(pages)
    check(found == PAGES, f"{found} hits in a new process, {PAGES} pages were stored")
    check(engine.hits([*EXTRA]) == 0, "a hit of a page that nobody stored")
    at_once(lambda: engine.prefetch(pages), lambda: engine.backup([*EXTRA]))
    engine.prefetch([*EXTRA])
    check(engine.storage.clear(), "clear() failed")
    check(engine.hits(pages) == 0, "a hit after clear()")
    return {"hits": found}


def kept_pages(engine: Engine) -> list[int]:
    return [page for page in range(LRU_PAGES + 2) if engine.hits([page])]


def lru_store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    engine = Engine(directory, options, limited=True)
    for page in range(LRU_PAGES + 2):
        engine.backup([page])
    kept = kept_pages(engine)
    check(kept == list(range(2, LRU_PAGES + 2)), f"pages that SGLang's LRU kept: {kept}")
    return {"kept": len(kept)}


def lru_load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The order comes from the mtimes alone: the next page drives out the one that was stored first."""
    engine = Engine(directory, options, limited=True)
    engine.backup([EXTRA[0]])
    kept = kept_pages(engine)
    check(kept == list(range(3, LRU_PAGES + 2)), f"pages that SGLang's LRU kept after the remount: {kept}")
    engine.prefetch([*kept, EXTRA[0]])
    return {"kept": len(kept)}


if __name__ == "__main__":
    main({"store": store, "load": load, "lru_store": lru_store, "lru_load": lru_load})
