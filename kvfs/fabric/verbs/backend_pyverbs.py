"""The verbs by pyverbs: rdma-core's own binding (its ``pyverbs/`` and ``Documentation/pyverbs.md``)."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from kvfs.fabric.verbs import abi
from kvfs.fabric.verbs.abi import Access, OdpSupport, Opcode
from kvfs.fabric.verbs.backend import (
    Completion,
    Context,
    Limits,
    Memory,
    Odp,
    PortAttributes,
    Queue,
    Route,
    limits_of,
    takes_dmabuf,
)
from kvfs.fabric.verbs.find_pyverbs import import_pyverbs

_EVENT_FILE = "anon_inode:[infinibandevent]"
_channels = threading.Lock()


class PyverbsBackend:
    """ImportError where there is no pyverbs that this Python can load."""

    name = "pyverbs"

    def __init__(self) -> None:
        self._modules = import_pyverbs()

    def open(self, device: str) -> Context:
        with self._errors():
            return _Context(self, device)

    def __getattr__(self, name: str) -> Any:
        """The modules, which carry no types."""
        try:
            return self._modules[name]
        except KeyError:
            raise AttributeError(name) from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self.pyverbs_error.PyverbsRDMAError as error:
            code = error.error_code if isinstance(error.error_code, int) else 0
            code = -code if code < -1 else code
            text = os.strerror(code) if code > 0 else str(error)
            raise OSError(code if code > 0 else errno.EIO, text) from error
        except self.pyverbs_error.PyverbsError as error:
            raise OSError(errno.EINVAL, str(error)) from error


class _Context:
    def __init__(self, library: PyverbsBackend, device: str) -> None:
        self._library = library
        with ExitStack() as made:
            self._context = made.enter_context(closing(library.device.Context(name=device)))
            self._domain = made.enter_context(closing(library.pd.PD(self._context)))
            self._made = made.pop_all()

    def limits(self) -> Limits:
        with self._library._errors():
            found = self._context.query_device()
        return limits_of(found, found.fw_version)

    def port(self, number: int) -> PortAttributes:
        with self._library._errors():
            found = self._context.query_port(number)
        return PortAttributes(active_mtu=found.active_mtu, max_message=found.max_msg_sz, lid=found.lid)

    def odp(self) -> Odp:
        with self._library._errors():
            found = self._context.query_device_ex().odp_caps
        return Odp(
            supported=bool(found.general_caps & OdpSupport.SUPPORT),
            implicit=bool(found.general_caps & OdpSupport.IMPLICIT),
            rc_read=bool(found.rc_odp_caps & OdpSupport.TRANSPORT_READ),
            rc_write=bool(found.rc_odp_caps & OdpSupport.TRANSPORT_WRITE),
        )

    def has_dmabuf(self) -> bool:
        return takes_dmabuf(self)

    def register(self, address: int, length: int, access: Access) -> Memory:
        with self._library._errors():
            return _Memory(self._library, self._library.mr.MR(self._domain, length, int(access), address))

    def register_dmabuf(self, fd: int, offset: int, length: int, access: Access) -> Memory:
        with self._library._errors():
            region = self._library.mr.DmaBufMR(self._domain, length, int(access), dmabuf=fd, offset=offset)
            return _Memory(self._library, region)

    def create_queue(self, depth: int, port: int, access: Access) -> Queue:
        with self._library._errors():
            return _Queue(self._library, self._context, self._domain, depth, port, access)

    def close(self) -> None:
        with self._library._errors():
            self._made.close()


class _Memory:
    def __init__(self, library: PyverbsBackend, region: Any) -> None:
        self._library = library
        self._region = region
        self.lkey: int = region.lkey
        self.rkey: int = region.rkey

    def close(self) -> None:
        with self._library._errors():
            self._region.close()


class _Queue:
    def __init__(
        self, library: PyverbsBackend, context: Any, domain: Any, depth: int, port: int, access: Access
    ) -> None:
        self._library = library
        with ExitStack() as made:
            self._channel, self.event_fd = _make_channel(library, context)
            made.enter_context(closing(self._channel))
            os.set_blocking(self.event_fd, False)
            self._completions = made.enter_context(closing(library.cq.CQ(context, depth, None, self._channel, 0)))
            attributes = library.qp.QPInitAttr(
                qp_type=abi.QUEUE_PAIR_RC,
                scq=self._completions,
                rcq=self._completions,
                cap=library.qp.QPCap(max_send_wr=depth, max_recv_wr=1, max_send_sge=1, max_recv_sge=1),
                sq_sig_all=1,
            )
            self._pair = made.enter_context(closing(library.qp.QP(domain, attributes)))
            self.number: int = self._pair.qp_num
            initial = library.qp.QPAttr(port_num=port)
            initial.qp_access_flags = int(access)
            self._pair.to_init(initial)
            self._made = made.pop_all()

    def connect(self, route: Route) -> None:
        library = self._library
        with library._errors():
            grh = None
            if route.gid_index is not None:
                gid = ":".join(route.remote_gid[at : at + 2].hex() for at in range(0, 16, 2))
                grh = library.addr.GlobalRoute(dgid=library.addr.GID(gid), sgid_index=route.gid_index, hop_limit=64)
            attributes = library.qp.QPAttr(port_num=route.port)
            attributes.ah_attr = library.addr.AHAttr(
                dlid=route.remote_lid, is_global=int(grh is not None), port_num=route.port, gr=grh
            )
            attributes.path_mtu = route.mtu
            attributes.dest_qp_num = route.remote_qpn
            attributes.rq_psn = route.remote_psn
            attributes.max_dest_rd_atomic = route.reads_in
            attributes.min_rnr_timer = 12
            self._pair.to_rtr(attributes)
            attributes.sq_psn = route.local_psn
            attributes.timeout = route.timeout
            attributes.retry_cnt = route.retries
            attributes.rnr_retry = 7
            attributes.max_rd_atomic = route.reads_out
            self._pair.to_rts(attributes)

    def post(
        self, opcode: Opcode, wr_id: int, address: int, length: int, lkey: int, remote_address: int, rkey: int
    ) -> None:
        wr = self._library.wr
        request = wr.SendWR(
            wr_id=wr_id,
            opcode=int(opcode),
            num_sge=1,
            sg=[wr.SGE(address, length, lkey)],
            send_flags=abi.SIGNALED,
        )
        request.set_wr_rdma(rkey, remote_address)
        with self._library._errors():
            self._pair.post_send(request)

    def poll(self, most: int) -> list[Completion]:
        with self._library._errors():
            _, found = self._completions.poll(most)
        return [Completion(each.wr_id, each.status, each.vendor_err) for each in found]

    def arm(self) -> None:
        with self._library._errors():
            self._completions.req_notify()

    def take_event(self) -> bool:
        try:
            with self._library._errors():
                self._channel.get_cq_event(self._completions)
        except BlockingIOError:
            return False
        self._completions.ack_events(1)
        return True

    def close(self) -> None:
        with self._library._errors():
            self._made.close()


def _make_channel(library: PyverbsBackend, context: Any) -> tuple[Any, int]:
    """A completion channel and its descriptor, which pyverbs (as of rdma-core 44) keeps to itself.

    The descriptor is the one event file that there was not before. ``_channels`` keeps this module's own makers apart;
    where another library of this process made or closed one at the same moment, it is done again.
    """
    for _ in range(16):
        with _channels:
            before = _event_files()
            channel = library.cq.CompChannel(context)
            made = _event_files() - before
        if len(made) == 1:
            return channel, made.pop()
        channel.close()
    raise OSError(errno.EAGAIN, "the completion channel's descriptor cannot be told from those of other threads")


def _event_files() -> set[int]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            if str(path.readlink()) == _EVENT_FILE:
                found.add(int(path.name))
        except FileNotFoundError:  # closed meanwhile, as is the one that listed them
            continue
    return found
