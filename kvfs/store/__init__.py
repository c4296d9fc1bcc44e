"""The Python face of the native store.

``Engine`` is what the rest of kvfs uses of an open volume; ``kvfs._native`` has the administration calls
(``format_store``, ``inspect``, ``check``), which block.
"""

from kvfs.store.engine import Engine, EngineStatistics

__all__ = ["Engine", "EngineStatistics"]
