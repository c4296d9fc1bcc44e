"""Probes of the native module: whether it loads, what it was built with, what it uses of this processor."""

import os
from importlib import import_module

from kvfs.cli.probes.finding import Finding, State
from kvfs.cli.probes.system import read


def native_module() -> Finding:
    purpose = "the store"
    name = "native module"
    try:
        module = import_module("kvfs._native")
    except ImportError as error:
        return Finding(name, State.MISSING, str(error), purpose, "run tools/quickstart --setup", required=True)
    return Finding(name, State.OK, f"{module.__file__}, format version {module.FORMAT_VERSION}", purpose, required=True)


def liburing() -> Finding:
    purpose = "io_uring from native code"
    version = _build_information().get("liburing")
    if version is None:
        return Finding("liburing", State.UNKNOWN, "the native module does not tell", purpose)
    return Finding("liburing", State.OK, f"built with {version}", purpose)


def checksum_instructions() -> Finding:
    """The XXH3 that the native module is built with chooses at run time, by what the processor has."""
    purpose = "verifying every page that is read, at memory speed"
    name = "XXH3 instructions"
    machine = os.uname().machine
    if machine != "x86_64":
        return Finding(name, State.OK, f"those of {machine}, chosen by the compiler", purpose)
    flags = (read("/proc/cpuinfo") or "").partition("\nflags")[2].partition("\n")[0].split()
    for flag, instructions in (("avx512f", "AVX-512"), ("avx2", "AVX2")):
        if flag in flags:
            return Finding(name, State.OK, instructions, purpose)
    return Finding(name, State.LIMITED, "SSE2, the processor has no AVX2", purpose, "use a processor with AVX2")


def _build_information() -> dict[str, str]:
    """``_native.BUILD``: what the module recorded of its build and of the processor."""
    try:
        return dict(getattr(import_module("kvfs._native"), "BUILD", {}))
    except ImportError:
        return {}


PROBES = (native_module, liburing, checksum_instructions)
