"""A process of its own for what the kernel may take long over: making and deleting a controller.

A write to /dev/nvme-fabrics, or to a controller's ``delete_controller``, returns when the kernel is done: after 78 s
for an RDMA address that nobody has, after 60 s for a target that stopped in the middle of it. Nothing ends a thread
that sits there, so a process does it, which may outlive whoever asked.

Whoever asked writes one line of JSON to the standard input, and reads one from the standard output::

    {"do": "connect", "options": "transport=tcp,..."}   keys come this way, and so are seen by nobody
    {"do": "disconnect", "name": "nvme1"}
    {"instance": 1, "cntlid": 1} | {"deleted": true} | {"errno": 111, "log": ["nvme nvme3: failed ...", ...]}

A controller that was made is on loan until a line "keep" comes. The end of the input instead, as when the other side
was killed, deletes it; so does SIGTERM, which also ends those of the kernel's waits that can be ended. So: nothing is
left connected that nobody answers for, whichever side dies when, unless this process itself is killed with SIGKILL.

Standard library alone, and run by its path: no import of the package delays it.
"""

import errno
import json
import os
import re
import signal
import sys

_FABRICS = "/dev/nvme-fabrics"
_KERNEL_LOG = "/dev/kmsg"


class _Abandoned(Exception):
    """SIGTERM: nobody waits for the outcome."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # heeded where the kernel waits, and only there
    request = json.loads(sys.stdin.buffer.readline())
    if request["do"] == "connect":
        return _connect(request["options"])
    return _disconnect(request["name"])


def _connect(options: str) -> int:
    log = _open_log()
    try:
        fabrics = os.open(_FABRICS, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        _answer({"errno": error.errno, "log": [], "open": True})
        return 1
    try:
        try:
            signal.signal(signal.SIGTERM, _abandon)
            os.write(fabrics, options.encode())
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except OSError as error:
        _answer({"errno": error.errno, "log": _new_lines(log)})
        return 1
    except _Abandoned:
        pass  # before the kernel was done, or just after
    found = re.match(r"instance=(\d+),cntlid=(\d+)", _read(fabrics))  # -1 or an error where none was made
    if found is None:
        return 1
    instance, cntlid = int(found[1]), int(found[2])
    is_kept = _answer({"instance": instance, "cntlid": cntlid}) and sys.stdin.buffer.readline() == b"keep\n"
    if not is_kept:
        _delete(f"nvme{instance}", cntlid)
    return 0


def _disconnect(name: str) -> int:
    try:
        _delete(name, None)
    except OSError as error:
        _answer({"errno": error.errno, "log": []})
        return 1
    _answer({"deleted": True})
    return 0


def _delete(name: str, cntlid: int | None) -> None:
    """``cntlid``: only if it is still that one, and it is no error when there is none any more."""
    directory = f"/sys/class/nvme/{name}"
    try:
        if cntlid is not None:
            with open(f"{directory}/cntlid") as file:
                if int(file.read()) != cntlid:
                    return
        with open(f"{directory}/delete_controller", "w") as file:
            file.write("1")
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENODEV:  # being deleted
            raise


def _read(fabrics: int) -> str:
    try:
        return os.read(fabrics, 4096).decode()
    except OSError:
        return ""


def _open_log() -> int | None:
    try:
        log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(log, 0, os.SEEK_END)
    except OSError:  # containers have none, and ordinary users may not read it
        return None
    return log


def _new_lines(log: int | None) -> list[str]:
    """What the kernel has said of NVMe since the log was opened; for errors only, of which errno says too little."""
    lines: list[str] = []
    while log is not None:
        try:
            record = os.read(log, 8192).decode(errors="replace")
        except BlockingIOError:
            break
        except BrokenPipeError:  # the record was overwritten: there is a next one
            continue
        except OSError:
            break
        line = record.partition(";")[2].partition("\n")[0]
        if line.startswith(("nvme", "nvme_fabrics")) and not line.startswith("nvmet"):
            lines.append(line)
    return lines


def _answer(answer: dict[str, object]) -> bool:
    """False: there is nobody to read it."""
    try:
        print(json.dumps(answer), flush=True)
    except BrokenPipeError:
        return False
    return True


def _abandon(_signal: int, _frame: object) -> None:
    raise _Abandoned


if __name__ == "__main__":
    status = main()
    os._exit(status)  # standard output may be a closed pipe, which flushing at exit would complain of
