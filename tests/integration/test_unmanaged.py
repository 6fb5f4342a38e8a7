"""Jobs without any manager, of root and of an ordinary user: what the kernel gives anyone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.box import Box
from sdbox.errors import NoSuchJob, Unenforceable
from sdbox.launcher import Launcher
from sdbox.systemd.endpoint import Endpoint
from tests.conftest import MARK, SECONDS, Sdbox, private_directories, processes_with, wait_for_end
from tests.ordinary import (
    AS_NOBODY,
    NOBODY,
    PYTHON,
    command_of,
    need_own_proc,
    need_user_namespaces,
    place_of,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Outcome, Running

NONE = "--manager=none"
ENDPOINT = Endpoint(kind="none", bus_socket="", cgroup_root="", journal="/run/systemd/journal")
HOG = "b = bytearray(200 << 20); import time; time.sleep(60)"
# Starts a child in a session of its own, and tells its own parent's and that child's PID.
DAEMON = 'setsid sleep 600 & echo "$PPID $!"; '


class Unmanaged(Sdbox):
    """The command with --manager none, as one user."""

    popen: dict[str, Any]

    def job(self, *words: str, **options: Any) -> Outcome:
        options = {"cwd": "/", **self.popen, **options}
        return self.run(NONE, *words, **options)

    def script(self, script: str, *words: str, **options: Any) -> Outcome:
        return self.job(*words, "--", "sh", "-c", script, **options)

    def begin(self, script: str, *words: str, **options: Any) -> Running:
        return self.start_sh(script, NONE, *words, **{"cwd": "/", **self.popen, **options})


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sdbox_none(sdbox_command: tuple[str, ...], user: str) -> Iterator[Unmanaged]:
    if os.geteuid() != 0:
        pytest.skip("only root can be both root and an ordinary user")
    ordinary = user == "ordinary"
    uid = NOBODY if ordinary else 0
    with place_of(uid) as place, command_of(uid, sdbox_command) as words:
        command = Unmanaged(words, ENDPOINT, place)
        command.popen = dict(AS_NOBODY) if ordinary else {}
        yield command
        command.close()


@pytest.fixture
def isolating(sdbox_none: Unmanaged, user: str) -> Unmanaged:
    """For jobs with namespaces, the PID namespace's /proc among them."""
    if user == "ordinary":
        need_own_proc()
    return sdbox_none


@pytest.fixture
def mounting(sdbox_none: Unmanaged, user: str) -> Unmanaged:
    """For jobs with mounts."""
    if user == "ordinary":
        need_user_namespaces()
    return sdbox_none


def test_a_job_and_its_account(sdbox_none: Unmanaged) -> None:
    limits = ("--memory=64M", "--wall=1h", "-p", "LimitNOFILE=99", "--cpu-affinity=0")
    done = sdbox_none.script("ulimit -n; cat; exit 7", *limits, input=b"in\n", report=True)
    assert (done.status, done.out) == (7, "99\nin\n")
    account = done.account
    assert (account["reason"], account["exit_code"]) == ("exited", 7)
    assert (account["manager"], account["unit"]) == ("none", None)
    assert account["enforcement"] == {
        "MemoryMax": "watch",
        "RuntimeMaxSec": "watch",
        "LimitNOFILE": "kernel",
        "CPUAffinity": "kernel",
    }
    assert account["cpu_user_seconds"] is not None
    assert account["memory_cgroup_peak_bytes"] is None


def test_the_strict_box_without_a_manager(isolating: Unmanaged) -> None:
    script = """
echo $$; echo x >/dev/null; touch /tmp/x /etc/x /dev/x; mount -t tmpfs x /mnt
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2
exec 3<>/dev/ptmx && echo terminal
"""
    done = isolating.script(script, "--box=strict")
    assert done.status == 0, done.err
    assert done.out.split() == ["2", "0" * 16, "0" * 16, "1", "2", "terminal"]
    assert done.err.count("cannot touch") == 2
    assert "mount: " in done.err


def test_isolation_without_a_manager(isolating: Unmanaged, user: str) -> None:
    box = ("--private-tmp", "--pid-namespace", "--network=none", "--private-ipc")
    script = """
echo $$; echo /proc/[0-9]*; ls -A /tmp /var/tmp; echo mine >/tmp/mine
cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '; id -u; id -g
grep ^CapEff /proc/self/status
"""
    done = isolating.script(script, *box)
    assert (done.status, done.err) == (0, "")
    pid, processes, first, gap, second, *rest = done.out.splitlines()
    assert (pid, processes) == ("2", "/proc/1 /proc/2"), "init and the shell"
    assert (first, gap, second) == ("/tmp:", "", "/var/tmp:")
    number = "0" if user == "root" else str(NOBODY)
    assert rest[:3] == ["lo", number, number]
    if user == "ordinary":
        assert rest[3] == "CapEff:\t0000000000000000"
    assert not Path("/tmp/mine").exists()


