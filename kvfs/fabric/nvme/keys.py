"""Keys for DH-HMAC-CHAP, from files: read, checked, and handed on without ever being an argument of a command.

The format, as ``nvme gen-dhchap-key`` prints it (NVMe Base 2.0, section 8.13.5.8)::

    DHHC-1:<hash>:<base64 of the key and, little-endian, its CRC-32>:     hash: 00 none, 01, 02, 03 SHA-256, -384, -512
"""

import base64
import binascii
import os
import re
import stat
from pathlib import Path

from kvfs.errors import AuthenticationFailed

_LENGTHS = {"00": (32, 48, 64), "01": (32,), "02": (48,), "03": (64,)}  # bytes of the key, by hash
_MOST = 4096


def read_dhchap_secret(path: Path) -> str:
    """AuthenticationFailed for a file that cannot be read, that others may read, or that holds no such key."""
    text = read_key_file(path)
    found = re.fullmatch(r"DHHC-1:(0[0-3]):([A-Za-z0-9+/]+={0,2}):", text)
    if found is None:
        raise AuthenticationFailed(
            f"{path}: expected a key as DHHC-1:..., found something else", "`nvme gen-dhchap-key` makes one"
        )
    try:
        data = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        data = b""
    key, check = data[:-4], data[-4:]
    if len(key) not in _LENGTHS[found[1]]:
        wanted = " or ".join(map(str, _LENGTHS[found[1]]))
        raise AuthenticationFailed(f"{path}: expected a key of {wanted} bytes, found {len(key)}", "copy it once more")
    if binascii.crc32(key) != int.from_bytes(check, "little"):
        raise AuthenticationFailed(f"{path}: the key does not match its checksum", "copy it once more")
    return text


def read_key_file(path: Path) -> str:
    """The text of a key file, which is never part of a message. Raises AuthenticationFailed."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MOST + 1)
    except OSError as error:
        raise AuthenticationFailed(
            f"{path}: {(error.strerror or str(error)).lower()}", "name a file with the key"
        ) from None
    if stat.S_IMODE(mode) & 0o007:
        raise AuthenticationFailed(f"{path}: others may read or write this key", f"run: chmod 600 {path}")
    if len(text) > _MOST:
        raise AuthenticationFailed(f"{path}: expected a key, found a file of more than {_MOST} bytes", "name another")
    return text.decode("ascii", "replace").strip()


def find_keyring(name: str, listing: Path = Path("/proc/keys")) -> int:
    """The serial number of a keyring that is given by its name, or by that number. Raises AuthenticationFailed."""
    if name.isdecimal():
        return int(name)
    try:
        lines = listing.read_text(errors="replace").splitlines()
    except OSError as error:
        raise AuthenticationFailed(f"{listing}: {(error.strerror or str(error)).lower()}", "give its number") from None
    for line in lines:
        # serial flags usage timeout permissions uid gid type description: summary
        fields = line.split(None, 8)
        if len(fields) == 9 and fields[7] == "keyring" and fields[8].rpartition(":")[0] == name:
            return int(fields[0], 16)
    raise AuthenticationFailed(f"no keyring {name} that this process can see", "`cat /proc/keys` lists them")
