"""The file system that the kernel talks to: pyfuse3 handlers, the control directory, the life of a mount."""

from kvfs.fs.mount import serve
from kvfs.fs.options import MountOptions

__all__ = ["MountOptions", "serve"]