def test_the_strict_box(isolating: Unmanaged) -> None:
    script = "echo $$; echo x >/dev/null; ls /home /dev/sda /dev/kmsg 2>&1; touch /usr/x /x /dev/x"
    done = isolating.script(script, "--box=strict")
    assert done.out.splitlines()[0] == "2"
    assert done.out.count("No such file or directory") == 2
    assert done.err.count("Read-only file system") == 3


@pytest.fixture
def root(sdbox_none: Unmanaged) -> Path:
    """A root directory of a few programs, of the user's own."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    place = sdbox_none.directory / "root"
    for name in ("bin", "tmp", "var/tmp", "proc", "sys", "dev", "run", "mnt"):
        (place / name).mkdir(parents=True)
    shutil.copy(busybox, place / "bin/busybox")
    for name in ("cat", "echo", "ls", "sh"):
        (place / "bin" / name).symlink_to("busybox")
    (place / "mnt/out").symlink_to("/../../../../mnt")
    return place


@pytest.mark.parametrize("pid_namespace", [(), ("--pid-namespace",)])
def test_a_root_directory(
    mounting: Unmanaged, root: Path, pid_namespace: tuple[str, ...], user: str
) -> None:
    if pid_namespace and user == "ordinary":
        need_own_proc()
    (mounting.directory / "data").mkdir()
    (mounting.directory / "data/file").write_text("data\n")
    binds = (f"--bind-ro={mounting.directory}/data:/mnt/out",)
    script = "echo /*; cat /mnt/file; echo x >/mnt/file; ls /dev/null /proc/self/exe"
    done = mounting.script(script, f"--root={root}", *binds, *pid_namespace)
    lines = done.out.splitlines()
    assert lines[0] == "/bin /dev /mnt /proc /run /sys /tmp /var"
    assert lines[1] == "data"
    assert "Read-only file system" in done.err
    assert "/dev/null" in lines
    assert "/proc/self/exe" in lines


def test_a_named_root(mounting: Unmanaged, root: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="sdbox-roots-", dir="/srv"))
    place.chmod(0o755)
    try:
        shutil.copytree(root, place / "el7", symlinks=True)
        (place / "el7/name").write_text("el7\n")
        (place / "conf").write_text(f'[roots]\nel7 = "{place}/el7"\nown = "{root}"\n')
        known = (f"--config={place}/conf",)
        done = mounting.script("cat /name", *known, "--root=el7")
        assert (done.out, done.status, done.err) == ("el7\n", 0, "")
        # That another user could have made, or have put elsewhere.
        done = mounting.script("true", *known, "--root=own")
        assert done.status == 125
        assert done.err.startswith("sdbox: root own: ")
        if shutil.which("setfattr") or os.geteuid() == 0:
            layered = mounting.script(
                "echo x >/tmp/x && ls /tmp",
                *known,
                "--root=el7",
                "--root-overlay=tmpfs",
                "--private-tmp",
            )
            assert (layered.out, layered.err) == ("x\n", "")
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("mode", ["555", "0"])
def test_what_a_job_has_shut_is_removed(mounting: Unmanaged, mode: str) -> None:
    """By its owner, whom rm does not help there."""
    shut = f"find /tmp/a -depth -type d -exec chmod {mode} {{}} \\;"
    script = f"mkdir -p /tmp/a/b/c /var/tmp/a && touch /tmp/a/b/c/d; {shut}; exit 3"
    done = mounting.script(script, "--private-tmp", report=True)
    assert (done.status, done.account["reason"], done.err) == (3, "exited", "")
    # That nothing is left is looked at in the end.


@pytest.mark.parametrize("killed", [False, True])
def test_a_deep_tree_is_removed(mounting: Unmanaged, killed: bool) -> None:
    deep = "d=/tmp; for i in $(seq 300); do mkdir -m 700 $d/d $d/e; cd $d/d; d=.; done; touch x"
    job = mounting.begin(f"{deep}; echo up; read line", "--private-tmp")
    assert job.line() == "up"
    if killed:
        job.signal(signal.SIGKILL)
        wait_until(lambda: private_directories(job.id) == [])
    else:
        assert job.end().status == 1


def test_a_layer_over_a_root_is_counted(mounting: Unmanaged, root: Path) -> None:
    """Though an overlay has something in it that is shut."""
    hog = "busybox rm /mnt/out; busybox head -c 24000000 /dev/zero >/hog; busybox sleep 600"
    # On a file system that takes one: an overlay itself does not.
    with tempfile.TemporaryDirectory(prefix="sdbox-layers-", dir="/dev/shm") as layers:
        Path(layers).chmod(0o777)
        options = (f"--root={root}", f"--root-overlay={layers}", "--disk=16M")
        done = mounting.script(hog, *options, report=True)
        assert os.listdir(layers) == []
    assert done.account["reason"] == "disk"
    assert "can't be counted" not in done.account["message"]


@pytest.mark.parametrize("user", ["ordinary"])
def test_supplementary_groups_stay(mounting: Unmanaged) -> None:
    options = {**AS_NOBODY, "extra_groups": (12345,)}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        secret = Path(place, "file")
        secret.write_text("for the group\n")
        shutil.chown(secret, 0, 12345)
        secret.chmod(0o640)
        Path(place).chmod(0o755)
        done = mounting.script(f"cat {secret}; id -G", "--private-ipc", **options)
    assert done.out == f"for the group\n{NOBODY}\n", "the name is nogroup's, the right stays"


def test_memory_is_watched(sdbox_none: Unmanaged) -> None:
    done = sdbox_none.job("--memory=64M", "--", "python3", "-ISc", HOG, report=True)
    assert done.status == -signal.SIGKILL
    assert done.account["reason"] == "memory"
    assert done.account["memory_peak_bytes"] > 64 << 20
    assert done.account["message"].startswith("Job has gone over memory limit of 64 megabytes.")


def test_a_scratch_directory_and_what_is_in_memory(mounting: Unmanaged) -> None:
    scratch = mounting.directory / "scratch"
    scratch.mkdir()
    os.chown(scratch, mounting.directory.stat().st_uid, -1)
    options = (f"--scratch={scratch}", "--private-tmp", "--private-shm", "--tmpfs=/opt:size=1M")
    script = "ls -A /tmp /dev/shm /opt; touch /tmp/a /dev/shm/b /opt/c"
    done = mounting.script(script, *options)
    assert (done.out, done.err) == ("/dev/shm:\n\n/opt:\n\n/tmp:\n", "")
    assert (scratch / "tmp/a").exists()


@pytest.mark.parametrize("where", ["scratch", "private"])
def test_disk_space_is_watched(mounting: Unmanaged, where: str) -> None:
    scratch = mounting.directory / "scratch"
    scratch.mkdir()
    os.chown(scratch, mounting.directory.stat().st_uid, -1)
    options = ("--disk=16M", "--private-tmp", *[f"--scratch={scratch}"] * (where == "scratch"))
    script = "head -c 40M /dev/zero > /tmp/hog; exec sleep 600"
    done = mounting.script(script, *options, report=True)
    assert (done.status, done.account["reason"]) == (-signal.SIGKILL, "disk")
    assert done.account["enforcement"]["DiskMax"] == "watch"
    assert (scratch / "tmp/hog").exists() == (where == "scratch")


def test_tasks_are_watched(sdbox_none: Unmanaged) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do setsid sleep 600 & done; wait"
    done = sdbox_none.script(script, "--tasks=5", report=True)
    assert done.account["reason"] == "killed"
    assert "limit of 5 tasks" in done.account["message"]


def test_cpu_time_is_watched(sdbox_none: Unmanaged) -> None:
    script = "setsid sh -c 'while :; do :; done' & while :; do :; done"
    done = sdbox_none.script(script, "--cpu-time=1s", report=True)
    assert done.account["reason"] == "cpu-time"
    spent = done.account["cpu_user_seconds"] + done.account["cpu_system_seconds"]
    assert 1 <= spent < SECONDS


# Has one child after the other burn half a second, of which nobody is told, and says how often.
FORGETTING = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for number in range(20):
    reader, writer = os.pipe()
    if os.fork() == 0:
        while time.process_time() < 0.5:
            pass
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    print(number, flush=True)
"""


