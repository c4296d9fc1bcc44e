"""Stores on a fabric, by URL.

::

    nvme+TRANSPORT://HOST[:PORT]/NQN[?nsid=N&OPTION=VALUE&...]

    nvme+tcp://10.0.0.7/nqn.2014-08.org.example:pages
    nvme+rdma://[fe80::7%25eth1]:4420/nqn.2014-08.org.example:pages?nsid=2&nr_io_queues=8

RFC 3986, with RFC 6874 for the zone of an IPv6 address. Host, NQN and values may be percent-encoded; a ``+`` in a query
is a plus. The NQN is all of the path, so a slash in it needs no encoding. Options are those of
:class:`kvfs.fabric.nvme.ConnectOptions`, checked by ``kvfs.fabric.settings``; keys and secrets go by file name only.
"""

import ipaddress
import re
from pathlib import Path
from typing import Literal, NoReturn, get_args
from urllib.parse import unquote_to_bytes

import msgspec

from kvfs.errors import UsageError

Transport = Literal["tcp", "rdma"]

DEFAULT_PORT = 4420  # IANA: NVMe over Fabrics, of RDMA as of TCP
NQN_BYTES = 223  # NVMe Base Specification 2.0, 4.5
_MOST_NSID = 0xFFFFFFFE  # FFFFFFFFh stands for all namespaces
_SCHEMES = ", ".join(f"nvme+{transport}" for transport in get_args(Transport))
_FORM = "nvme+tcp://HOST[:PORT]/NQN[?nsid=N&OPTION=VALUE]"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PARTS = re.compile(r"[^:]+://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?", re.DOTALL)
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class StoreUrl(msgspec.Struct, frozen=True):
    """One path to one namespace. ``text``: as it was given. ``host``: a name or an address, without brackets.

    ``nsid`` None: the only namespace of the subsystem. ``query``: the other options, not checked yet.
    """

    text: str
    transport: Transport
    host: str
    port: int
    nqn: str
    nsid: int | None = None
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.text


def is_url(store: str) -> bool:
    """Whether ``store`` is meant as a URL, right or wrong; else it is a path."""
    return _SCHEME.match(store) is not None or store.startswith("nvme+")


def parse_url(text: str) -> StoreUrl:
    """UsageError with one line that says what was expected where, and what was found."""
    scheme = _SCHEME.match(text)
    parts = _PARTS.fullmatch(text)
    if scheme is None or parts is None:
        _refuse(text, f"expected {_FORM}, found no ://")
    if not text.isprintable() or " " in text:
        _refuse(text, "expected printable characters without blanks, found others", "percent-encode them, as in %20")
    transport = _transport(text, scheme[1].lower())
    if parts["fragment"] is not None:
        _refuse(text, "expected no fragment, found #", "write a # that belongs to the NQN as %23")
    host, port = _authority(text, parts["authority"])
    options = dict(_query(text, parts["query"] or ""))
    nsid = _nsid(text, options.pop("nsid", None))
    return StoreUrl(text, transport, host, port, _nqn(text, parts["path"] or ""), nsid, tuple(options.items()))


def store_name(store: str | Path) -> str:
    """For messages: a URL without its query, in which somebody may have written a secret."""
    return str(store).partition("?")[0]


def _transport(text: str, scheme: str) -> Transport:
    for known in get_args(Transport):
        if scheme == f"nvme+{known}":
            return known  # type: ignore[no-any-return]
    _refuse(
        text,
        f"expected a URL of {_SCHEMES}, found {scheme}",
        "other transports: connect with nvme-cli, name the device",
    )


