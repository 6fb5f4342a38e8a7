"""The embedded manager, really booted: each test has one of its own, under a name of its own."""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import embedded
from sdbox.cli import embedded as command_line
from sdbox.embedded import state
from sdbox.errors import ManagerRefused, ManagerUnavailable, TimedOut
from sdbox.management.groups import is_job
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded manager needs root")

CHECKOUT = Path(__file__).parent.parent.parent
NOBODY = 65534
SECONDS = seconds(60)

START = """
import sys; sys.path.insert(0, sys.argv[1])
from sdbox import embedded
print(embedded.start(name=sys.argv[2], directory=sys.argv[3]).pid)
"""
EXECUTE = """
import os, sys; sys.path.insert(0, sys.argv[1])
from sdbox import embedded
manager = embedded.find(name=sys.argv[2], directory=sys.argv[3])
sys.exit(os.waitstatus_to_exitcode(embedded.execute(manager, sys.argv[4:])) & 0xff)
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one test's manager lives, and how other processes get at it."""

    name: str
    directory: str

    def start(self, timeout: float = SECONDS) -> embedded.Embedded:
        return embedded.start(timeout, name=self.name, directory=self.directory)

    def find(self) -> embedded.Embedded | None:
        return embedded.find(name=self.name, directory=self.directory)

    def stop(self, *, force: bool = False) -> bool:
        return embedded.stop(force=force, name=self.name, directory=self.directory)

    def command(self, program: str, *arguments: str | bytes) -> list[str | bytes]:
        where = (str(CHECKOUT), self.name, self.directory)
        return [sys.executable, "-c", program, *where, *arguments]

    def execute(self, *arguments: str | bytes) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(EXECUTE, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    directory = tmp_path / "state"
    place = Place(name=f"test-{os.getpid()}", directory=str(directory))
    yield place
    if directory.is_dir():
        place.stop(force=True)


def kernel_settings() -> dict[str, str]:
    names = ("fs/file-max", "fs/nr_open", "net/unix/max_dgram_qlen", "kernel/core_pattern")
    return {name: Path("/proc/sys", name).read_text() for name in names}


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def processes_below(cgroup: str) -> set[int]:
    files = Path(cgroup).rglob("cgroup.procs")
    return {int(pid) for file in files for pid in file.read_text().split()}


def test_boots_into_a_system_that_runs(place: Place) -> None:
    assert place.find() is None
    manager = place.start()
    assert manager == place.find()
    assert place.execute("systemctl", "is-system-running").stdout == "running\n"
    assert place.execute("systemctl", "--failed", "--quiet").stdout == ""
    shown = place.execute("systemctl", "show", "--property=Version", "--value").stdout
    assert shown.startswith(str(manager.systemd_version))
    assert place.execute("cat", "/proc/1/comm").stdout == "systemd\n"


def test_no_unit_of_the_managers_own_is_taken_for_a_job() -> None:
    units = (CHECKOUT / "units/embedded/systemd/system").iterdir()
    assert [unit.name for unit in units if is_job(unit.name)] == []


def test_none_of_the_machines_units_is_there(place: Place) -> None:
    place.start()
    listed = place.execute("systemctl", "list-unit-files", "--no-legend", "--plain").stdout
    ours = {file.name for file in (CHECKOUT / "units/embedded/systemd/system").iterdir()}
    found = {line.split()[0] for line in listed.splitlines()}
    assert {name for name in found if not name.endswith(".mount")} == ours
    for directory in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"):
        assert place.execute("ls", "-A", directory).stdout == ""


def test_start_is_idempotent(place: Place) -> None:
    assert place.start() == place.start()


def test_concurrent_first_uses_boot_one(place: Place) -> None:
    command = place.command(START)
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    pids = {racer.communicate(timeout=SECONDS)[0] for racer in racers}
    manager = place.find()
    assert manager is not None
    assert pids == {f"{manager.pid}\n"}
    assert processes_below(f"{manager.cgroup_root}/init.scope") == {manager.pid}


def test_outlives_its_starter_and_takes_nothing_from_it(place: Place) -> None:
    reader, writer = os.pipe()
    script = f'trap \'\' HUP TERM; exec nice -n 5 {sys.executable} -c "$0" "$@"'
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    starter = subprocess.run(
        ["sh", "-c", script, START, str(CHECKOUT), place.name, place.directory],
        stdout=subprocess.PIPE,
        pass_fds=(writer,),
        env={"PATH": os.environ["PATH"], "SECRET": "of the starter"},
        cwd=place.directory.rpartition("/")[0],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, hard)),
        timeout=SECONDS,
        check=True,
    )
    os.close(writer)
    # End of file on both pipes: nobody else holds them open.
    assert os.read(reader, 1) == b""
    os.close(reader)
    manager = place.find()
    assert manager is not None
    assert starter.stdout == b"%d\n" % manager.pid
    process = Path("/proc", str(manager.pid))
    assert b"SECRET" not in (process / "environ").read_bytes()
    assert (process / "cwd").samefile(process / "root")
    limits = (process / "limits").read_text().splitlines()
    stack = next(line.split() for line in limits if line.startswith("Max stack size"))
    assert stack[3] == str(resource.prlimit(1, resource.RLIMIT_STACK)[0])
    assert soft != 1 << 20
    # proc_pid_stat(5): fields 5, 6 and 19 are process group, session and nice.
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    assert os.getsid(manager.pid) != os.getsid(0)
    assert stat[16] == "0"


