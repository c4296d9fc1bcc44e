"""The kernel's own interface to fabrics: the options that /dev/nvme-fabrics takes, and what its refusals mean.

Written directly, not by ``nvme connect``: keys would be among its arguments, and its text is all it says of an error.
Options: ``opt_tokens`` in Linux' ``drivers/nvme/host/fabrics.c``. Refusals: the errno, and where that is EIO for a
status of the target, the line that ``nvmf_log_connect_error`` leaves in the kernel log. Seen on Linux 6.18.
"""

import errno
import os
import re

from kvfs.errors import AuthenticationFailed, FabricError, FabricMissing, HostRefused, Unreachable, WrongNqn
from kvfs.fabric.nvme.host import Identity
from kvfs.fabric.nvme.keys import find_keyring, read_dhchap_secret
from kvfs.fabric.nvme.lease import Refusal
from kvfs.fabric.nvme.tls import insert_tls_key, read_tls_key
from kvfs.fabric.nvme.types import DISCOVERY_NQN, Address, ConnectOptions

_NUMBERS = (
    "nr_io_queues", "queue_size", "ctrl_loss_tmo", "fast_io_fail_tmo", "reconnect_delay", "keep_alive_tmo"
)  # fmt: skip
_LEAST = {"ctrl_loss_tmo": -1, "fast_io_fail_tmo": -1, "keep_alive_tmo": 0, "queue_size": 16}
_UNREACHABLE = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.ETIMEDOUT: "no answer",
    errno.EHOSTUNREACH: "no route to it",
    errno.ENETUNREACH: "no route to it",
    errno.EHOSTDOWN: "no answer",
    errno.ENETDOWN: "the network is down",
    errno.ECONNRESET: "nobody listens there, or the connection was cut",
    errno.ECONNABORTED: "the connection was cut",
    errno.EPIPE: "the connection was cut",
    errno.ENOTCONN: "the connection was cut",
    errno.EADDRNOTAVAIL: "not an address to connect to, or from",
    errno.ENODEV: "no RDMA device leads there",
    errno.EPROTO: "what listens there speaks another protocol",
}


def options_line(address: Address, nqn: str, options: ConnectOptions, identity: Identity) -> str:
    """What to write to /dev/nvme-fabrics. It may hold keys. Raises FabricError, AuthenticationFailed."""
    fields: list[tuple[str, str | int | None]] = [
        ("transport", address.transport),
        ("traddr", address.traddr or None),
        ("trsvcid", address.port),
        ("nqn", nqn),
        ("host_traddr", address.host_traddr),
        ("host_iface", address.host_iface),
        ("hostnqn", identity.hostnqn),
        ("hostid", identity.hostid),
    ]
    for name in _NUMBERS:
        value = getattr(options, name)
        if value is not None and value < _LEAST.get(name, 1):
            raise FabricError(f"expected {name} of at least {_LEAST.get(name, 1)}, found {value}", "choose another")
        fields.append((name, value))
    if address.transport != "tcp" and (options.hdr_digest or options.data_digest or options.tls):
        raise FabricError(f"expected digests and TLS over TCP only, found {address.transport}", "leave them out")
    if options.tls:
        fields += _tls_fields(nqn, options, identity)
    elif options.keyring is not None or options.tls_key_file is not None:
        raise FabricError("expected tls with a TLS key file or a keyring, found them without it", "switch it on")
    if options.dhchap_secret_file is not None:
        fields.append(("dhchap_secret", read_dhchap_secret(options.dhchap_secret_file)))
    if options.dhchap_ctrl_secret_file is not None:
        if options.dhchap_secret_file is None:
            raise AuthenticationFailed(
                "expected this host's own key beside the controller's, found none", "give both files, or neither"
            )
        fields.append(("dhchap_ctrl_secret", read_dhchap_secret(options.dhchap_ctrl_secret_file)))
    for name, text in fields:
        if isinstance(text, str) and ("," in text or not text.isprintable()):
            raise FabricError(f"expected {name} without commas and control characters, found {text!r}", "correct it")
    words = [f"{name}={value}" for name, value in fields if value is not None]
    words += [name for name in ("hdr_digest", "data_digest", "tls") if getattr(options, name)]
    if nqn == DISCOVERY_NQN:
        words.append("duplicate_connect")  # beside one that somebody else keeps
    return ",".join(words)


