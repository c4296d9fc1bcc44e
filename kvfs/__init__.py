"""kvfs: a file system for the KV cache of LLM inference."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("kvfs")
except PackageNotFoundError:  # imported from a checkout that nobody installed
    __version__ = "0+checkout"