def test_cpu_time_of_whom_nobody_waits_for_is_watched(sdbox_none: Unmanaged) -> None:
    words = ("--", PYTHON, "-I", "-S", "-c", FORGETTING)
    done = sdbox_none.job("--cpu-time=2s", *words, report=True)
    assert done.account["reason"] == "cpu-time"
    # Of each the last moments may be missing, and it may take a while to be told of.
    assert len(done.out.split()) < 15
    assert done.account["cpu_user_seconds"] + done.account["cpu_system_seconds"] >= 2


def test_the_wall_is_watched(sdbox_none: Unmanaged) -> None:
    """With the signal and the time for it to work that were asked for."""
    script = "trap 'echo asked' INT; sleep 600 & while :; do wait; done"
    options = ("--wall=0.5s", "--stop-signal=SIGINT", "--stop-timeout=0.5s")
    done = sdbox_none.script(script, *options, report=True)
    assert done.account["reason"] == "wall-time"
    assert done.account["message"] == "Job has gone over wall time limit of 0.5 seconds."
    assert done.out.startswith("asked\n")
    assert done.status == -signal.SIGKILL
    assert done.account["wall_seconds"] >= 0.9


@pytest.mark.parametrize(
    "option",
    [
        *("--slice=a.slice", "--memory-high=5M", "--swap=1M", "--cpu-quota=50%", "--cpu-weight=5"),
        *("--description=x", "--oom=kill", "--allowed-cpus=0", "--service", "--detach"),
        *("-pIOReadBandwidthMax=/ 1M",),
    ],
)
def test_what_nobody_keeps_is_refused(sdbox_none: Unmanaged, option: str) -> None:
    done = sdbox_none.script("echo started", option)
    assert (done.status, done.out) == (125, "")
    assert done.err.count("\n") == 1
    assert "without a manager" in done.err
    assert "--manager" in done.err, "the remedy"


