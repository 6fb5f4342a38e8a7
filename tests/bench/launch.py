"""What a launch costs: `sdbox run` beside systemd's own ways, the API beside a plain loop, memory.

    tests/bench/launch.py [--runs N] [--rounds N]

Everything is measured in one run, in turns, so that all meet the same machine. What needs the
manager's own namespaces is spawned and timed by a process that has entered them before; that
entry is nobody's cost. The box is one that all of them can make: private /tmp and /var/tmp,
PID, IPC and network namespaces, no new privileges, and a memory limit of the unit.

Whole commands are timed after a pause, as most launches come, and back to back; each round has them
in another order. To move a process to another cgroup, as systemd does for each scope, the kernel
waits for some 10 ms (an RCU grace period), unless another was moved just before: so back to back
each command's time depends on the one before it, which must not always be the same.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbox import embedded
from sdbox.systemd.endpoint import SYSTEM_BUS, booted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rate = Callable[..., float]

TRUE = "/bin/true"
BOX = {
    "MemoryMax": "256M",
    "PrivateTmp": True,
    "PrivatePIDs": True,
    "PrivateIPC": True,
    "PrivateNetwork": True,
    "NoNewPrivileges": True,
}
FULL, BWRAP = "sdbox run, full box", "systemd-run --scope bwrap, same box"
# Before each command, in seconds.
PAUSES = (0.1, 0.0)
# systemd.exec(5): a service has PrivatePIDs= since 257.
_PRIVATE_PIDS_SINCE = 257
_BWRAP = [
    *("--dev-bind", "/", "/", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--proc", "/proc"),
    *("--unshare-pid", "--unshare-ipc", "--unshare-net", "--die-with-parent"),
]

IN_FLIGHT = (1, 8, 64)
# The API returns when systemd has no such unit any more. So does the loop that it is measured by;
# what one takes that leaves the units to systemd is told, too.
LEAST = "plain loop that leaves the units to systemd"
PLAIN = "plain loop, to the end of each unit"
API = "API, no box"
RATES: dict[str, Rate] = {
    LEAST: lambda _, inside, *how: inside.ask("plain_rate", *how, False),
    PLAIN: lambda _, inside, *how: inside.ask("plain_rate", *how, True),
    API: lambda outside, _, *how: outside.ask("api_rate", *how[:2], {}),
    "API, full box": lambda outside, _, *how: outside.ask("api_rate", *how[:2], BOX),
}
HELD = 200

# What is to be reached.
MOST_TIMES_BWRAP = 6.0
LEAST_SHARE_OF_PLAIN = 0.6
MOST_FOR_ONE = 25 * 2**20
MOST_FOR_EACH_MORE = 3 * 2**20


class Worker:
    """A process that measures: tests/bench/worker.py."""

    def __init__(self, prefix: list[str]) -> None:
        program = str(Path(__file__).resolve().with_name("worker.py"))
        self._process = subprocess.Popen(
            [*prefix, sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A box with PrivateTmp does not have a directory that is below /tmp.
            cwd="/",
        )

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Have it measure, and return what it found."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("A process of the benchmark has ended: see above")
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A whole command, and the worker that times it."""

    name: str
    argv: list[str]
    worker: Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """What a command has taken, in seconds.

    `cpu` is that of the process and of what it waited for, without systemd's own.
    """

    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.times)


@contextmanager
def workers(sdbox: str) -> Iterator[tuple[Worker, Worker]]:
    """Give one worker out here and one in the manager's namespaces."""
    with ExitStack() as stack:
        prefix = []
        if not booted():
            prefix = [sdbox, "embedded", "exec", "--"]
            if embedded.find() is None:
                stack.callback(embedded.stop)
            embedded.start()
        outside, inside = Worker([]), Worker(prefix)
        stack.callback(outside.close)
        stack.callback(inside.close)
        yield outside, inside


def contestants(sdbox: str, outside: Worker, inside: Worker) -> list[Contestant]:
    """Return the commands to be compared."""
    service, left_out = _service_properties()
    limit = ["-p", f"MemoryMax={BOX['MemoryMax']}"]
    run = [_program("systemd-run"), "--quiet", "--collect"]
    lines = {
        "true": ([TRUE], outside),
        "sdbox run, no box": ([sdbox, "run", "--", TRUE], outside),
        FULL: ([sdbox, "run", *_options(), "--", TRUE], outside),
        "systemd-run --scope": ([*run, "--scope", TRUE], inside),
        BWRAP: (
            [*run, "--scope", *limit, _program("bwrap"), *_BWRAP, TRUE],
            inside,
        ),
        f"systemd-run --wait --pipe, same box{left_out}": (
            [*run, "--wait", "--pipe", *limit, *service, TRUE],
            inside,
        ),
    }
    return [
        Contestant(name=name, argv=argv, worker=worker) for name, (argv, worker) in lines.items()
    ]


