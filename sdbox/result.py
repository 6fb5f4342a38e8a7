"""How a job ended and what it used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sdbox.record import record, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Reason = Literal[
    "exited", "signal", "memory", "wall-time", "cpu-time", "disk", "killed", "launch-failed"
]
Enforcement = Literal["kernel", "manager", "affinity", "quota", "watch"]


@record
class Usage:
    """What a job has used. A figure that nobody kept is None, never 0.

    `memory_peak_bytes` is the job's own memory (anonymous and shared), without page cache;
    `memory_cgroup_peak_bytes` is the kernel's memory.peak, with it. Pressure is the time in which
    some of the job's tasks had to wait for CPU, memory or I/O (PSI); waiting for memory is what
    MemoryHigh= does to a job.
    """

    cpu_user_seconds: float | None = None
    cpu_system_seconds: float | None = None
    cpu_throttled_seconds: float | None = None
    memory_peak_bytes: int | None = None
    memory_cgroup_peak_bytes: int | None = None
    oom_kills: int | None = None
    tasks_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_read_operations: int | None = None
    io_write_operations: int | None = None
    cpu_pressure_seconds: float | None = None
    memory_pressure_seconds: float | None = None
    io_pressure_seconds: float | None = None


@record
class Result:
    """The account of one job. Times are seconds since the epoch, `command` is what was asked for.

    Of `exit_code` and `signal` one is set if the payload ran, and neither if it did not.
    `enforcement` says for each directive of `box` who kept it, and `cpus` which CPUs were assigned.
    """

    job: str
    unit: str | None
    manager: str
    command: tuple[str, ...]
    reason: Reason
    message: str
    exit_code: int | None
    signal: int | None
    started_at: float | None
    ended_at: float
    wall_seconds: float | None
    usage: Usage
    memory_limit_bytes: int | None
    box: Mapping[str, Any]
    enforcement: Mapping[str, Enforcement]
    cpus: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report: flat, the usage's figures among the others."""
        fields = values_of(self) | values_of(self.usage)
        fields["command"] = list(self.command)
        fields["box"] = dict(self.box)
        fields["enforcement"] = dict(self.enforcement)
        fields["cpus"] = None if self.cpus is None else list(self.cpus)
        return {name: fields[name] for name in REPORT_FIELDS}


# The order of the report, as the documentation gives it.
REPORT_FIELDS = (
    "job", "unit", "manager", "command", "reason", "message", "exit_code", "signal",
    "started_at", "ended_at", "wall_seconds",
    "cpu_user_seconds", "cpu_system_seconds", "cpu_throttled_seconds",
    "memory_peak_bytes", "memory_cgroup_peak_bytes", "memory_limit_bytes", "oom_kills",
    "tasks_peak",
    "io_read_bytes", "io_write_bytes", "io_read_operations", "io_write_operations",
    "cpu_pressure_seconds", "memory_pressure_seconds", "io_pressure_seconds",
    "box", "enforcement", "cpus",
)  # fmt: skip