def test_another_user_is_roots_to_give(sdbox_none: Unmanaged, user: str) -> None:
    done = sdbox_none.script("id -u", "--user=daemon")
    if user == "root":
        assert (done.status, done.out) == (0, "1\n")
        return
    assert (done.status, done.out) == (125, "")
    assert done.err == (
        "sdbox: User, Group: only root may start a job as another user or group."
        " Leave them out, or run sdbox as root\n"
    )
    own = sdbox_none.script("id -u; echo $USER", "--user=nobody")
    assert (own.status, own.out) == (0, f"{NOBODY}\nnobody\n")


@pytest.mark.parametrize("private", [(), ("--pid-namespace", "--private-tmp")])
def test_what_is_left_behind_is_ended(
    sdbox_none: Unmanaged, private: tuple[str, ...], user: str
) -> None:
    if private and user == "ordinary":
        need_own_proc()
    done = sdbox_none.script(f"{DAEMON} exit 3", *private)
    assert done.status == 3
    assert processes_with([f"{MARK}={done.id}\0".encode()]) == []


@pytest.mark.parametrize("private", [(), ("--pid-namespace", "--private-tmp")])
@pytest.mark.parametrize("victims", ["supervisor", "supervisor and helper"])
def test_a_box_dies_with_its_supervisor(
    sdbox_none: Unmanaged, private: tuple[str, ...], victims: str, user: str
) -> None:
    if private and user == "ordinary":
        need_own_proc()
    mess = "mkdir -p /tmp/a/b/c; echo x >/tmp/a/b/c/x; chmod 0 /tmp/a/b; " if private else ""
    running = sdbox_none.begin(f"{mess}{DAEMON} wait", *private)
    running.line()
    own = f"/proc/{running.pid}/task/{running.pid}/children"
    (helper,) = map(int, Path(own).read_text().split())
    pidfds = [os.pidfd_open(running.pid)]
    if victims != "supervisor":
        pidfds.append(os.pidfd_open(helper))
        # So that neither sees the other's end.
        for pidfd in pidfds:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    assert wait_for_end([f"{MARK}={running.id}\0".encode()], SECONDS)
    assert private_directories(running.id) == []


def test_a_job_that_kills_its_init_is_ended(sdbox_none: Unmanaged) -> None:
    """Which one with the caller's PIDs can, as it is the same user's."""
    report, record = sdbox_none.directory / "report.json", sdbox_none.directory / "record"
    job = sdbox_none.begin(
        f"{DAEMON} read line; kill -9 $PPID; sleep 600",
        *(f"--report={report}", f"--record={record}"),
    )
    job.line()
    # Its supervisor knows that it runs: before, that would have been a failed launch.
    wait_until(lambda: record.stat().st_size > 0)
    job.send(b"\n")
    assert job.end().status == -signal.SIGKILL
    assert json.loads(report.read_text())["reason"] == "killed"
    assert processes_with([f"{MARK}={job.id}\0".encode()]) == []


def test_signals_and_the_payloads_end(sdbox_none: Unmanaged) -> None:
    running = sdbox_none.begin(
        "trap 'echo usr1; exit 9' USR1; echo up; while :; do sleep 0.1; done"
    )
    assert running.line() == "up"
    running.signal(signal.SIGUSR1)
    done = running.end()
    assert (done.status, done.out) == (9, "usr1\n")
    assert sdbox_none.script("kill -USR2 $$").status == -signal.SIGUSR2
    assert sdbox_none.job("--", "/nonexistent").status == 127


