"""`sdbox top`: what the jobs use, live, the greediest first."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from sdbox.cli import naming, table
from sdbox.cli.listing import command_of, cpu_seconds
from sdbox.cli.parser import layout
from sdbox.errors import NoSuchJob, TimedOut
from sdbox.record import record, values_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from sdbox.management.jobs import Jobs, JobStatus
    from sdbox.management.verbs import Figures

_COLUMNS = ("JOB", "STATE", "%CPU", "MEMORY", "TASKS", "CPU", "READ/s", "WRITE/s", "COMMAND")
_INTERVAL_SECONDS = 2.0
# Enter and leave the alternate screen, without a cursor; home, erase to the end of line, of screen.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


@record
class Reading:
    """What one job uses, its rates from the difference to the reading before."""

    job: str
    unit: str
    state: str
    command: str
    cpu_percent: float | None
    cpu_seconds: float | None
    memory_bytes: int | None
    tasks: int | None
    io_read_bytes_per_second: float | None
    io_write_bytes_per_second: float | None


@record
class Look:
    """One job's figures, and when they were read."""

    at: float
    job: JobStatus
    figures: Figures


# What readings are sorted by: the option's word, the key, and the field.
_ORDERS = {
    "cpu": ("c", "cpu_percent"),
    "memory": ("m", "memory_bytes"),
    "tasks": ("t", "tasks"),
    "time": ("T", "cpu_seconds"),
    "io": ("i", "io_write_bytes_per_second"),
    "job": ("j", "job"),
}
_KEYS = {key: order for order, (key, _) in _ORDERS.items()}


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `top` to the command line."""
    parser = verbs.add_parser(
        "top",
        help="show what jobs use, live, the greediest first",
        description="Shows what jobs use, live, the greediest first. Keys: q quits; "
        "c, m, t, T, i and j sort by CPU, memory, tasks, CPU time, I/O and job.",
        formatter_class=layout,
    )
    parser.set_defaults(run=run)
    naming.add_jobs(parser, needed=False)
    parser.add_argument("--sort", choices=tuple(_ORDERS), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "-d",
        "--delay",
        type=_interval,
        default=_INTERVAL_SECONDS,
        metavar="SECONDS",
        help=f"between two looks (default: {_INTERVAL_SECONDS:g})",
    )
    parser.add_argument("-n", "--iterations", type=int, metavar="N", help="end after N of them")
    parser.add_argument(
        "-b", "--batch", action="store_true", help="print one table after the other, and no header"
    )
    parser.add_argument(
        "--json", action="store_true", help="in batch: a line of JSON, an array, for each look"
    )


def _interval(text: str) -> float:
    number = float(text)
    # Less would be a load of its own, and more is more than poll(2) takes.
    if not 0.1 <= number <= 86_400:
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Show until it is enough, and return the exit status."""
    gc.enable()
    if arguments.batch or arguments.json or not sys.stdout.isatty():
        return naming.run(_show(arguments, _Batch(arguments)))
    from sdbox import loop

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        with _screen() as keys:
            return loop.run(_show(arguments, _Screen(arguments.sort, keys)))
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            from sdbox.cli.signals import end_by

            end_by(interrupt.args[0])
        return 0


