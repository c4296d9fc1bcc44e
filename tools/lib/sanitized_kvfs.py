"""Makes ``import kvfs._native`` load the sanitized build that lies beside this environment (see sanitize.sh)."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path


class SanitizedNative:
    """kvfs itself is found in the checkout, where it has no native part."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name != "kvfs._native":
            return None
        (library,) = (Path(sys.prefix).parent / "native").glob("_native.*.so")
        return importlib.util.spec_from_file_location(name, library)


sys.meta_path.insert(0, SanitizedNative)  # type: ignore[arg-type]  # a class with a static method is finder enough