def compare_commands(contestants: list[Contestant], runs: int, pause: float) -> float:
    """Time them in turns, print the table, return the ratio of the full box to bwrap's."""
    timed = {contestant.name: Timed() for contestant in contestants}
    order = random.Random(runs)  # noqa: S311 - anybody may guess it
    for _ in range(runs + 1):
        for contestant in order.sample(contestants, len(contestants)):
            time.sleep(pause)
            taken, cpu = contestant.worker.ask("seconds", contestant.argv)
            timed[contestant.name].times.append(taken)
            timed[contestant.name].cpu.append(cpu)
    for one in timed.values():
        # These have warmed the caches.
        del one.times[0], one.cpu[0]
    bwrap = timed[BWRAP].median
    when = f"each after {pause:g} s" if pause else "back to back"
    _heading(f"Whole commands, {runs} runs, {when}", "median ms", "min", "p90", "CPU", "x bwrap")
    for name, one in timed.items():
        times = sorted(one.times)
        figures = (
            one.median,
            times[0],
            times[int(len(times) * 0.9)],
            statistics.median(one.cpu),
        )
        _row(name, *(f"{figure * 1000:.1f}" for figure in figures), f"{one.median / bwrap:.2f}")
    return timed[FULL].median / bwrap


def compare_rates(outside: Worker, inside: Worker, rounds: int) -> list[float]:
    """Measure launches a second in turns, print the table, return the API's shares of plain."""
    columns: dict[str, list[float]] = {}
    shares = []
    for in_flight in IN_FLIGHT:
        rates: dict[str, list[float]] = {name: [] for name in RATES}
        for _ in range(rounds):
            count = 40 + 2 * in_flight
            address = f"unix:path={SYSTEM_BUS}"
            for name, ask in RATES.items():
                rates[name].append(ask(outside, inside, count, in_flight, address))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        shares.append(medians[API] / medians[PLAIN])
        for name, rate in medians.items():
            columns.setdefault(name, []).append(rate)
        columns.setdefault(f"{API} / {PLAIN}", []).append(shares[-1])
        columns.setdefault(f"{API} / {LEAST}", []).append(medians[API] / medians[LEAST])
    _heading("Launches a second, jobs in flight:", *map(str, IN_FLIGHT))
    for name, values in columns.items():
        _row(name, *(f"{value:.{2 if value < 10 else 0}f}" for value in values))
    return shares


def compare_memory(sdbox: str, outside: Worker) -> tuple[int, float]:
    """Print what waiting jobs take; return the bytes for one and for each more."""
    one = outside.ask("waiting_command", [sdbox, "run", *_options(), "--"])
    first, all_of_them = outside.ask("waiting_jobs", [1, HELD], BOX)
    more = (all_of_them - first) / (HELD - 1)
    _heading("PSS of supervisor, helper and init, full box", "MiB")
    for name, value in (
        ("one `sdbox run`", one),
        ("a Launcher with 1 job", first),
        (f"a Launcher with {HELD} jobs", all_of_them),
        ("each job more", more),
    ):
        _row(name, f"{value / 2**20:.1f}")
    return one, more


def judge(times_bwrap: float, shares: list[float], one: int, more: float) -> None:
    """Print the targets beside what was reached."""
    share = min(shares)
    _heading("Targets", "to reach", "reached")
    for name, target, reached, good in (
        (
            "sdbox run, full box, by bwrap's line, the worse of both",
            f"<= {MOST_TIMES_BWRAP:g}",
            f"{times_bwrap:.2f}",
            times_bwrap <= MOST_TIMES_BWRAP,
        ),
        (
            "API's share of the plain loop's rate",
            f">= {LEAST_SHARE_OF_PLAIN:.0%}",
            f"{share:.0%}",
            share >= LEAST_SHARE_OF_PLAIN,
        ),
        ("MiB for one job", "<= 25", f"{one / 2**20:.1f}", one <= MOST_FOR_ONE),
        ("MiB for each more", "<= 3", f"{more / 2**20:.2f}", more <= MOST_FOR_EACH_MORE),
    ):
        _row(name, target, reached, "yes" if good else "NO")


def main() -> None:
    """Measure everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=25, help="of each whole command, both ways")
    parser.add_argument("--rounds", type=int, default=9, help="of each rate")
    parser.add_argument("--sdbox", default=str(Path(sys.executable).with_name("sdbox")))
    options = parser.parse_args()
    sdbox = str(Path(_program(options.sdbox)).resolve())
    with workers(sdbox) as (outside, inside):
        commands = contestants(sdbox, outside, inside)
        ratios = [compare_commands(commands, options.runs, pause) for pause in PAUSES]
        shares = compare_rates(outside, inside, options.rounds)
        judge(max(ratios), shares, *compare_memory(sdbox, outside))


def _options() -> list[str]:
    return [f"-p{name}={_text(value)}" for name, value in BOX.items()]


def _service_properties() -> tuple[list[str], str]:
    """Return the box as systemd-run's options, and in words what it can't have here."""
    text = subprocess.run(
        ["systemd-run", "--version"], capture_output=True, text=True, check=True
    ).stdout
    missing = {"MemoryMax"}
    if int(text.split()[1]) < _PRIVATE_PIDS_SINCE:
        missing.add("PrivatePIDs")
    # systemd mounts a private one there, and fails where a container has no such directory.
    if not Path("/dev/mqueue").is_dir():
        missing.add("PrivateIPC")
    options = [f"-p{name}={_text(value)}" for name, value in BOX.items() if name not in missing]
    without = " and ".join(sorted(missing - {"MemoryMax"}))
    return options, f" but {without}" if without else ""


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed; tests/run installs what is needed")
    return path


def _heading(title: str, *columns: str) -> None:
    print()
    _row(title, *columns)


def _row(name: str, *cells: str) -> None:
    print(f"{name:<66}", *(f"{cell:>10}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