def test_stop_leaves_nothing(place: Place) -> None:
    mounted, settings, devices = mounts(), kernel_settings(), sorted(os.listdir("/dev"))
    manager = place.start()
    pids = processes_below(manager.cgroup_root)
    assert len(pids) >= 3, "systemd, bus and journal"
    assert place.stop()
    assert place.find() is None
    assert not manager.alive()
    assert not any(Path("/proc", str(pid)).exists() for pid in pids - {manager.pid})
    assert not Path(manager.cgroup_root).exists()
    assert os.listdir(place.directory) == [f"{place.name}.lock"]
    assert mounts() == mounted
    assert kernel_settings() == settings
    assert sorted(os.listdir("/dev")) == devices


def test_stop_is_idempotent(place: Place) -> None:
    assert not place.stop()
    place.start()
    assert place.stop()
    assert not place.stop()


def test_the_machine_keeps_its_identity_and_its_journal(place: Place) -> None:
    watched = [Path(name) for name in ("/etc", "/etc/systemd/system", "/var/lib/systemd")]
    watched += [path for path in [Path("/var/log/journal")] if path.exists()]
    before = [path.stat().st_mtime_ns for path in watched]
    identity = Path("/etc/machine-id").read_bytes()
    manager = place.start()
    assert "Journal started" in place.execute("journalctl", "--boot", "--no-pager").stdout
    assert place.execute("sh", "-c", "ls -A /var/log/journal 2>/dev/null").stdout == ""
    assert list(Path(manager.root, "run/log/journal").glob("*/system.journal"))
    place.stop()
    assert [path.stat().st_mtime_ns for path in watched] == before
    assert Path("/etc/machine-id").read_bytes() == identity


def test_the_machines_kernel_can_not_be_set_from_inside(place: Place) -> None:
    place.start()
    for file in ("/proc/sys/vm/swappiness", "/sys/kernel/mm/ksm/run"):
        # What it holds already: should the write succeed, it changes nothing.
        outcome = place.execute("sh", "-c", f"value=$(cat {file}); echo $value > {file}")
        assert outcome.returncode != 0
        assert "Read-only" in outcome.stderr
    assert place.execute("touch", "--no-create", "/dev").returncode != 0


def test_the_bus_answers_from_outside_and_root_only(place: Place) -> None:
    manager = place.start()
    command = ["busctl", f"--address=unix:path={manager.bus_socket}", "get-property"]
    systemd = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
    command += [*systemd, "org.freedesktop.systemd1.Manager", "Virtualization"]
    run = partial(subprocess.run, command, capture_output=True, text=True, timeout=SECONDS)
    assert run(check=True).stdout == 's "container-other"\n'
    assert run(check=False, user=NOBODY).returncode != 0
    inside = place.execute(
        "setpriv", f"--reuid={NOBODY}", "--clear-groups", "busctl", "list", "--no-pager"
    )
    assert inside.returncode != 0


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 42"], 42),
        (["true"], 0),
        (["sh", "-c", "kill -USR1 $$"], -signal.SIGUSR1 & 0xFF),
        (["./there-is-no-such-program"], 127),
        (["/etc"], 126),
    ],
)
def test_execute_passes_the_status_on(place: Place, command: list[str], status: int) -> None:
    place.start()
    assert place.execute(*command).returncode == status


