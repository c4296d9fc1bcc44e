"""Numbers of the verbs interface that kvfs uses: part of libibverbs' stable ABI (``<infiniband/verbs.h>``)."""

from enum import IntEnum, IntFlag


class Access(IntFlag):
    """``IBV_ACCESS_*``: what a memory region or a queue pair allows."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4
    ON_DEMAND = 64


class Opcode(IntEnum):
    """``IBV_WR_*``"""

    RDMA_WRITE = 0
    RDMA_READ = 4


class Status(IntEnum):
    """``IBV_WC_*``: how a work request ended; the ones that kvfs tells apart."""

    SUCCESS = 0
    LOCAL_LENGTH = 1
    LOCAL_PROTECTION = 4
    FLUSHED = 5
    REMOTE_INVALID_REQUEST = 9
    REMOTE_ACCESS = 10
    REMOTE_OPERATION = 11
    RETRY_EXCEEDED = 12
    RNR_RETRY_EXCEEDED = 13
    REMOTE_ABORTED = 16
    FATAL = 19
    RESPONSE_TIMEOUT = 20


class QueuePairState(IntEnum):
    """``IBV_QPS_*``"""

    INIT = 1
    RTR = 2
    RTS = 3


class QueuePairField(IntFlag):
    """``IBV_QP_*``: which attributes a change of state sets."""

    STATE = 1 << 0
    ACCESS_FLAGS = 1 << 3
    PKEY_INDEX = 1 << 4
    PORT = 1 << 5
    AV = 1 << 7
    PATH_MTU = 1 << 8
    TIMEOUT = 1 << 9
    RETRY_CNT = 1 << 10
    RNR_RETRY = 1 << 11
    RQ_PSN = 1 << 12
    MAX_QP_RD_ATOMIC = 1 << 13
    MIN_RNR_TIMER = 1 << 15
    SQ_PSN = 1 << 16
    MAX_DEST_RD_ATOMIC = 1 << 17
    DEST_QPN = 1 << 20


class OdpSupport(IntFlag):
    """``IBV_ODP_SUPPORT*``: of a device; and ``IBV_ODP_SUPPORT_*`` of a transport."""

    SUPPORT = 1
    IMPLICIT = 2
    TRANSPORT_WRITE = 4
    TRANSPORT_READ = 8


SIGNALED = 2  # IBV_SEND_SIGNALED
QUEUE_PAIR_RC = 2  # IBV_QPT_RC
