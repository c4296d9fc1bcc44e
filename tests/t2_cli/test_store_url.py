"""Stores on a fabric by URL: what is taken, and what is said of what is not."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from place import Place

from kvfs.errors import UsageError
from kvfs.fabric.nvme import Address
from kvfs.fabric.store import FabricStore, fabric_store
from kvfs.fabric.url import NQN_BYTES, StoreUrl, is_url, parse_url

NQN = "nqn.2026-11.test:pages"
FORM = "; write it as nvme+tcp://HOST[:PORT]/NQN[?nsid=N&OPTION=VALUE]"


def store_of(*urls: str, **options: object) -> FabricStore:
    return fabric_store(urls, options, {}, {}, "none")


@pytest.mark.parametrize(
    ("text", "transport", "host", "port"),
    [
        (f"nvme+tcp://10.0.0.7/{NQN}", "tcp", "10.0.0.7", 4420),
        (f"nvme+tcp://10.0.0.7:8009/{NQN}", "tcp", "10.0.0.7", 8009),
        (f"NVMe+RDMA://Storage-1.Example.ORG/{NQN}", "rdma", "storage-1.example.org", 4420),
        (f"nvme+rdma://[FE80:0::7]:4421/{NQN}", "rdma", "fe80::7", 4421),
        (f"nvme+tcp://[fe80::7%25eth1]/{NQN}", "tcp", "fe80::7%eth1", 4420),
    ],
)
def test_addresses(text: str, transport: str, host: str, port: int) -> None:
    found = parse_url(text)
    assert (found.transport, found.host, found.port, found.nqn, found.nsid) == (transport, host, port, NQN, None)
    assert str(found) == text


def test_namespace_and_options() -> None:
    found = parse_url(f"nvme+tcp://h/{NQN}?nsid=2&hostnqn=nqn.2014-08.org%3Ax&keyring=a%26b%3Dc+d")
    assert (found.nsid, found.query) == (2, (("hostnqn", "nqn.2014-08.org:x"), ("keyring", "a&b=c+d")))
    assert parse_url("nvme+tcp://h/nqn.2026-11.test:a/b%3Fc%25").nqn == "nqn.2026-11.test:a/b?c%"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nvme+tcp:/h/nqn.x", f"nvme+tcp:/h/nqn.x: expected nvme+tcp://HOST[:PORT]/NQN[?nsid=N&OPTION=VALUE], found no ://{FORM}"),
        (f"nvme+fc://h/{NQN}", "expected a URL of nvme+tcp, nvme+rdma, found nvme+fc; other transports: connect with"),
        (f"http://h/{NQN}", "expected a URL of nvme+tcp, nvme+rdma, found http"),
        (f"nvme+tcp:///{NQN}", "found no host"),
        ("nvme+tcp://h", "found no NQN; `kvfsctl fabric discover` lists those that a target has"),
        ("nvme+tcp://h/", "found no NQN"),
        ("nvme+tcp://h/iqn.2001-04.com.ex:x", "expected an NQN, found 'iqn.2001-04.com.ex:x'; it begins with nqn."),
        (f"nvme+tcp://h/nqn.{'x' * NQN_BYTES}", f"expected an NQN of at most 223 bytes, found {NQN_BYTES + 4}"),
        (f"nvme+tcp://h:0/{NQN}", "expected a port from 1 to 65535, found '0'; leave it out for 4420"),
        (f"nvme+tcp://h:65536/{NQN}", "expected a port from 1 to 65535, found '65536'"),
        (f"nvme+tcp://h:/{NQN}", "expected a port from 1 to 65535, found ''"),
        (f"nvme+tcp://h:٣/{NQN}", "expected a port from 1 to 65535"),
        (f"nvme+tcp://fe80::1/{NQN}", "found 'fe80::1'; write an IPv6 address in brackets, as in [fe80::1]"),
        (f"nvme+tcp://[fe80::1/{NQN}", "expected ] after the IPv6 address"),
        (f"nvme+tcp://[10.0.0.1]/{NQN}", "expected an IPv6 address in the brackets, found '10.0.0.1'"),
        (f"nvme+tcp://[::1]4420/{NQN}", "expected :PORT or / after ], found '4420'"),
        (f"nvme+tcp://10.0.0.256/{NQN}", "expected an IPv4 address, found '10.0.0.256'"),
        (f"nvme+tcp://a_b-.c/{NQN}", "expected a host name or an IP address, found 'a_b-.c'"),
        (f"nvme+tcp://h/{NQN}?nsid=0", "nsid: expected a namespace id from 1 on, found '0'; leave it out for the"),
        (f"nvme+tcp://h/{NQN}?nsid=4294967295", "nsid: expected a namespace id from 1 on"),
        (f"nvme+tcp://h/{NQN}?nsid", "expected OPTION=VALUE between ? and &, found 'nsid' without one of them"),
        (f"nvme+tcp://h/{NQN}?tls=true&&nsid=1", "expected OPTION=VALUE between ? and &"),
        (f"nvme+tcp://h/{NQN}?nsid=1&nsid=2", "expected each option once, found nsid twice"),
        (f"nvme+tcp://h/{NQN}%zz", "NQN: expected two hexadecimal digits after each %; write % itself as %25"),
        (f"nvme+tcp://h/{NQN}%ff", "NQN: expected percent-encoded UTF-8, found other bytes"),
        (f"nvme+tcp://h/{NQN}%00", "NQN: expected no NUL byte, found %00"),
        (f"nvme+tcp://h/{NQN}#1", "expected no fragment, found #; write a # that belongs to the NQN as %23"),
        (f"nvme+tcp://h/{NQN} x", "expected printable characters without blanks"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    assert is_url(text)
    with pytest.raises(UsageError) as caught:
        parse_url(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("nr_io_queue=3", "unknown transport option 'nr_io_queue'; did you mean nr_io_queues?"),
        ("nr_io_queues=x", "nr_io_queues: expected a number, found 'x'; as in nr_io_queues=8"),
        ("tls=perhaps", "tls: expected true or false, found 'perhaps'; as in tls=true"),
        (
            "ctrl_loss_tmo=soon",
            "ctrl_loss_tmo: expected a time, found 'soon'; write seconds, or as in 30s or 10m; -1: for ever",
        ),
    ],
)
def test_options_that_are_wrong(query: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        store_of(f"nvme+tcp://h/{NQN}?{query}")
    assert str(caught.value) == f"nvme+tcp://h/{NQN}: {says}"


@pytest.mark.parametrize("place", ["someone:DHHC-1@h", "h"])
def test_a_secret_in_the_wrong_place_is_not_repeated(place: str) -> None:
    with pytest.raises(UsageError) as caught:
        store_of(f"nvme+tcp://{place}/{NQN}?dhchap_secret=DHHC-1:00:c2VjcmV0:")
    assert "DHHC-1" not in str(caught.value)
    if place == "h":
        assert "unknown transport option 'dhchap_secret'; did you mean dhchap_secret_file?" in str(caught.value)


def test_what_is_no_url_is_a_path() -> None:
    assert not any(map(is_url, ["/dev/nvme0n1", "store.kvfs", "./a://b", "a:b", "nqn.2014-08.org:x"]))


def test_times_and_files() -> None:
    (path,) = store_of(f"nvme+tcp://h/{NQN}?ctrl_loss_tmo=10m&fast_io_fail_tmo=-1&reconnect_delay=2").paths
    found = path.options
    assert (found.ctrl_loss_tmo, found.fast_io_fail_tmo, found.reconnect_delay) == (600, -1, 2)
    (path,) = store_of(f"nvme+tcp://h/{NQN}?host_iface=eth1&dhchap_secret_file=/k").paths
    assert path.address == Address("tcp", "h", "4420", host_iface="eth1")
    assert str(path.options.dhchap_secret_file) == "/k"


def test_several_paths_to_one_namespace() -> None:
    found = store_of(f"nvme+tcp://10.0.0.1/{NQN}", f"nvme+rdma://10.0.0.2/{NQN}", nr_io_queues=2)
    assert [str(path.address) for path in found.paths] == ["tcp://10.0.0.1:4420", "rdma://10.0.0.2:4420"]
    assert [path.options.nr_io_queues for path in found.paths] == [2, 2]


def test_several_namespaces_are_for_later() -> None:
    for other in (f"nvme+tcp://h/{NQN}?nsid=2", "nvme+tcp://h/nqn.2026-11.test:other?nsid=1"):
        with pytest.raises(UsageError, match="expected paths to one namespace, as a store has one as yet; found"):
            store_of(f"nvme+tcp://h/{NQN}?nsid=1", other)
    with pytest.raises(UsageError, match="expected different paths, found this one twice"):
        store_of(f"nvme+tcp://h/{NQN}", f"nvme+tcp://H:4420/{NQN}")


def test_the_command_says_so(place: Place) -> None:
    url = f"nvme+tcp://h/{NQN}?nr_io_queue=3"
    for arguments in (("kvfs", "mount", url, place.mountpoint), ("kvfsctl", "info", url), ("kvfsctl", "format", url)):
        done = place.run(*arguments)
        done.says("unknown transport option 'nr_io_queue'; did you mean nr_io_queues?")
        assert done.status == 2, done


def test_only_root_connects(place: Place) -> None:
    done = place.run("kvfsctl", "info", f"nvme+tcp://127.0.0.1/{NQN}", nobody=True)
    done.says("expected to run as root, which connecting takes", "have it connected and name the device")


_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.lists(_LABEL, min_size=1, max_size=3).map(".".join).filter(lambda name: not name.replace(".", "").isdigit()),
)
_TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)


@given(
    transport=st.sampled_from(["tcp", "rdma"]),
    host=_HOSTS,
    port=st.one_of(st.none(), st.integers(1, 65535)),
    name=_TEXT.filter(lambda name: "," not in name),
    nsid=st.one_of(st.none(), st.integers(1, 0xFFFFFFFE)),
    options=st.dictionaries(_TEXT.filter(lambda name: name != "nsid"), _TEXT, max_size=3),
)
def test_what_was_encoded_comes_back(
    transport: str, host: str, port: int | None, name: str, nsid: int | None, options: dict[str, str]
) -> None:
    query = [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in options.items()]
    query += [] if nsid is None else [f"nsid={nsid}"]
    text = f"nvme+{transport}://{host}{'' if port is None else f':{port}'}/nqn.{quote(name)}"
    found = parse_url(text + (f"?{'&'.join(query)}" if query else ""))
    assert (found.transport, found.host, found.port) == (transport, host.strip("[]"), port or 4420)
    assert (found.nqn, found.nsid, dict(found.query)) == (f"nqn.{name}", nsid, options)


@given(st.one_of(st.text(), st.text(alphabet="nvme+tcprdm:/?#[]@%&=.0123456789ﬀ\0 q").map("nvme+tcp://".__add__)))
@example("nvme+tcp://[::1%25]/nqn.x")
@example("nvme+tcp://[::1%250]:1/nqn.x?%61=b")
def test_whatever_comes_is_taken_or_refused_in_a_line(text: str) -> None:
    refused = ""
    try:
        found = parse_url(text)
    except UsageError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert "; " in refused, "says what to do"
    else:
        assert isinstance(found, StoreUrl)
        assert 0 < found.port < 65536
        assert found.host
        assert found.nqn.startswith("nqn.")
