"""Probes of the native module: whether it loads, what it was built with, what it uses of this processor."""

from importlib import import_module
from types import ModuleType

from kvfs.cli.probes.finding import Finding, State


def native_module() -> Finding:
    purpose = "the store"
    name = "native module"
    module = _native()
    if isinstance(module, ImportError):
        return Finding(name, State.MISSING, str(module), purpose, "run tools/quickstart --setup", required=True)
    return Finding(name, State.OK, f"{module.__file__}, format version {module.FORMAT_VERSION}", purpose, required=True)


def liburing() -> Finding:
    purpose = "io_uring from native code"
    module = _native()
    if isinstance(module, ImportError):
        return Finding("liburing", State.UNKNOWN, "the native module does not load", purpose)
    return Finding("liburing", State.OK, f"built with {module.LIBURING_VERSION}", purpose)


def checksum_instructions() -> Finding:
    """XXH3 chooses at run time, by what the processor has."""
    purpose = "verifying every page that is read, at memory speed"
    name = "XXH3 instructions"
    module = _native()
    if isinstance(module, ImportError):
        return Finding(name, State.UNKNOWN, "the native module does not load", purpose)
    unit = module.XXH3_VECTOR_UNIT
    if unit.lower() in ("scalar", "sse2"):
        return Finding(name, State.LIMITED, f"{unit} in use", purpose, "use a processor with AVX2")
    return Finding(name, State.OK, f"{unit} in use", purpose)


def _native() -> ModuleType | ImportError:
    try:
        return import_module("kvfs._native")
    except ImportError as error:
        return error


PROBES = (native_module, liburing, checksum_instructions)
