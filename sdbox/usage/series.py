"""A job's usage over time, as JSON lines: what `--record` writes and `sdbox plot` draws.

The first line describes the job, each further one is a sample. The file has a bound: when it is
full, every other sample is dropped and from then on half as many are taken.
"""

from __future__ import annotations

import contextlib
import json
import time
from types import NoneType
from typing import TYPE_CHECKING, Any, TextIO

from sdbox import loop
from sdbox.errors import SdboxError
from sdbox.record import record, values_of
from sdbox.usage.memory import own_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdbox.cgroup import Cgroup
    from sdbox.plan import Plan

_INTERVAL_SECONDS = 0.5
_MOST_SAMPLES = 2048


@record
class Sample:
    """One look at a job: seconds since its start, and what it has or has used by then."""

    seconds: float
    memory_bytes: int | None
    cpu_seconds: float | None
    tasks: int


class Series:
    """Writes samples of a job to an open, seekable file, which stays the caller's.

    `error` is what ended the writing before the job's end, if anything did.
    """

    def __init__(self, file: TextIO, *, most_samples: int = _MOST_SAMPLES) -> None:
        self._file = file
        self._most = most_samples
        self._header = ""
        self._samples: list[Sample] = []
        self._interval = _INTERVAL_SECONDS
        self.error: OSError | None = None

    async def run(self, cgroup: Cgroup) -> None:
        """Take further samples until cancelled."""
        started = time.monotonic()
        with self._writing():
            while True:
                await loop.sleep(self._interval)
                self.add(take_sample(cgroup, time.monotonic() - started))

    def start(self, plan: Plan, cgroup: Cgroup) -> None:
        """Write the first line, and a sample of the job as it starts."""
        with self._writing():
            self.begin(plan)
            self.add(take_sample(cgroup, 0.0))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # A full disk ends the record, not the job.
            self.error = error

    def begin(self, plan: Plan) -> None:
        """Write the first line."""
        self._header = json.dumps(_description(plan)) + "\n"
        self._file.write(self._header)
        self._file.flush()

    def add(self, sample: Sample) -> None:
        """Write a sample, and thin them out where there are too many."""
        self._samples.append(sample)
        if len(self._samples) > self._most:
            del self._samples[1::2]
            self._interval *= 2
            self._file.seek(0)
            self._file.truncate()
            self._file.writelines([self._header, *map(_line, self._samples)])
        else:
            self._file.write(_line(sample))
        self._file.flush()


def take_sample(cgroup: Cgroup, seconds: float) -> Sample:
    """Return what a job has and has used by now."""
    return Sample(
        seconds=round(seconds, 3),
        memory_bytes=_memory(cgroup),
        cpu_seconds=cgroup.cpu_seconds(),
        tasks=cgroup.tasks(),
    )


def _memory(cgroup: Cgroup) -> int | None:
    """Return the job's own memory: the kernel's account, or else what its processes have."""
    stat = cgroup.flat("memory.stat")
    if stat is not None:
        return stat["anon"] + stat["shmem"]
    sizes = own_memory(cgroup.processes())
    return sum(sizes.values()) if sizes else None


def _description(plan: Plan) -> dict[str, Any]:
    return {
        "job": plan.job,
        "unit": plan.unit,
        "command": list(plan.command),
        "started_at": time.time(),
        "box": plan.box,
        "memory_limit_bytes": plan.memory_limit_bytes,
        "cpu_limit": plan.cpu_limit,
    }


def _line(sample: Sample) -> str:
    return json.dumps(values_of(sample)) + "\n"


def read_series(path: str) -> tuple[Mapping[str, Any], list[Sample]]:
    """Read a file that `Series` wrote. Raises SdboxError with the line that is not of it."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    header = _parse(path, lines, 0, _HEADER)
    return header, [
        Sample(**_parse(path, lines, number, _SAMPLE)) for number in range(1, len(lines))
    ]


_NUMBER = (int, float)
_HEADER: Mapping[str, tuple[type, ...]] = {
    "job": (str,),
    "command": (list,),
    "memory_limit_bytes": (*_NUMBER, NoneType),
    "cpu_limit": (*_NUMBER, NoneType),
}
_SAMPLE: Mapping[str, tuple[type, ...]] = {
    "seconds": _NUMBER,
    "memory_bytes": (*_NUMBER, NoneType),
    "cpu_seconds": (*_NUMBER, NoneType),
    "tasks": _NUMBER,
}


def _parse(
    path: str, lines: list[str], number: int, kinds: Mapping[str, tuple[type, ...]]
) -> dict[str, Any]:
    try:
        value = json.loads(lines[number])
        fields = {name: value[name] for name in kinds}
        if all(isinstance(field, kinds[name]) for name, field in fields.items()):
            return fields
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        pass
    raise SdboxError(
        f"{path}: line {number + 1} is not what --record writes",
        hint="Name a file that `sdbox run --record` wrote",
    )
