"""Import of pyverbs, also from where the distribution has it.

pyverbs is built with rdma-core, against the very libibverbs that it is to run with, and distributions ship it for the
system's Python: Debian in ``/usr/lib/python3/dist-packages``, Fedora in that Python's ``site-packages``. kvfs mostly
runs in a virtual environment, which does not look there, and should not: everything else that lies there would come
along. So pyverbs alone is taken from there, and only where it was built for this very ABI: its extension modules carry
the ABI's tag in their names (``device.cpython-311-x86_64-linux-gnu.so``, PEP 3149).

A pyverbs of the environment itself comes first. PyPI's does not import where the system's libibverbs is older than the
one that it was built for, so a failure is no reason to stop looking.
"""

import importlib
import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

_MODULES = ("addr", "base", "cq", "device", "mr", "pd", "pyverbs_error", "qp", "wr")


def folders() -> list[Path]:
    """Where distributions have the modules of the system's Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [
        Path("/usr/lib/python3/dist-packages"),
        Path(f"/usr/lib64/{version}/site-packages"),
        Path(f"/usr/lib/{version}/site-packages"),
    ]


def import_pyverbs(places: list[Path] | None = None) -> dict[str, ModuleType]:
    """Its modules by name. ImportError with the reason for each place where there is one, or where it was looked for.

    ``places``: instead of :func:`folders`.
    """
    places = folders() if places is None else places
    reasons = []
    if importlib.util.find_spec("pyverbs") is not None:
        try:
            return _modules()
        except ImportError as error:
            reasons.append(str(error))
            _forget()
    for place in places:
        package = place / "pyverbs"
        if not (package / "__init__.py").is_file():
            continue
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        if not (package / f"device{suffix}").is_file():
            reasons.append(f"{package} is for another Python than {suffix}")
            continue
        try:
            _import_package(package)
            return _modules()
        except ImportError as error:
            reasons.append(str(error))
            _forget()
    raise ImportError("; ".join(reasons) or f"not found, nor in {', '.join(map(str, places))}")


def _import_package(package: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "pyverbs", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pyverbs"] = module
    spec.loader.exec_module(module)


def _modules() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"pyverbs.{name}") for name in _MODULES}


def _forget() -> None:
    """What a failed import left half-made must not be found by the next."""
    for name in [name for name in sys.modules if name == "pyverbs" or name.startswith("pyverbs.")]:
        del sys.modules[name]