def _tls_fields(nqn: str, options: ConnectOptions, identity: Identity) -> list[tuple[str, str | int | None]]:
    fields: list[tuple[str, str | int | None]] = []
    if options.keyring is not None or options.tls_key_file is not None:
        keyring = find_keyring(options.keyring or ".nvme")
        fields.append(("keyring", keyring))
        if options.tls_key_file is not None:
            name, key = read_tls_key(options.tls_key_file, identity.hostnqn, nqn)
            fields.append(("tls_key", insert_tls_key(name, key, keyring)))
    return fields


def explain(refusal: Refusal, address: Address, nqn: str, options: ConnectOptions, identity: Identity) -> FabricError:
    """The error for a person."""
    code, log = refusal.errno, " | ".join(refusal.log)
    if refusal.at_open:
        return _no_device(code)
    if code in _UNREACHABLE:
        return Unreachable(f"{address}: {_UNREACHABLE[code]}", "check the address, and that the target is up")
    if code in (errno.EINVAL, errno.EIO) and re.search(r"queue 0: (bad|unsupported|wrong)|icresp", log):
        return Unreachable(f"{address}: what listens there does not speak NVMe over TCP", "check the port")
    if code in (errno.ENOKEY, errno.EKEYREJECTED, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EACCES, errno.ESRCH):
        return _authentication(code, log, address, nqn, options)
    if re.search(rf'Connect Invalid Data Parameter, subsysnqn "{re.escape(nqn)}"', log):
        return WrongNqn(
            f"{address}: the target has no subsystem {nqn}",
            f"see what it has: kvfsctl fabric discover {address}",
        )
    if re.search(rf"Connect for subsystem {re.escape(nqn)} is not allowed", log):
        return HostRefused(
            f"{address}: the target does not let this host use {nqn}",
            f"allow its NQN there: {identity.hostnqn}",
        )
    if "authentication" in log:
        return _authentication(errno.EKEYREJECTED, log, address, nqn, options)
    if "no handler found for transport" in log:
        return FabricMissing(
            f"this host's kernel has no NVMe over {address.transport}", f"load it: modprobe nvme-{address.transport}"
        )
    said = f" ({refusal.log[-1]})" if refusal.log else ""
    if code == errno.EIO:
        return FabricError(
            f"{address}: the target refused the connection to {nqn}{said}",
            f"does it have that subsystem, and let {identity.hostnqn} in? `kvfsctl fabric discover {address}` shows it",
        )
    return FabricError(f"{address}: {nqn}: {os.strerror(code).lower()}{said}", "the kernel log may say more")


def _no_device(code: int) -> FabricError:
    if code in (errno.EACCES, errno.EPERM):
        return FabricMissing("/dev/nvme-fabrics: not permitted", "run this as root")
    return FabricMissing(
        "this host's kernel has no NVMe over fabrics (/dev/nvme-fabrics)",
        "load it: modprobe nvme-tcp, or nvme-rdma; boot a kernel that has it where there is no such module",
    )


def _authentication(code: int, log: str, address: Address, nqn: str, options: ConnectOptions) -> FabricError:
    where = f"{address}: {nqn}"
    if options.tls and code == errno.ESRCH:
        return AuthenticationFailed(f"{where}: TLS needs tlshd, which is not running", "start it: package ktls-utils")
    if options.tls and (code == errno.ENOKEY and "no key" not in log):
        return AuthenticationFailed(
            f"{where}: no TLS key for this host and subsystem in the keyring {options.keyring or '.nvme'}",
            "insert it with nvme-cli, as in: nvme keys insert-tls-psk",
        )
    if options.tls and code == errno.EACCES:
        return AuthenticationFailed(
            f"{where}: the TLS handshake failed", "compare both sides' keys; tlshd's log says more"
        )
    if code == errno.ENOKEY and options.dhchap_secret_file is None:
        return AuthenticationFailed(
            f"{where}: the target asks for a key (DH-HMAC-CHAP), none was given",
            "name the file that holds it, by dhchap_secret_file",
        )
    if options.dhchap_secret_file is None:
        return AuthenticationFailed(f"{where}: authentication failed", "the kernel log says more")
    both = " or the controller's" if options.dhchap_ctrl_secret_file else ""
    return AuthenticationFailed(
        f"{where}: the key{both} was rejected (DH-HMAC-CHAP)",
        f"compare {options.dhchap_secret_file} with what the target has for this host's NQN",
    )
