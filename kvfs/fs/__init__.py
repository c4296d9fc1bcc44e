"""The file system that the kernel talks to: pyfuse3 handlers, the control directory, the life of a mount."""

from kvfs.fs.mount import MountOptions, serve

__all__ = ["MountOptions", "serve"]
