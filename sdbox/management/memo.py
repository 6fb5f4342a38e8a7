"""What sdbox remembers of a job: extended attributes of its unit's cgroup, gone with the cgroup.

`user.sdbox` is the job as it was started; `user.sdbox.result`, the account of its end, is there
for whoever still holds the directory open when the cgroup is removed. Both are JSON.

A job that runs as root can write them: they inform people, and nothing is decided by them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING

from sdbox.embedded import state
from sdbox.management.jsontext import encode
from sdbox.record import record, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sdbox.plan import Plan
    from sdbox.result import Result

ATTRIBUTE = "user.sdbox"
RESULT_ATTRIBUTE = "user.sdbox.result"

# Of the format, so that a later sdbox can tell.
VERSION = 1
# What the kernel takes is 64 KiB a value (XATTR_SIZE_MAX) and 128 KiB a cgroup.
_MOST_BYTES = 60_000
_MOST_OF_COMMAND = 4096
_MOST_OF_BOX = 16_384


@record
class Process:
    """A process, told from a later one with its PID by its start time, in clock ticks since boot.

    `pid_namespace` is the inode number of the namespace in which it has this PID.
    """

    pid: int
    start_time: int
    pid_namespace: int

    def alive(self) -> bool | None:
        """Whether it runs; None where this process can't see it."""
        if self.pid_namespace != state.pid_namespace():
            return None
        try:
            return state.start_time(self.pid) == self.start_time
        except ProcessLookupError:
            return False


@record
class Memo:
    """What is remembered of one job. `box` is None where it was too long to be kept.

    `owner` is the user ID of who started it, `supervisor` the process that waits for its end, if
    one does. `started_at` is in seconds since the epoch.
    """

    job: str
    manager: str
    command: tuple[str, ...]
    box: Mapping[str, Any] | None
    owner: int
    supervisor: Process | None
    started_at: float


def remember(cgroup: int, plan: Plan) -> None:
    """Write down a job that this process waits for, on the open directory of its cgroup."""
    memo = Memo(
        job=plan.job,
        manager=plan.manager,
        command=_shortened(plan.command),
        box=_without_secrets(plan.box),
        owner=os.getuid(),
        supervisor=_this_process(),
        started_at=time.time(),
    )
    rewrite(cgroup, memo)


def rewrite(cgroup: int, memo: Memo) -> None:
    """Write what is remembered of a job anew."""
    supervisor = None if memo.supervisor is None else values_of(memo.supervisor)
    document = {"version": VERSION, **values_of(memo), "supervisor": supervisor}
    if len(encode(memo.box)) > _MOST_OF_BOX:
        document["box"] = None
    _write(cgroup, ATTRIBUTE, document)


def recall(cgroup: int | str) -> Memo | None:
    """Return what is remembered of a job; None where that is nothing, or nothing that can be."""
    document = _read(cgroup, ATTRIBUTE)
    try:
        return _memo(document) if isinstance(document, dict) else None
    except (KeyError, TypeError, ValueError):
        return None


def keep_result(cgroup: int, result: Result) -> None:
    """Write down how a job ended. It may be gone already: who waits for it has its cgroup open."""
    document = result.to_json()
    if len(encode(document["box"])) > _MOST_OF_BOX:
        document["box"] = None
    document["command"] = _shortened(document["command"])
    _write(cgroup, RESULT_ATTRIBUTE, document)


def result_of(cgroup: int) -> dict[str, Any] | None:
    """Return the report of a job that has ended; None where its supervisor has left none."""
    document = _read(cgroup, RESULT_ATTRIBUTE)
    return document if _is_report(document) else None


def _this_process() -> Process:
    return _identified(os.getpid())


@functools.cache
def _identified(pid: int) -> Process:
    return Process(pid=pid, start_time=state.start_time(pid), pid_namespace=state.pid_namespace())


def _shortened(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return as much of a command as there is room for; what is cut off ends in an ellipsis."""
    if sum(map(len, command)) + len(command) <= _MOST_OF_COMMAND:
        return tuple(command)
    words, left = [], _MOST_OF_COMMAND
    for word in command:
        words.append(word if len(word) <= left else f"{word[:left]}…")
        left -= len(word) + 1
        if left <= 0:
            break
    return tuple(words)


def _without_secrets(box: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the box without what variables are set to, as anybody may read it here."""
    if "Environment" not in box:
        return box
    names = [item.partition("=")[0] for item in box["Environment"]]
    return {**box, "Environment": [f"{name}=…" if name else "" for name in names]}


def _write(cgroup: int, name: str, document: Mapping[str, Any]) -> None:
    # No job fails for it, be it that the cgroup is gone or that the kernel keeps no attributes.
    with contextlib.suppress(OSError):
        os.setxattr(cgroup, name, encode(document).encode("ascii"))


def _read(cgroup: int | str, name: str) -> Any:
    try:
        text = os.getxattr(cgroup, name)
    except OSError:
        return None
    if len(text) > _MOST_BYTES:
        return None
    import json

    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _memo(document: dict[str, Any]) -> Memo:
    supervisor, box = document["supervisor"], document["box"]
    return Memo(
        job=_one(document, "job", str),
        manager=_one(document, "manager", str),
        command=_words(document["command"]),
        box=None if box is None else _box(box),
        owner=_number(document["owner"], 2**32),
        supervisor=None if supervisor is None else _process(supervisor),
        started_at=_time(document["started_at"]),
    )


def _process(document: dict[str, Any]) -> Process:
    return Process(
        pid=_number(document["pid"], 2**31),
        start_time=_number(document["start_time"], 2**64),
        pid_namespace=_number(document["pid_namespace"], 2**64),
    )


def _one(document: dict[str, Any], name: str, kind: type) -> Any:
    if type(document[name]) is not kind:
        raise TypeError(name)
    return document[name]


def _number(value: object, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise TypeError(value)
    return value


def _time(value: object) -> float:
    """Return seconds since the epoch, of a year that there is."""
    if type(value) not in (int, float) or not 0 <= value < 2**37:  # type: ignore[operator]
        raise TypeError(value)
    return float(value)  # type: ignore[arg-type]


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(value)
    return tuple(value)


def _box(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return {name: one if isinstance(one, str) else list(_words(one)) for name, one in value.items()}


_REPORT: Mapping[str, Callable[[Any], bool]] = {
    "job": lambda value: isinstance(value, str),
    "unit": lambda value: isinstance(value, str),
    "reason": lambda value: isinstance(value, str),
    "message": lambda value: isinstance(value, str),
    "exit_code": lambda value: value is None or (type(value) is int and 0 <= value < 256),
    "signal": lambda value: value is None or (type(value) is int and 0 < value < 128),
}


def _is_report(document: object) -> bool:
    """Whether what others will rely on is there, and is what it should be."""
    from sdbox.result import REPORT_FIELDS

    if not isinstance(document, dict) or document.keys() != set(REPORT_FIELDS):
        return False
    return all(good(document[name]) for name, good in _REPORT.items())
