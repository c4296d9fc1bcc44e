"""safetensors 0.8: KV pages as tensors in files, saved in one go and read through a memory mapping.

Options: ``framework`` "torch" or "numpy".
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import KIB, MIB, at_once, check, check_bytes, main, page_bytes
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

# bytes of K and of V, in each file
SIZES = [2 * MIB, 98 * 57_344, 32 * MIB, 4 * KIB, 2]
THREADS = 4
OTHER_CONTENT = 1000


def tensors(number: int, size: int, framework: str, offset: int = 0) -> dict[str, Any]:
    """K and V of one page, 16 bits an element."""
    arrays = {name: page_bytes(2 * number + index + offset, size).copy() for index, name in enumerate(("k", "v"))}
    if framework == "numpy":
        return {name: array.view(np.float16) for name, array in arrays.items()}
    return {name: torch.from_numpy(array).view(torch.bfloat16) for name, array in arrays.items()}


def raw(tensor: Any) -> np.ndarray:
    array = tensor.contiguous().view(torch.uint8).numpy() if isinstance(tensor, torch.Tensor) else tensor
    return np.ascontiguousarray(array).view(np.uint8)


def compare(path: Path, number: int, framework: str, offset: int = 0) -> None:
    """Whole, by load_file; and a slice of each tensor, by safe_open, which touches only some pages of the mapping."""
    loaded = (load_torch if framework == "torch" else load_numpy)(path)
    check(sorted(loaded) == ["k", "v"], f"{path.name} holds {sorted(loaded)}")
    for index, name in enumerate(("k", "v")):
        check_bytes(raw(loaded[name]), 2 * number + index + offset, f"{path.name}, {name}")
    with safe_open(path, framework="pt" if framework == "torch" else "np") as file:
        check(file.metadata() == {"page": str(number)}, f"{path.name}: metadata {file.metadata()}")
        for index, name in enumerate(("k", "v")):
            part = file.get_slice(name)
            begin, end = part.get_shape()[0] // 2, part.get_shape()[0]
            wanted = page_bytes(2 * number + index + offset, 2 * end)[2 * begin :]
            check(np.array_equal(raw(part[begin:end]), wanted), f"{path.name}: the second half of {name} is wrong")


def store(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    framework = options["framework"]
    save = save_torch if framework == "torch" else save_numpy

    def work(thread: int) -> None:
        for number, size in enumerate(SIZES):
            path = directory / f"{thread}-{number}.safetensors"
            for offset in (OTHER_CONTENT, 0):  # a new file, then a file saved over
                save(tensors(number, size, framework, offset), path, {"page": str(number)})
                compare(path, number, framework, offset)

    at_once(*(functools.partial(work, thread) for thread in range(THREADS)))
    return {"files": THREADS * len(SIZES), "bytes": 2 * THREADS * sum(SIZES)}


def load(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What the first process saved; also through mappings that outlive the file's name."""
    framework = options["framework"]
    paths = sorted(directory.iterdir())
    for path in paths:
        compare(path, int(path.stem.split("-")[1]), framework)
    survivor = directory / "0-2.safetensors"
    held = load_torch(survivor)
    survivor.unlink()
    check(not survivor.exists(), "unlinked, and still there")
    for index, name in enumerate(("k", "v")):
        check_bytes(raw(held[name]), 4 + index, f"{name} of a file that was unlinked while mapped")
    return {"files": len(paths)}


if __name__ == "__main__":
    main({"store": store, "load": load})
