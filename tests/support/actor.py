"""A process with another user's rights that does what it is told, call by call, until it is closed."""

import os
import pickle
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

_LARGEST = 1 << 20  # B of one request or answer
_PATIENCE = 60  # s


class Actor:
    """``serve`` is called in a forked child, as ``uid``, ``gid`` and ``groups``, with each request.

    Requests and answers are plain data. ``serve`` has to answer for the errors that belong to the test; any other
    exception ends the child, and with it the test.
    """

    def __init__(self, serve: Callable[[Any], Any], uid: int, gid: int, groups: Sequence[int] = ()) -> None:
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                self._socket.close()
                os.setgroups(list(groups))
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                while request := far_end.recv(_LARGEST):
                    far_end.send(pickle.dumps(serve(pickle.loads(request))))
                status = 0
            finally:
                os._exit(status)
        far_end.close()
        self._socket.settimeout(_PATIENCE)

    def ask(self, request: Any) -> Any:
        self._socket.send(pickle.dumps(request))
        answer = self._socket.recv(_LARGEST)
        assert answer, f"the process of this actor died of {request!r}"
        return pickle.loads(answer)

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
