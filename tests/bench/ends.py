"""How soon a job ends that has to: over its memory limit by watching, or without its supervisor.

And what watching takes of a CPU, the supervisor's all.

tests/bench/ends.py [--runs N]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdbox import embedded
from sdbox.systemd.endpoint import locate

LIMIT = "64M"
# It says when it is about to pass the limit, passes it, and stays there.
HOG = (
    "import time; a = bytearray(48 << 20); print(time.time(), flush=True);"
    " b = bytearray(48 << 20); time.sleep(600)"
)
# Children out of the payload's session.
FORKER = "for i in 1 2 3 4 5; do setsid sleep 600 & done; echo ready; wait"
_LONGEST_SECONDS = 60.0
# Ten processes, watched for all that can be watched.
SLEEPERS = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 600 & done; echo ready; read line"
WATCHED = ("--memory", LIMIT, "--tasks", "100", "--cpu-time", "1h")
_WATCHED_SECONDS = 10.0


def over_the_limit(sdbox: str) -> float:
    """Return the seconds from passing MemoryMax to the job's end."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        words = [sdbox, "run", "--memory", LIMIT, "--report", str(report), "--"]
        done = subprocess.run(
            [*words, sys.executable, "-c", HOG],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST_SECONDS,
        )
        ended: float = json.loads(report.read_text())["ended_at"]
        return ended - float(done.stdout)


def without_supervisor(sdbox: str, root: str) -> float:
    """Return the seconds from SIGKILL of the supervisor to the end of the box's cgroup."""
    job = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    words = [sdbox, "run", "--id", job, "--private-tmp", "--", "sh", "-c", FORKER]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        cgroup = Path(f"{root}/sdbox.slice/sdbox-{job}.scope")
        assert cgroup.is_dir(), cgroup
        started = time.perf_counter()
        process.send_signal(signal.SIGKILL)
        while cgroup.is_dir():
            if time.perf_counter() - started > _LONGEST_SECONDS:
                raise SystemExit(f"{cgroup}: still there")
            time.sleep(0.001)
        return time.perf_counter() - started


def share_of_watching(sdbox: str) -> float:
    """Return what a supervisor takes of one CPU while its job does nothing."""
    words = [sdbox, "run", *WATCHED, "--", "sh", "-c", SLEEPERS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        # What there is to import is imported by then.
        time.sleep(1)
        # clock_getcpuclockid(3)
        clock = ~process.pid << 3 | 2
        used = time.clock_gettime(clock)
        time.sleep(_WATCHED_SECONDS)
        share = (time.clock_gettime(clock) - used) / _WATCHED_SECONDS
        process.communicate(b"\n")
        return share


def main() -> None:
    """Measure all, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--sdbox", default=str(Path(sys.executable).with_name("sdbox")))
    options = parser.parse_args()
    was_there = embedded.find() is not None
    endpoint = locate("auto", notice=lambda _: None)
    try:
        _tell(
            "over MemoryMax, until its end",
            [over_the_limit(options.sdbox) for _ in range(options.runs)],
        )
        _tell(
            "supervisor killed, until its cgroup is gone",
            [without_supervisor(options.sdbox, endpoint.cgroup_root) for _ in range(options.runs)],
        )
        share = share_of_watching(options.sdbox)
        print(f"{'watching ten processes':<44} {share:.2%} of a CPU")
    finally:
        endpoint.close()
        if endpoint.kind == "embedded" and not was_there:
            embedded.stop()


def _tell(name: str, taken: list[float]) -> None:
    median, longest = statistics.median(taken) * 1000, max(taken) * 1000
    print(f"{name:<44} median {median:7.1f} ms, longest {longest:7.1f} ms, of {len(taken)}")


if __name__ == "__main__":
    main()
