"""The embedded manager: a private systemd for machines where none is booted.

`find` is on the path of every launch and imports next to nothing; the verbs import what they
need when they are called.
"""

from __future__ import annotations

from sdbox.embedded.state import DIRECTORY, NAME, Embedded, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Embedded", "execute", "find", "start", "stop"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0


def start(
    timeout: float = START_SECONDS, *, name: str = NAME, directory: str = DIRECTORY
) -> Embedded:
    """Return the running manager, booting it first where there is none.

    ManagerUnavailable says what the machine lacks for it, TimedOut that it took too long.
    """
    manager = find(name=name, directory=directory)
    if manager is not None:
        return manager
    from sdbox.embedded import control

    return control.start(timeout, name, directory)


def stop(
    timeout: float = STOP_SECONDS,
    *,
    force: bool = False,
    name: str = NAME,
    directory: str = DIRECTORY,
) -> bool:
    """Shut the manager down and leave nothing of it. Return whether one was running.

    ManagerRefused where jobs are running, unless `force`, which ends them.
    """
    from sdbox.embedded import control

    return control.stop(timeout, name, directory, force=force)


def execute(manager: Embedded, command: Sequence[str]) -> int:
    """Run a command as if at a shell inside, with the caller's streams; return its wait status.

    For a process of its own, with one thread: it enters the manager's namespaces for good.
    """
    from sdbox.embedded import enter

    return enter.execute(manager, command)
