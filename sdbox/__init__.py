"""sdbox: puts a scheduler's jobs in systemd scopes, with limits, isolation and an account.

    result = sdbox.run(["./train"], box=sdbox.Box(MemoryMax="2G", PrivateTmp=True))

Importing this package costs nothing: what is named here is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdbox.api import run
    from sdbox.box import Box
    from sdbox.errors import (
        CPUsTaken,
        InvalidConfiguration,
        InvalidDirective,
        LaunchFailed,
        ManagerRefused,
        ManagerUnavailable,
        NoSuchJob,
        SdboxError,
        TimedOut,
        Unenforceable,
    )
    from sdbox.job import Job
    from sdbox.launcher import Launcher
    from sdbox.management.jobs import Jobs, JobStatus
    from sdbox.result import Result

__version__ = "0.1.0"

__all__ = [
    "Box",
    "CPUsTaken",
    "InvalidConfiguration",
    "InvalidDirective",
    "Job",
    "JobStatus",
    "Jobs",
    "LaunchFailed",
    "Launcher",
    "ManagerRefused",
    "ManagerUnavailable",
    "NoSuchJob",
    "Result",
    "SdboxError",
    "TimedOut",
    "Unenforceable",
    "run",
]

_HOMES = {
    "Box": "sdbox.box",
    "Job": "sdbox.job",
    "JobStatus": "sdbox.management.jobs",
    "Jobs": "sdbox.management.jobs",
    "Launcher": "sdbox.launcher",
    "Result": "sdbox.result",
    "run": "sdbox.api",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "sdbox.errors")), name)


def __dir__() -> list[str]:
    return __all__
