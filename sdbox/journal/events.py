"""What sdbox tells the journal of a job: the table of events, and each one's fields. Pure.

MESSAGE_IDs are for ever. packaging/sdbox.catalog explains them, to `journalctl -x`.
"""

from __future__ import annotations

from sdbox.messages import MEGABYTE, memory_message, one_line
from sdbox.record import record, values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from sdbox.plan import Plan
    from sdbox.result import Result, Usage
    from sdbox.watch.limits import Excess

    Fields = list[tuple[str, str]]

IDENTIFIER = "sdbox"

# syslog(3)
WARNING, NOTICE, INFO = 4, 5, 6

_COMMAND_LONGEST = 16384
_COMMAND_SHOWN = 120
# What may hold secrets. A journal is kept for long, and read by others than the job's owner.
_UNTOLD = frozenset({"Environment"})


@record
class Event:
    """One kind of entry: its MESSAGE_ID, and its MESSAGE as a template, after the unit's name."""

    name: str
    id: str
    priority: int
    message: str


_TABLE = (
    Event(
        name="job-started",
        id="c752ba84c2f340bcb187bc272cd37dfb",
        priority=INFO,
        message="Job starts: {command}",
    ),
    Event(
        name="limit-passed",
        id="03407428efb245c6ba024816b4f90730",
        priority=WARNING,
        message="{message}",
    ),
    Event(
        name="frozen",
        id="35161159ed2c4e2eab6cca33681acd72",
        priority=NOTICE,
        message="Job is frozen.",
    ),
    Event(
        name="thawed",
        id="26a574ae67344ecc965a26ece301dffb",
        priority=NOTICE,
        message="Job is thawed.",
    ),
    Event(
        name="killed",
        id="2d3f83165d354583a8e7502a3809c80b",
        priority=NOTICE,
        message="Job is killed, on request.",
    ),
    Event(
        name="finished",
        id="c64d67832bfb4b158b852cf1f3ee0de6",
        priority=INFO,
        message="{message}{figures}",
    ),
)
EVENTS = {event.name: event for event in _TABLE}

# A figure of Result or Usage, and its field. Seconds become microseconds, as systemd counts time.
FIGURES = {
    "exit_code": "SDBOX_EXIT_CODE",
    "signal": "SDBOX_SIGNAL",
    "started_at": "SDBOX_STARTED_AT_USEC",
    "ended_at": "SDBOX_ENDED_AT_USEC",
    "wall_seconds": "SDBOX_WALL_USEC",
    "cpu_user_seconds": "SDBOX_CPU_USER_USEC",
    "cpu_system_seconds": "SDBOX_CPU_SYSTEM_USEC",
    "cpu_throttled_seconds": "SDBOX_CPU_THROTTLED_USEC",
    "memory_peak_bytes": "SDBOX_MEMORY_PEAK",
    "memory_cgroup_peak_bytes": "SDBOX_MEMORY_CGROUP_PEAK",
    "memory_limit_bytes": "SDBOX_MEMORY_LIMIT",
    "oom_kills": "SDBOX_OOM_KILLS",
    "tasks_peak": "SDBOX_TASKS_PEAK",
    "io_read_bytes": "SDBOX_IO_READ_BYTES",
    "io_write_bytes": "SDBOX_IO_WRITE_BYTES",
    "io_read_operations": "SDBOX_IO_READ_OPERATIONS",
    "io_write_operations": "SDBOX_IO_WRITE_OPERATIONS",
    "cpu_pressure_seconds": "SDBOX_CPU_PRESSURE_USEC",
    "memory_pressure_seconds": "SDBOX_MEMORY_PRESSURE_USEC",
    "io_pressure_seconds": "SDBOX_IO_PRESSURE_USEC",
}
_USEC = "_USEC"
# The reasons of an end that are limits.
_LIMITS = frozenset({"memory", "wall-time", "cpu-time", "disk"})


def started(plan: Plan) -> Fields:
    """Tell that a job starts: its command, and what was asked for and who keeps it."""
    command = " ".join(plan.command)
    return [
        *_entry("job-started", *_whose(plan), command=shortened(command, _COMMAND_SHOWN)),
        ("SDBOX_MANAGER", plan.manager),
        ("SDBOX_COMMAND", shortened(command, _COMMAND_LONGEST)),
        *_figures({"memory_limit_bytes": plan.memory_limit_bytes}),
        *(("SDBOX_DIRECTIVE", line) for line in _directives(plan.box)),
        *(("SDBOX_ENFORCEMENT", f"{name}={by}") for name, by in plan.enforcement.items()),
    ]