def _authority(text: str, authority: str) -> tuple[str, int]:
    if "@" in authority:
        # what stands before an @ is often a password
        raise UsageError("expected HOST[:PORT] in a store's URL, found a user before @", "keys go by file, as options")
    if authority.startswith("["):
        address, bracket, port = authority[1:].partition("]")
        if not bracket:
            _refuse(text, "expected ] after the IPv6 address, found none")
        host = _ipv6(text, _decoded(text, "address", address))
        if port and not port.startswith(":"):
            _refuse(text, f"expected :PORT or / after ], found {port!r}")
    else:
        if authority.count(":") > 1:
            _refuse(
                text, f"expected HOST[:PORT], found {authority!r}", "write an IPv6 address in brackets, as in [fe80::1]"
            )
        name, colon, number = authority.partition(":")
        host, port = _host(text, _decoded(text, "host", name)), colon + number
    if not port:
        return host, DEFAULT_PORT
    digits = port[1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        _refuse(text, f"expected a port from 1 to 65535, found {digits!r}", f"leave it out for {DEFAULT_PORT}")
    return host, int(digits)


def _ipv6(text: str, address: str) -> str:
    try:
        return str(ipaddress.IPv6Address(address))
    except ValueError:
        _refuse(text, f"expected an IPv6 address in the brackets, found {address!r}")


def _host(text: str, name: str) -> str:
    lower = name.lower()
    if not lower:
        _refuse(text, f"expected {_FORM}, found no host")
    if re.fullmatch(r"[0-9.]+", lower):
        try:
            return str(ipaddress.IPv4Address(lower))
        except ValueError:
            _refuse(text, f"expected an IPv4 address, found {lower!r}")
    if not _HOST_NAME.fullmatch(lower):
        _refuse(text, f"expected a host name or an IP address, found {name!r}")
    return lower


def _nqn(text: str, path: str) -> str:
    nqn = _decoded(text, "NQN", path[1:])
    if not nqn:
        _refuse(text, f"expected {_FORM}, found no NQN", "`kvfsctl fabric discover` lists those that a target has")
    return check_nqn(nqn, store_name(text))


def check_nqn(nqn: str, where: str) -> str:
    """``nqn`` itself, when it is one that NVMe allows. UsageError that begins with ``where``."""
    # a comma ends an option of the kernel's
    if not nqn.startswith("nqn.") or not nqn.isprintable() or any(char.isspace() or char == "," for char in nqn):
        raise UsageError(
            f"{where}: expected an NQN, found {nqn!r}", "it begins with nqn., as in nqn.2014-08.org.example:pages"
        )
    if len(nqn.encode()) > NQN_BYTES:
        raise UsageError(
            f"{where}: expected an NQN of at most {NQN_BYTES} bytes, found {len(nqn.encode())}", "check it"
        )
    return nqn


def _nsid(text: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and 0 < int(value) <= _MOST_NSID):
        _refuse(text, f"nsid: expected a namespace id from 1 on, found {value!r}", "leave it out for the only one")
    return int(value)


def _query(text: str, query: str) -> list[tuple[str, str]]:
    options: list[tuple[str, str]] = []
    for option in query[1:].split("&") if query[1:] else ():
        name, equals, value = option.partition("=")
        if not name or not equals or not value:
            _refuse(text, f"expected OPTION=VALUE between ? and &, found {name or option!r} without one of them")
        name = _decoded(text, "option", name)
        if any(name == known for known, _ in options):
            _refuse(text, f"expected each option once, found {name} twice")
        options.append((name, _decoded(text, name, value)))
    return options


def _decoded(text: str, what: str, part: str) -> str:
    if _PERCENT.search(part):
        _refuse(text, f"{what}: expected two hexadecimal digits after each %", "write % itself as %25")
    try:
        decoded = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        _refuse(text, f"{what}: expected percent-encoded UTF-8, found other bytes")
    if "\0" in decoded:
        _refuse(text, f"{what}: expected no NUL byte, found %00")
    return decoded


def _refuse(text: str, problem: str, hint: str = "") -> NoReturn:
    raise UsageError(f"{store_name(text)}: {problem}", hint or f"write it as {_FORM}")
