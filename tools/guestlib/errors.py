"""What can go wrong with a guest, each with an exit status that says which: a command in it may end with any other."""

from kvfs.errors import KvfsError


class GuestUnavailable(KvfsError):
    """No kernel, or no emulator, can be had here. Nothing was tried that could have failed."""

    exit_status = 120


class GuestLost(KvfsError):
    """The guest ended in another way than by its command's end. ``console``: the end of what it said, several lines."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(message, "the end of its console is above")
        self.console = console


class GuestHung(GuestLost):
    """The command did not end in time; the guest was killed. 124, as timeout(1) has it."""

    exit_status = 124


class GuestFailed(GuestLost):
    """The guest ended without a status of the command."""

    exit_status = 125


class GuestNotReady(GuestFailed):
    """The guest ended before the command began."""
