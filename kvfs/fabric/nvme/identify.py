"""What controllers and namespaces say of themselves, by nvme-cli."""

from pathlib import Path
from typing import Any


def identify_controller(path: Path) -> dict[str, Any]:
    raise NotImplementedError


def identify_namespace(path: Path) -> dict[str, Any]:
    raise NotImplementedError


def smart_log(path: Path) -> dict[str, Any]:
    raise NotImplementedError


def reservation_report(path: Path) -> dict[str, Any]:
    raise NotImplementedError