def limit_passed(plan: Plan, excess: Excess, usage: Usage) -> Fields:
    """Tell that a job has gone over a limit that is watched, and what it had used by then."""
    return _limit_passed(plan, excess.reason, excess.message, usage)


def _limit_passed(plan: Plan, reason: str, message: str, usage: Usage) -> Fields:
    return [
        *_entry("limit-passed", *_whose(plan), message=message),
        ("SDBOX_REASON", reason),
        *_figures({"memory_limit_bytes": plan.memory_limit_bytes} | values_of(usage)),
    ]


def frozen(job: str, unit: str, manager: str) -> Fields:
    """Tell that a job's processes have all stopped, by the freezer."""
    return _entry("frozen", job, unit, manager)


def thawed(job: str, unit: str, manager: str) -> Fields:
    """Tell that a job runs again."""
    return _entry("thawed", job, unit, manager)


def killed(job: str, unit: str, manager: str) -> Fields:
    """Tell that somebody has a job killed."""
    return _entry("killed", job, unit, manager)


def ended(plan: Plan, result: Result, *, limit_told: bool) -> list[Fields]:
    """Tell how a job ended; before that, of a limit that the kernel or the manager has kept."""
    return [*([] if limit_told else _kept_limits(plan, result)), finished(result)]


def _kept_limits(plan: Plan, result: Result) -> Iterator[Fields]:
    if result.reason in _LIMITS:
        yield _limit_passed(plan, result.reason, result.message, result.usage)
    elif result.usage.oom_kills and plan.memory_limit_bytes is not None:
        # One of its processes was killed, and the others went on.
        message = memory_message(plan.memory_limit_bytes, result.usage.memory_peak_bytes)
        yield _limit_passed(plan, "memory", message, result.usage)


def finished(result: Result) -> Fields:
    """Tell how a job ended, with every figure that is known."""
    values = values_of(result) | values_of(result.usage)
    return [
        *_entry(
            "finished",
            result.job,
            result.unit or result.job,
            result.manager,
            message=result.message,
            figures=_summary(result),
        ),
        ("SDBOX_REASON", result.reason),
        *_figures(values),
    ]


def _whose(plan: Plan) -> tuple[str, str, str]:
    return plan.job, plan.unit, plan.manager


def _entry(name: str, job: str, unit: str, manager: str, **words: str) -> Fields:
    event = EVENTS[name]
    return [
        ("MESSAGE", one_line(f"{unit}: {event.message.format(**words)}")),
        ("MESSAGE_ID", event.id),
        ("PRIORITY", str(event.priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        # What root says of a unit `journalctl --unit` shows, and what a user says of one of his
        # manager's `--user-unit` (systemd.journal-fields(7)). The sender is outside of the unit:
        # that tells these from what a job writes itself.
        ("OBJECT_SYSTEMD_USER_UNIT" if manager == "user" else "OBJECT_SYSTEMD_UNIT", unit),
        ("SDBOX_JOB", job),
        ("SDBOX_UNIT", unit),
    ]


def _figures(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, field in FIGURES.items():
        value = values.get(name)
        if value is not None:
            yield field, str(round(value * 1_000_000) if field.endswith(_USEC) else value)
    user, system = values.get("cpu_user_seconds"), values.get("cpu_system_seconds")
    if user is not None and system is not None:
        yield "SDBOX_CPU_USEC", str(round((user + system) * 1_000_000))


def _directives(box: Mapping[str, str | list[str]]) -> Iterator[str]:
    for name, value in box.items():
        for text in [value] if isinstance(value, str) else value:
            yield f"{name}={text.partition('=')[0]}=…" if name in _UNTOLD else f"{name}={text}"


def _summary(result: Result) -> str:
    """Return the figures that people look for first, as a sentence of its own."""
    usage = result.usage
    parts = []
    if result.wall_seconds is not None:
        parts.append(f"{result.wall_seconds:.3f} s")
    if usage.cpu_user_seconds is not None and usage.cpu_system_seconds is not None:
        parts.append(f"{usage.cpu_user_seconds + usage.cpu_system_seconds:.3f} s of CPU time")
    if usage.memory_peak_bytes is not None:
        parts.append(f"{usage.memory_peak_bytes / MEGABYTE:.1f} megabytes of memory")
    return f" It took {_listed(parts)}." if parts else ""


def _listed(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def shortened(text: str, longest: int) -> str:
    """Return at most so many characters, the last of which says that there were more."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
