"""What the kernel lets root set on a FUSE mount, beyond what the INIT reply of libfuse says.

The kernel proposes 128 KiB of read-ahead and 12 background requests, and libfuse leaves it at that. A page of KV is
read whole, so read-ahead is raised to the largest request there is; read-ahead and asynchronous direct I/O are
background requests, of which 12 are few for 16 reader threads.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

READ_AHEAD_KIB = 1024  # libfuse's largest request
BACKGROUND_REQUESTS = 64
CONGESTED_AT = 48  # the kernel's own ratio, three quarters


def tune(device: int) -> None:
    """``device``: st_dev of the mount. What may not be set, or is not there (fusectl is often not mounted), stays."""
    major, minor = os.major(device), os.minor(device)
    bdi = Path(f"/sys/class/bdi/{major}:{minor}")
    connection = Path(f"/sys/fs/fuse/connections/{minor}")
    for path, value in (
        (bdi / "read_ahead_kb", READ_AHEAD_KIB),
        (connection / "max_background", BACKGROUND_REQUESTS),
        (connection / "congestion_threshold", CONGESTED_AT),
    ):
        try:
            path.write_text(str(value))
        except OSError as error:
            log.debug("%s: not set to %d: %s", path, value, error.strerror)