@pytest.mark.parametrize("user", ["ordinary"])
def test_no_user_manager_is_told(sdbox_none: Unmanaged) -> None:
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(sdbox_none.directory)}
    for choice in ("user", "auto"):
        done = sdbox_none.run(
            f"--manager={choice}", "--", "true", cwd="/", env=environment, **AS_NOBODY
        )
        assert (done.status, done.out) == (125, "")
        assert done.err == (
            f"sdbox: There is no systemd of this user: {sdbox_none.directory}/systemd/private"
            " is not there. As root, `loginctl enable-linger nobody` has one run, with"
            " no login, too; or leave it to --manager none\n"
        )


@pytest.mark.parametrize("user", ["ordinary"])
def test_forbidden_user_namespaces_are_told(sdbox_none: Unmanaged) -> None:
    """By a switch that holds for a user namespace, in which the machine's other users are not."""
    need_user_namespaces()
    inside = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"]
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    if subprocess.run([*inside, forbid, "sh", "true"], check=False, **AS_NOBODY).returncode:
        pytest.skip("/proc/sys is read-only")
    command = [*sdbox_none.command, "run", NONE, "--private-tmp", "--", "true"]
    done = subprocess.run(
        [*inside, forbid, "sh", *command],
        check=False,
        capture_output=True,
        timeout=SECONDS,
        cwd="/",
        **AS_NOBODY,
    )
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.decode() == (
        "sdbox: user namespace: No space left on device."
        " As root: `sysctl -w user.max_user_namespaces=10000`."
        " Or do without all that isolates\n"
    )


def state_of(pid: int) -> str:
    """In the letters of proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1]


@pytest.mark.parametrize("private", [False, True])
async def test_verbs_of_a_job(private: bool, new_id: Callable[[], str]) -> None:
    if os.geteuid() != 0:
        need_own_proc()
    script = "setsid sh -c 'while :; do echo tick; sleep 0.05; done' & wait"
    reader, writer = os.pipe()
    async with Launcher(manager="none") as launcher:
        name = new_id()
        box = Box(PrivatePIDs=private, Environment=[f"{MARK}={name}"])
        options = {"id": name, "stdout": writer, "box": box}
        job = await launcher.start(["sh", "-c", script], **options)  # type: ignore[arg-type]
        os.close(writer)
        assert os.read(reader, 5) == b"tick\n"
        await job.freeze()
        await job.freeze()
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 1 << 20)
        members = job._cgroup.processes()[1:]
        states = list(map(state_of, members))
        assert len(members) >= 2
        assert set(states) <= set("TZD")
        assert (job.usage().tasks or 0) >= 3
        await job.thaw()
        os.set_blocking(reader, True)
        assert os.read(reader, 5) == b"tick\n"
        with pytest.raises(Unenforceable, match="no manager"):
            await job.set_property(Box(MemoryMax="1G"))
        await job.freeze()
        await job.kill()
        result = await job.wait()
        with pytest.raises(NoSuchJob):
            job.usage()
    assert (result.reason, result.signal, result.unit) == ("killed", signal.SIGKILL, None)
    os.close(reader)
    assert json.loads(json.dumps(result.to_json()))["manager"] == "none"
    assert processes_with([f"{MARK}={result.job}\0".encode()]) == []


async def test_stopping_and_closing(new_id: Callable[[], str]) -> None:
    async with Launcher(manager="none") as launcher:
        script = "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"
        reader, writer = os.pipe()
        job = await launcher.start(["sh", "-c", script], id=new_id(), stdout=writer)
        os.close(writer)
        assert os.read(reader, 3) == b"up\n"
        os.close(reader)
        await job.stop()
        assert (await job.wait()).exit_code == 4
        left = await launcher.start(["sleep", "600"], id=new_id())
    assert (await left.wait()).reason == "killed"


async def test_many_jobs_leave_nothing(new_id: Callable[[], str]) -> None:
    async with Launcher(manager="none") as launcher:
        # With the first one the journal is connected to, for good.
        await launcher.run(["true"], id=new_id())
        fds = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            jobs = [
                await launcher.start(["sh", "-c", f"sleep 0.1 & exit {n}"], id=new_id())
                for n in range(8)
            ]
            assert [(await job.wait()).exit_code for job in jobs] == list(range(8))
        assert len(os.listdir("/proc/self/fd")) == fds
        assert launcher._connected().manager._jobs == {}  # type: ignore[attr-defined]