def _interrupted(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(number)


async def _show(arguments: argparse.Namespace, output: _Batch | _Screen) -> int:
    from sdbox.management.jobs import Jobs

    async with Jobs(manager=arguments.manager) as jobs:
        before = await _look(jobs, arguments.jobs)
        shown = 0
        output.show([reading(look, None) for look in before.values()], first=True)
        while arguments.iterations is None or shown < arguments.iterations:
            if await output.pause(arguments.delay):
                break
            now = await _look(jobs, arguments.jobs)
            output.show([reading(look, before.get(unit)) for unit, look in now.items()])
            before, shown = now, shown + 1
    return 0


async def _look(jobs: Jobs, names: Sequence[str]) -> dict[str, Look]:
    looks = {}
    for job in await jobs.find(*names):
        # It may end at any time.
        with contextlib.suppress(NoSuchJob):
            figures = await jobs.usage(job)
            looks[job.unit] = Look(at=time.monotonic(), job=job, figures=figures)
    return looks


def reading(look: Look, before: Look | None) -> Reading:
    """Return what to show of a job; rates are known from the second look on."""
    cpu = _rate(look, before, cpu_seconds)
    return Reading(
        job=look.job.job,
        unit=look.job.unit,
        state=look.job.state,
        command=command_of(look.job),
        cpu_percent=None if cpu is None else 100 * cpu,
        cpu_seconds=cpu_seconds(look.figures),
        memory_bytes=look.figures.memory_bytes,
        tasks=look.figures.tasks,
        io_read_bytes_per_second=_rate(look, before, lambda figures: figures.used.io_read_bytes),
        io_write_bytes_per_second=_rate(look, before, lambda figures: figures.used.io_write_bytes),
    )


def _rate(look: Look, before: Look | None, figure: Any) -> float | None:
    if before is None or look.at <= before.at:
        return None
    last, now = figure(before.figures), figure(look.figures)
    return None if last is None or now is None else max(now - last, 0) / (look.at - before.at)


def in_order(readings: Sequence[Reading], order: str) -> list[Reading]:
    """Return readings, the largest first, what is not known last; equals by their job."""
    field = _ORDERS[order][1]
    by_job = sorted(readings, key=lambda one: one.job)
    if field == "job":
        return by_job
    return sorted(by_job, key=lambda one: -(_number(getattr(one, field))))


def _number(value: float | None) -> float:
    return -1.0 if value is None else value


def _row(one: Reading) -> tuple[str, ...]:
    return (
        one.job,
        one.state,
        table.UNKNOWN if one.cpu_percent is None else f"{one.cpu_percent:.1f}",
        table.size(one.memory_bytes),
        table.count(one.tasks),
        table.seconds(one.cpu_seconds),
        table.size(one.io_read_bytes_per_second),
        table.size(one.io_write_bytes_per_second),
        one.command,
    )


class _Batch:
    """One table, or one line of JSON, after the other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._order: str = arguments.sort
        self._json: bool = arguments.json

    def show(self, readings: Sequence[Reading], *, first: bool = False) -> None:
        if first:
            # There are no rates yet.
            return
        ordered = in_order(readings, self._order)
        if self._json:
            import json

            print(json.dumps([values_of(one) for one in ordered]), flush=True)
            return
        for line in table.lines([_row(one) for one in ordered], columns=None):
            print(line)
        print(flush=True)

    async def pause(self, seconds: float) -> bool:
        from sdbox import loop

        await loop.sleep(seconds)
        return False


class _Screen:
    """The terminal, drawn anew each time. `keys` is where keys are read, if anywhere."""

    def __init__(self, order: str, keys: int | None) -> None:
        self._order = order
        self._keys = keys
        self._readings: Sequence[Reading] = ()

    def show(self, readings: Sequence[Reading], *, first: bool = False) -> None:
        self._readings = readings
        size = os.get_terminal_size(1)
        rows = [_row(one) for one in in_order(readings, self._order)]
        text = picture(rows, self._order, columns=size.columns or 80, height=size.lines or 24)
        os.write(1, text.encode(errors="replace"))

    async def pause(self, seconds: float) -> bool:
        """Wait, and do what keys say; return whether it is enough."""
        from sdbox import loop

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._keys is None:
                await loop.sleep(left)
            elif await _readable_within(self._keys, left) and self._pressed(self._keys):
                return True
        return False

    def _pressed(self, keys: int) -> bool:
        for key in os.read(keys, 64).decode(errors="replace") or "q":
            if key == "q":
                return True
            if key in _KEYS:
                self._order = _KEYS[key]
                self.show(self._readings)
        return False


async def _readable_within(fd: int, seconds: float) -> bool:
    from sdbox import loop

    with contextlib.suppress(TimedOut):
        async with loop.within(seconds, "a key"):
            await loop.readable(fd)
            return True
    return False


def picture(rows: Sequence[Sequence[str]], order: str, *, columns: int, height: int) -> str:
    """Return what draws a whole screen."""
    header, *body = table.lines([_COLUMNS, *rows], columns=columns)
    title = f"{len(rows)} {'job' if len(rows) == 1 else 'jobs'}, by {order}"[:columns]
    shown = [title, f"{_BOLD}{header}{_PLAIN}", *map(table.coloured, body)][:height]
    return _HOME + "\r\n".join(f"{line}{_LINE}" for line in shown) + _REST


@contextlib.contextmanager
def _screen() -> Iterator[int | None]:
    """Take over the terminal; yield where keys can be read one by one."""
    import termios
    import tty

    keys = 0 if os.isatty(0) else None
    before: Mapping[str, Any] | list[Any] | None = None
    if keys is not None:
        before = termios.tcgetattr(keys)
        tty.setcbreak(keys)
    os.write(1, _ENTER.encode())
    try:
        yield keys
    finally:
        os.write(1, _LEAVE.encode())
        if keys is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)  # type: ignore[arg-type]
