"""Pre-shared keys for TLS: from a file into a kernel keyring, where the kernel and tlshd look for them.

The file has one line, as ``nvme tls-key --export`` (nvme-cli 2.11 and later) writes it: the identity under which the
key is looked for, and the key that was derived for it (NVMe TCP Transport 1.0, section 3.6.1.3)::

    NVMe1R01 <host NQN> <subsystem NQN> <digest> NVMeTLSkey-1:01:<base64 of the key and, little-endian, its CRC-32>:

A configured PSK, the same without an identity, is not taken: which key is derived from it has changed between versions
of nvme-cli, and both ends have to agree. ``nvme gen-tls-key --insert`` or ``nvme keys insert-tls-psk`` derive it.
"""

import base64
import binascii
import ctypes
import os
import platform
import re
from pathlib import Path

from kvfs.errors import AuthenticationFailed
from kvfs.fabric.nvme.keys import read_key_file

_ADD_KEY = {"x86_64": 248, "aarch64": 217, "riscv64": 217}  # numbers of the system call; libkeyutils may be absent
_IDENTITY = r"(NVMe[01][RG]0[12]) (\S+) (\S+)(?: \S+)?"
_KEY = r"NVMeTLSkey-1:0[12]:([A-Za-z0-9+/]+={0,2}):"


def read_tls_key(path: Path, hostnqn: str, nqn: str) -> tuple[str, bytes]:
    """Identity and key for that host and subsystem. Raises AuthenticationFailed."""
    text = read_key_file(path)
    found = re.fullmatch(rf"({_IDENTITY}) {_KEY}", text)
    if found is None:
        what = "a configured PSK without one" if re.fullmatch(_KEY, text) else "something else"
        raise AuthenticationFailed(
            f"{path}: expected an identity and its key, as `nvme tls-key --export` writes them, found {what}",
            "insert it with nvme-cli, then leave the file out: the keyring .nvme is looked in anyway",
        )
    identity, _, host, subsystem, encoded = found.groups()
    if (host, subsystem) != (hostnqn, nqn):
        raise AuthenticationFailed(
            f"{path}: expected the key of {hostnqn} for {nqn}, found that of {host} for {subsystem}",
            "name another file, or this host's NQN",
        )
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        data = b""
    key, check = data[:-4], data[-4:]
    if len(key) not in (32, 48) or binascii.crc32(key) != int.from_bytes(check, "little"):
        raise AuthenticationFailed(f"{path}: the key does not match its length or its checksum", "export it once more")
    return identity, key


def insert_tls_key(identity: str, key: bytes, keyring: int) -> int:
    """Its serial number in ``keyring``; one of the same identity is replaced. Raises AuthenticationFailed."""
    number = _ADD_KEY.get(platform.machine())
    if number is None:
        raise AuthenticationFailed(f"keys cannot be inserted on {platform.machine()}", "insert it with nvme-cli")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    serial = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_char_p(b"psk"),
        ctypes.c_char_p(identity.encode()),
        ctypes.c_char_p(key),
        ctypes.c_size_t(len(key)),
        ctypes.c_int32(keyring),
    )
    if serial < 0:
        code = ctypes.get_errno()
        raise AuthenticationFailed(
            f"the keyring does not take the TLS key: {os.strerror(code).lower()}", "run this as root"
        )
    return int(serial)
