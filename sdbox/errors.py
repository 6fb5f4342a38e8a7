"""What sdbox raises: one base, each with a hint that names the remedy."""

from __future__ import annotations


class SdboxError(Exception):
    """Base of all errors of sdbox. `hint` is the remedy, one sentence, or empty.

    `exit_status` is what `sdbox run` ends with: 125, or as env(1) and timeout(1) have it
    126 for a program that can't be executed and 127 for one that is not there.
    """

    exit_status = 125

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}. {self.hint}" if self.hint else self.message


class InvalidDirective(SdboxError):
    """A directive's name or value that sdbox does not accept."""


class InvalidConfiguration(SdboxError):
    """A configuration file, or a box named in it, that can't be used."""


class Unenforceable(SdboxError):
    """Something was asked for that this host can't keep."""


class CPUsTaken(SdboxError):
    """Other jobs have the CPUs that were asked for. There may be some later."""


class ManagerUnavailable(SdboxError):
    """No systemd manager can be reached, or it went away."""


class ConnectionLost(ManagerUnavailable):
    """The connection to the manager broke: what was asked for may have been done, or may not."""


class ManagerGone(ManagerUnavailable):
    """The manager, or the way to it, has ended for good."""


class ManagerRefused(SdboxError):
    """The manager answered a call with an error. `name` is the D-Bus error's name."""

    def __init__(self, message: str, *, name: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name


class NoSuchJob(SdboxError):
    """No job of that name is there, or any more."""

    # As systemctl(1), "EXIT STATUS", has it after the Linux Standard Base: no such unit.
    exit_status = 4


class TimedOut(SdboxError):
    """Something that sdbox waited for did not happen in its time."""


class LaunchFailed(SdboxError):
    """The job could not be started: the step, the path and the errno are in the message."""

    def __init__(self, message: str, *, hint: str = "", exit_status: int = 125) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = exit_status
