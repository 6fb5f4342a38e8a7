"""From what was seen of a job's end to its Result: reason, message, exit code or signal. Pure."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from sdbox.messages import MEGABYTE, memory_message, wall_message
from sdbox.record import record
from sdbox.result import Reason, Result, Usage

if TYPE_CHECKING:
    from sdbox.kernel.kmsg import Victim
    from sdbox.plan import Plan
    from sdbox.watch.limits import Excess


@record
class Ending:
    """What was seen. `status` is that of wait(2), or None where init vanished; times in seconds.

    Init blocks every signal, so that only SIGKILL ends it, and the payload goes with it.
    `victim` is whom the kernel killed for memory, if that is known, and `by_own_limit` whether it
    was for the job's own limit, not for one around it.
    """

    status: int | None
    started_at: float | None
    ended_at: float
    wall_seconds: float | None
    excess: Excess | None = None
    timed_out: bool = False
    killed: bool = False
    victim: Victim | None = None
    by_own_limit: bool = True


def result(plan: Plan, ending: Ending, usage: Usage) -> Result:
    """Return the account of a job whose payload was started."""
    exit_code, number = _decode(ending.status)
    reason, message = _reason(plan, ending, usage, exit_code, number)
    return _result(plan, ending, usage, reason, message, exit_code, number)


def launch_failed(plan: Plan, ended_at: float, message: str) -> Result:
    """Return the account of a job whose payload was never started."""
    ending = Ending(status=None, started_at=None, ended_at=ended_at, wall_seconds=None)
    return _result(plan, ending, Usage(), "launch-failed", message, None, None)


def _result(
    plan: Plan,
    ending: Ending,
    usage: Usage,
    reason: Reason,
    message: str,
    exit_code: int | None,
    number: int | None,
) -> Result:
    return Result(
        job=plan.job,
        unit=None if plan.manager == "none" else plan.unit,
        manager=plan.manager,
        command=plan.command,
        reason=reason,
        message=message,
        exit_code=exit_code,
        signal=number,
        started_at=ending.started_at,
        ended_at=ending.ended_at,
        wall_seconds=ending.wall_seconds,
        usage=usage,
        memory_limit_bytes=plan.memory_limit_bytes,
        box=plan.box,
        enforcement=plan.enforcement,
        cpus=plan.cpus,
    )


def _decode(status: int | None) -> tuple[int | None, int | None]:
    """Return exit code and signal: one of them."""
    if status is None:
        return None, signal.SIGKILL
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _reason(
    plan: Plan, ending: Ending, usage: Usage, exit_code: int | None, number: int | None
) -> tuple[Reason, str]:
    """Return why the job ended, with a sentence that a scheduler can show."""
    if ending.excess is not None:
        return ending.excess.reason, ending.excess.message
    if usage.oom_kills and (plan.ends_when_out_of_memory or number == signal.SIGKILL):
        return "memory", _out_of_memory(plan, ending, usage)
    if ending.timed_out:
        return "wall-time", wall_message(plan.runtime_max_seconds or 0.0)
    if ending.killed or ending.status is None:
        return "killed", "Job was killed."
    if number is not None:
        from sdbox.values.names import format_signal  # here, since most jobs exit

        return "signal", f"Job was ended by signal {format_signal(number)}."
    return "exited", f"Job exited with status {exit_code}."


def _out_of_memory(plan: Plan, ending: Ending, usage: Usage) -> str:
    limit = plan.memory_limit_bytes
    message = "Job was out of memory, though not by a limit of its own."
    if limit is not None and ending.by_own_limit:
        message = memory_message(limit, usage.memory_peak_bytes)
    victim = ending.victim
    if victim is None:
        return message
    megabytes = victim.own_bytes // MEGABYTE
    return f"{message} The kernel killed {victim.name} (PID {victim.pid}, {megabytes} megabytes)."
