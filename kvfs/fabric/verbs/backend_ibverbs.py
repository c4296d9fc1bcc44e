"""The verbs by the ``ibverbs`` package (PyPI, rdma4py): it opens libibverbs when it is imported."""

import errno
import importlib
import mmap
import os
from contextlib import ExitStack
from typing import Any

from kvfs.fabric.verbs import abi
from kvfs.fabric.verbs.abi import Access, Opcode, QueuePairField, QueuePairState
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
from kvfs.fabric.verbs.memory import address_of


class IbverbsBackend:
    """ImportError where the package or libibverbs is missing. Its errors are OSErrors already."""

    name = "ibverbs"

    def __init__(self) -> None:
        self.library: Any = importlib.import_module("ibverbs")

    def open(self, device: str) -> Context:
        for each in self.library.get_device_list():
            if each.name == device:
                return _Context(self.library, each)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class _Context:
    def __init__(self, library: Any, device: Any) -> None:
        self._library = library
        with ExitStack() as made:
            self._context = made.enter_context(device.open())
            self._domain = made.enter_context(self._context.alloc_pd())
            self._made = made.pop_all()

    def limits(self) -> Limits:
        found = self._context.query_device()
        return limits_of(found, found.fw_ver)

    def port(self, number: int) -> PortAttributes:
        found = self._context.query_port(number)
        return PortAttributes(active_mtu=found.active_mtu, max_message=found.max_msg_sz, lid=found.lid)

    def odp(self) -> Odp:
        """The package has no query for it, so it is tried with a page."""
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            address, _, hold = address_of(page)
            try:
                self.register(address, mmap.PAGESIZE, Access.LOCAL_WRITE | Access.ON_DEMAND).close()
            except OSError:
                return Odp(supported=False)
            finally:
                del hold  # the page cannot be unmapped before
        return Odp(supported=True)

    def has_dmabuf(self) -> bool:
        return takes_dmabuf(self)

    def register(self, address: int, length: int, access: Access) -> Memory:
        found: Memory = self._domain.reg_mr(address, length, int(access))
        return found

    def register_dmabuf(self, fd: int, offset: int, length: int, access: Access) -> Memory:
        try:
            found: Memory = self._domain.reg_dmabuf_mr(offset, length, offset, fd, int(access))
        except RuntimeError as error:  # a libibverbs before 34
            raise OSError(errno.EOPNOTSUPP, str(error)) from error
        return found

    def create_queue(self, depth: int, port: int, access: Access) -> Queue:
        return _Queue(self._library, self._context, self._domain, depth, port, access)

    def close(self) -> None:
        self._made.close()


class _Queue:
    def __init__(self, library: Any, context: Any, domain: Any, depth: int, port: int, access: Access) -> None:
        self._library = library
        with ExitStack() as made:
            self._channel = made.enter_context(context.create_comp_channel())
            self.event_fd: int = self._channel.fd
            os.set_blocking(self.event_fd, False)
            self._completions = made.enter_context(context.create_cq(depth, channel=self._channel))
            attributes = library.QPInitAttr(
                send_cq=self._completions,
                recv_cq=self._completions,
                qp_type=abi.QUEUE_PAIR_RC,
                max_send_wr=depth,
                max_recv_wr=1,
                sq_sig_all=True,
            )
            self._pair = made.enter_context(domain.create_qp(attributes))
            self.number: int = self._pair.qp_num
            field = QueuePairField
            self._pair.modify(
                int(field.STATE | field.PKEY_INDEX | field.PORT | field.ACCESS_FLAGS),
                qp_state=int(QueuePairState.INIT),
                pkey_index=0,
                port_num=port,
                qp_access_flags=int(access),
            )
            self._made = made.pop_all()

    def connect(self, route: Route) -> None:
        field = QueuePairField
        vector = self._library.AHAttr(
            dgid=route.remote_gid,
            sgid_index=route.gid_index or 0,
            dlid=route.remote_lid,
            is_global=int(route.gid_index is not None),
            port_num=route.port,
            hop_limit=64,
        )
        self._pair.modify(
            int(
                field.STATE
                | field.AV
                | field.PATH_MTU
                | field.DEST_QPN
                | field.RQ_PSN
                | field.MAX_DEST_RD_ATOMIC
                | field.MIN_RNR_TIMER
            ),
            ah_attr=vector,
            qp_state=int(QueuePairState.RTR),
            path_mtu=route.mtu,
            dest_qp_num=route.remote_qpn,
            rq_psn=route.remote_psn,
            max_dest_rd_atomic=route.reads_in,
            min_rnr_timer=12,
        )
        self._pair.modify(
            int(
                field.STATE | field.SQ_PSN | field.TIMEOUT | field.RETRY_CNT | field.RNR_RETRY | field.MAX_QP_RD_ATOMIC
            ),
            qp_state=int(QueuePairState.RTS),
            sq_psn=route.local_psn,
            timeout=route.timeout,
            retry_cnt=route.retries,
            rnr_retry=7,
            max_rd_atomic=route.reads_out,
        )

    def post(
        self, opcode: Opcode, wr_id: int, address: int, length: int, lkey: int, remote_address: int, rkey: int
    ) -> None:
        library = self._library
        self._pair.post_send(
            library.SendWR(
                wr_id=wr_id,
                sg_list=[library.SGE(address, length, lkey)],
                opcode=int(opcode),
                send_flags=abi.SIGNALED,
                remote_addr=remote_address,
                rkey=rkey,
            )
        )

    def poll(self, most: int) -> list[Completion]:
        return [Completion(each.wr_id, each.status, each.vendor_err) for each in self._completions.poll(most)]

    def arm(self) -> None:
        self._completions.req_notify()

    def take_event(self) -> bool:
        try:
            self._channel.get_cq_event()
        except OSError as error:  # a class of the package's own, never BlockingIOError
            if error.errno == errno.EAGAIN:
                return False
            raise
        self._completions.ack_events(1)
        return True

    def close(self) -> None:
        self._made.close()
