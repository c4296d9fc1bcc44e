"""Probes of NVMe, NVMe over fabrics, RDMA and GPUs."""

import ctypes
import re
import shutil
from pathlib import Path

from kvfs.cli.fabric_devices import describe
from kvfs.cli.probes.finding import Finding, State
from kvfs.cli.probes.system import module_state, read
from kvfs.errors import RdmaMissing
from kvfs.fabric.verbs import choose_backend, list_devices

_LISTED = 4  # names shown before "and N more"


def nvme_namespaces() -> Finding:
    purpose = "block devices to format as stores"
    found = []
    for device in sorted(Path("/sys/block").glob("nvme*n*")):
        model = read(f"{device}/device/model") or "unknown model"
        transport = read(f"{device}/device/transport") or _multipath_transport(device) or "unknown transport"
        found.append(f"/dev/{device.name} ({model}, {transport})")
    if found:
        return Finding("NVMe namespaces", State.OK, _listed(found), purpose)
    remedy = "fit a drive or connect a namespace (nvme connect); a regular file works as a store too"
    return Finding("NVMe namespaces", State.MISSING, "none", purpose, remedy)


def nvme_cli() -> Finding:
    purpose = "connecting NVMe-oF namespaces"
    path = shutil.which("nvme", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin")
    if path:
        return Finding("nvme-cli", State.OK, path, purpose)
    return Finding("nvme-cli", State.MISSING, "nvme: not found", purpose, "install the package nvme-cli")


def nvme_tcp() -> Finding:
    return _transport("nvme_tcp", "NVMe over TCP")


def nvme_rdma() -> Finding:
    return _transport("nvme_rdma", "NVMe over RDMA")


def rdma_devices() -> Finding:
    purpose = "NVMe over RDMA, page transfer between hosts"
    found = list_devices()
    if not found:
        remedy = "fit an RDMA adapter, or try it in software: rdma link add rxe0 type rxe netdev eth0"
        return Finding("RDMA devices", State.MISSING, "no device", purpose, remedy)
    listed = _listed([describe(device) for device in found])
    if problem := next((device.problem for device in found if device.problem), ""):
        return Finding("RDMA devices", State.LIMITED, f"{listed}; {problem}", purpose, "see kvfsctl fabric devices")
    if not any(port.is_active for device in found for port in device.ports):
        return Finding("RDMA devices", State.LIMITED, listed, purpose, "bring a port up: rdma link, ip link")
    return Finding("RDMA devices", State.OK, listed, purpose)


def verbs_library() -> Finding:
    """The kernel's initiator needs none; pages that kvfs itself sends and fetches do."""
    purpose = "page transfer between hosts and into GPUs, by RDMA"
    try:
        return Finding("verbs library", State.OK, choose_backend().name, purpose)
    except RdmaMissing as error:
        return Finding("verbs library", State.MISSING, error.message, purpose, error.hint)


def cuda_driver() -> Finding:
    purpose = "pages brought into GPU buffers ahead of time"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        remedy = "install NVIDIA's driver; in a container use its container toolkit"
        return Finding("CUDA driver", State.MISSING, "libcuda.so.1: not found", purpose, remedy)
    version = ctypes.c_int()
    code = driver.cuDriverGetVersion(ctypes.byref(version))
    if code != 0:
        remedy = "see whether nvidia-smi works"
        return Finding("CUDA driver", State.LIMITED, f"the library is there, but answers {code}", purpose, remedy)
    devices = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    found = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}, {devices} GPU{'' if devices == 1 else 's'}"
    if devices == 0:
        return Finding("CUDA driver", State.LIMITED, found, purpose, "see whether nvidia-smi lists a GPU")
    return Finding("CUDA driver", State.OK, found, purpose)


def _transport(module: str, name: str) -> Finding:
    purpose = "namespaces of other hosts as stores"
    state = module_state(module)
    if state in ("loaded", "built in"):
        return Finding(name, State.OK, f"{module} {state}", purpose)
    if state == "available":
        return Finding(name, State.OK, f"{module} available, loaded when first used", purpose)
    remedy = "boot a kernel that has the module (Ubuntu: package linux-modules-extra)"
    return Finding(name, State.MISSING, f"{module}: not in this kernel", purpose, remedy)


def _multipath_transport(device: Path) -> str | None:
    """The head of a multipath namespace hangs below its subsystem; its controllers know the transport."""
    for controller in (device / "device").glob("nvme*"):
        if re.fullmatch(r"nvme\d+", controller.name) and (transport := read(f"{controller}/transport")):
            return transport
    return None


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


PROBES = (nvme_namespaces, nvme_cli, nvme_tcp, nvme_rdma, rdma_devices, verbs_library, cuda_driver)
