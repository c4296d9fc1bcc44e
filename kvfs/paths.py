"""Where kvfs keeps what nobody named: the default store and the logs.

Root's lie in the system's places; an ordinary user's follow the XDG base directory specification, which
says that a relative value of its variables is to be ignored.
"""

import os
import re
from pathlib import Path

from kvfs.errors import UsageError


def data_directory() -> Path:
    """Holds the default store: /var/lib/kvfs, or $XDG_DATA_HOME/kvfs."""
    return Path("/var/lib/kvfs") if os.geteuid() == 0 else _user("XDG_DATA_HOME", ".local/share")


def log_directory() -> Path:
    """Holds one log per mountpoint: /var/log/kvfs, or $XDG_STATE_HOME/kvfs."""
    return Path("/var/log/kvfs") if os.geteuid() == 0 else _user("XDG_STATE_HOME", ".local/state")


def state_directory() -> Path:
    """Holds what kvfs found out about this machine: /var/lib/kvfs, or $XDG_STATE_HOME/kvfs."""
    return Path("/var/lib/kvfs") if os.geteuid() == 0 else _user("XDG_STATE_HOME", ".local/state")


def default_store() -> Path:
    """The embedded store that is mounted when none is named."""
    return data_directory() / "default.kvfs"


def default_log(mountpoint: Path) -> Path:
    """The log of the daemon that serves ``mountpoint``: /mnt/kv logs to mnt-kv.log."""
    name = re.sub(r"[^\w.-]+", "-", str(mountpoint).strip("/")) or "root"
    return log_directory() / f"{name[-200:]}.log"


def require_text(path: Path) -> Path:
    """``path`` itself; UsageError when it is not UTF-8: stores and mounts are shown in JSON, which is."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"expected a path in UTF-8, found {path}", "rename it, or use another") from None
    return path


def _user(variable: str, fallback: str) -> Path:
    value = Path(os.environ.get(variable, ""))
    return (value if value.is_absolute() else Path.home() / fallback) / "kvfs"