def test_execute_keeps_streams_arguments_environment_and_directory(
    place: Place, tmp_path: Path
) -> None:
    place.start()
    script = 'printf "%s|" "$ODD" "$@" "$(pwd)"; cat; echo problem >&2'
    outcome = subprocess.run(
        place.command(EXECUTE, "sh", "-c", script, "sh", "--", "a b\n'", b"\xff"),
        input=b"from stdin",
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environb, b"ODD": b"\xfe = "},
        timeout=SECONDS,
    )
    expected = b"\xfe = |--|a b\n'|\xff|" + os.fsencode(tmp_path) + b"|from stdin"
    assert outcome.stdout == expected
    assert outcome.stderr == b"problem\n"


def test_execute_is_inside_all_namespaces(place: Place) -> None:
    manager = place.start()
    for kind in ("mnt", "pid", "ipc", "uts", "cgroup"):
        seen = place.execute("readlink", f"/proc/self/ns/{kind}").stdout.strip()
        assert seen == str(Path("/proc", str(manager.pid), "ns", kind).readlink())
        assert seen != str(Path("/proc/self/ns", kind).readlink())


def test_execute_passes_signals_on(place: Place) -> None:
    place.start()
    script = 'trap "echo got TERM; exit 7" TERM; echo up; while :; do sleep 1000 & wait; done'
    with subprocess.Popen(
        place.command(EXECUTE, "sh", "-c", script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.stdout.readline() == "got TERM\n"
        assert process.wait(timeout=SECONDS) == 7
        # The shell's child holds the pipe until the manager goes.
        place.stop(force=True)


def test_units_from_inside(place: Place) -> None:
    place.start()
    run = ("systemd-run", "--quiet")
    service = place.execute(*run, "--wait", "--pipe", "sh", "-c", "echo service; exit 3")
    assert (service.returncode, service.stdout) == (3, "service\n")
    scope = place.execute(
        *run,
        "--scope",
        "--slice=sdbox.slice",
        "--unit=one.scope",
        "grep",
        "0::",
        "/proc/self/cgroup",
    )
    assert (scope.returncode, scope.stdout) == (0, "0::/sdbox.slice/one.scope\n")
    assert "one.scope" in place.execute("journalctl", "--no-pager", "--unit=one.scope").stdout


@pytest.fixture
def job(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A scope in sdbox.slice that does not care for SIGTERM."""
    place.start()
    command = ("systemd-run", "--quiet", "--scope", "--slice=sdbox.slice", "sh", "-c")
    script = "trap '' TERM; echo up; while :; do sleep 1000; done"
    with subprocess.Popen(
        place.command(EXECUTE, *command, script), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        place.stop(force=True)


def test_stop_spares_running_jobs_unless_forced(place: Place, job: subprocess.Popen[str]) -> None:
    manager = place.find()
    assert manager is not None
    with pytest.raises(ManagerRefused, match="1 job is running") as refusal:
        place.stop()
    assert "--force" in refusal.value.hint
    assert job.poll() is None
    assert manager.alive()
    assert place.stop(force=True)
    assert job.wait(timeout=SECONDS) == -signal.SIGKILL & 0xFF
    assert not Path(manager.cgroup_root).exists()


def test_after_a_crash_a_new_one_boots(place: Place) -> None:
    first = place.start()
    kill(first)
    assert place.find() is None
    second = place.start()
    assert second.pid != first.pid
    assert second.cgroup == first.cgroup
    assert place.execute("systemctl", "is-system-running").stdout == "running\n"


def test_stop_clears_up_after_a_crash(place: Place) -> None:
    manager = place.start()
    kill(manager)
    assert Path(manager.cgroup_root).exists()
    assert not place.stop()
    assert not Path(manager.cgroup_root).exists()
    assert os.listdir(place.directory) == [f"{place.name}.lock"]


def kill(manager: embedded.Embedded) -> None:
    pidfd = manager.open_pidfd()
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    poll = select.poll()
    poll.register(pidfd)
    assert poll.poll(SECONDS * 1000)
    os.close(pidfd)


def test_a_manager_out_of_reach_is_left_alone(place: Place) -> None:
    manager = place.start()
    hidden = Path(manager.state_file).rename(f"{place.directory}/hidden")
    with pytest.raises(ManagerUnavailable, match="not in reach") as refusal:
        place.start()
    assert "cgroup.kill" in refusal.value.hint
    assert manager.alive()
    hidden.rename(manager.state_file)


def test_a_directory_that_others_can_enter_is_refused(place: Place) -> None:
    Path(place.directory).mkdir(mode=0o755)
    with pytest.raises(ManagerUnavailable, match="not a directory of root's alone"):
        place.start()
    Path(place.directory).chmod(0o700)
    os.chown(place.directory, NOBODY, -1)
    with pytest.raises(ManagerUnavailable, match="not a directory of root's alone"):
        place.start()
    os.chown(place.directory, 0, -1)


def test_no_time_at_all_leaves_nothing(place: Place) -> None:
    with pytest.raises((ManagerUnavailable, TimedOut), match=r"in time|did not boot"):
        place.start(timeout=0.001)
    assert place.find() is None
    with pytest.raises(FileNotFoundError):
        place_cgroup(place)


def place_cgroup(place: Place) -> os.stat_result:
    from sdbox.embedded import cgroups, needs

    found = needs.check()
    return cgroups.manager_root(found.cgroup_mount, found.cgroup_parent, place.name).stat()


def test_only_root_can_boot_it(place: Place) -> None:
    assert in_a_child(lambda: as_nobody(place)) == (
        "Only root can boot the embedded manager. Run the command as root"
    )


def as_nobody(place: Place) -> str:
    os.setuid(NOBODY)
    try:
        place.start()
    except ManagerUnavailable as error:
        return str(error)
    return "booted"


def in_a_child(function: Callable[[], str]) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, function().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def sdbox(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`sdbox embedded …` on this test's manager instead of the machine's."""
    where = {"name": place.name, "directory": place.directory}
    for verb in ("find", "start", "stop"):
        monkeypatch.setattr(embedded, verb, partial(getattr(embedded, verb), **where))
    parser = argparse.ArgumentParser()
    command_line.add_parser(parser.add_subparsers())

    def run(*arguments: str) -> int:
        return command_line.run(parser.parse_args(["embedded", *arguments]))

    return run


def test_command_line(
    place: Place, sdbox: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sdbox("status") == 3
    assert capsys.readouterr().out.split() == ["state:", "stopped"]
    assert sdbox("start") == 0
    assert sdbox("start") == 0
    capsys.readouterr()
    manager = place.find()
    assert manager is not None
    assert sdbox("status", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described.pop("since")
    assert described == {
        "state": "running",
        "pid": manager.pid,
        "systemd_version": manager.systemd_version,
        "cgroup": manager.cgroup_root,
        "jobs": 0,
    }
    assert sdbox("stop") == 0
    assert sdbox("stop") == 0
    assert "was not running" in capsys.readouterr().out
    with pytest.raises(ManagerUnavailable, match="not running"):
        sdbox("exec", "--", "true")


def test_command_line_exec(place: Place, sdbox: Callable[..., int]) -> None:
    place.start()
    assert in_a_child(lambda: str(sdbox("exec", "sh", "-c", "exit 9"))) == "9"
    assert in_a_child(lambda: str(sdbox("exec", "--", "sh", "-c", "exit 9", "--json"))) == "9"
    assert in_a_child(lambda: str(sdbox("exec", "--", "sh", "-c", "kill -TERM $$"))) == "-15"


def test_finding_it_starts_and_imports_nothing(place: Place) -> None:
    """It is on the way of every launch."""
    place.start()

    def audited() -> str:
        events: list[str] = []
        sys.addaudithook(lambda event, _: events.append(event))
        found = state.find(name=place.name, directory=place.directory)
        assert found is not None
        return " ".join(sorted(set(events)))

    assert in_a_child(audited) == "open"
