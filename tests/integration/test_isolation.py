"""What a job sees and may do, by the directives that init keeps."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.init import attaching
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

SECONDS = seconds(30)
BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin")
APPLETS = ("cat", "echo", "grep", "ls", "pwd", "sh", "touch", "true")


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody can reach, which those of pytest are not."""
    place = Path(f"/var/tmp/sdbox-test-{tmp_path.name}-{os.getpid()}")
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory of a few statically linked programs."""
    if BUSYBOX is None or _is_dynamic(BUSYBOX):
        pytest.skip("busybox-static is not installed")
    place = tmp_path / "root"
    for name in ("bin", "etc", "tmp", "var/tmp", "proc", "sys", "dev", "run", "mnt"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin/busybox")
    for name in APPLETS:
        (place / "bin" / name).symlink_to("busybox")
    (place / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return place


def _is_dynamic(program: str) -> bool:
    return b"ld-linux" in Path(program).read_bytes()[:4096]


# --- /tmp


@pytest.mark.parametrize("mode", ["yes", "disconnected"])
def test_private_tmp_is_empty_and_like_tmp(sdbox: Sdbox, mode: str) -> None:
    script = "ls -A /tmp /var/tmp; stat -c '%a %u %g' /tmp /var/tmp; touch /tmp/x /var/tmp/y"
    done = sdbox.sh(script, f"-pPrivateTmp={mode}")
    expected = ["/tmp:", "/var/tmp:", "1777", "0", "0", "1777", "0", "0"]
    assert (done.status, done.out.split()) == (0, expected)


def test_private_tmp_is_another_for_each_job(sdbox: Sdbox) -> None:
    first = sdbox.start_sh("touch /tmp/first /var/tmp/first; echo up; read line", "--private-tmp")
    assert first.line() == "up"
    assert sdbox.sh("ls -A /tmp /var/tmp", "--private-tmp").out == "/tmp:\n\n/var/tmp:\n"
    assert not Path("/tmp/first").exists()
    first.send(b"\n")
    assert first.end().status == 0


def test_a_private_tmp_is_not_to_be_entered_from_outside(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("echo up; read line", "--private-tmp")
    job.line()
    for above in ("/tmp", "/var/tmp"):
        (place,) = Path(above).glob(f"sdbox-private-{job.id}-*")
        status = place.stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (0o700, 0)
    job.send(b"\n")
    job.end()


@pytest.mark.parametrize("name", ["deep", "odd"])
def test_whatever_is_left_in_a_private_tmp_is_removed(sdbox: Sdbox, name: str) -> None:
    scripts = {
        "deep": "d=/tmp; for i in $(seq 300); do mkdir $d/d; cd $d/d; d=.; done; touch x",
        "odd": "cd /tmp; mkdir -m 0 shut; mkdir a; touch -- -rf 'a/\n'; ln -s / link; mkfifo p",
    }
    assert sdbox.sh(scripts[name], "--private-tmp").status == 0
    # That the directories are gone is checked for each job, at the end of its test.
    assert Path("/etc/passwd").exists()


def test_a_disconnected_tmp_has_a_size(sdbox: Sdbox) -> None:
    shown = sdbox.sh("df -k --output=fstype,size /tmp | tail -n 1", "-pPrivateTmp=disconnected")
    kind, size = shown.out.split()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # systemd.exec(5), PrivateTmp=: tmpfs of 10% of the memory.
    assert kind == "tmpfs"
    assert int(size) * 1024 == pytest.approx(memory / 10, rel=0.01)


def test_a_job_without_private_tmp_has_the_machines(sdbox: Sdbox, world: Path) -> None:
    assert sdbox.run("--", "touch", str(world / "seen")).status == 0
    assert (world / "seen").exists()


def test_no_mount_of_a_job_is_seen_outside(sdbox: Sdbox, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    job = sdbox.start_sh(
        "echo up; read line", "--private-tmp", "--pid-namespace", f"--bind=/etc:{tmp_path}"
    )
    job.line()
    assert Path("/proc/self/mountinfo").read_text() == before
    job.send(b"\n")
    job.end()


# --- root directory


def test_nothing_of_the_old_root_is_visible(sdbox: Sdbox, root: Path) -> None:
    done = sdbox.sh("ls -A /; echo; ls -A /etc; cat /etc/passwd", f"--root={root}")
    listed, _, etc = done.out.partition("\n\n")
    assert set(listed.split()) == {path.name for path in root.iterdir()}
    assert etc == "passwd\nroot:x:0:0::/:/bin/sh\n"


def test_no_mount_of_the_old_root_is_left(sdbox: Sdbox, root: Path) -> None:
    done = sdbox.run(f"--root={root}", "--private-tmp", "--", "cat", "/proc/self/mountinfo")
    places = [line.split()[4] for line in done.out.splitlines()]
    top = {"/" + place.split("/")[1] for place in places}
    assert top == {"/", "/proc", "/sys", "/dev", "/run", "/tmp", "/var"}
    assert str(root) not in "".join(places)


def test_the_root_holds_against_dotdot(sdbox: Sdbox, root: Path) -> None:
    done = sdbox.sh("ls -A /../..; cd ..; pwd", f"--root={root}")
    *listed, where = done.out.split()
    assert set(listed) == {path.name for path in root.iterdir()}
    assert where == "/"


def test_a_root_has_the_api_file_systems(sdbox: Sdbox, root: Path) -> None:
    script = (
        "echo x > /dev/null && ls -A /sys/kernel > /dev/null && cat /proc/self/comm; ls -A /run"
    )
    done = sdbox.sh(script, f"--root={root}")
    assert (done.status, done.out, done.err) == (0, "cat\n", "")


def test_a_root_may_lack_the_mount_points(sdbox: Sdbox, root: Path) -> None:
    for name in ("proc", "sys", "dev", "run"):
        (root / name).rmdir()
    assert sdbox.run(f"--root={root}", "--", "cat", "/proc/self/comm").out == "cat\n"


def test_a_user_gets_to_what_was_made_for_a_mount(sdbox: Sdbox, root: Path, world: Path) -> None:
    """Whatever the caller keeps from others that he makes himself."""
    (world / "file").write_text("seen")
    (world / "file").chmod(0o644)
    binds = (f"--bind={world}:/a/b/c", f"--bind={world}/file:/etc/d/file")
    script = "cat /a/b/c/file /etc/d/file"
    done = sdbox.sh(script, f"--root={root}", "--user=65534", *binds, umask=0o077)
    assert (done.out, done.err) == ("seenseen", "")
    made = ("a", "a/b", "a/b/c", "etc/d", "etc/d/file")
    modes = [f"{(root / name).stat().st_mode & 0o777:o}" for name in made]
    assert modes == ["755", "755", "755", "755", "644"]


@pytest.mark.parametrize("directory", [False, True])
def test_a_mount_point_that_another_launch_has_made(tmp_path: Path, directory: bool) -> None:
    """Since this one has seen that it is missing."""
    root = os.open(tmp_path, os.O_PATH)
    for _ in range(2):
        attaching._make_mount_point(root, "/a/b", directory=directory)
    assert (tmp_path / "a/b").is_dir() == directory
    # It is no place for a mount where it leads nowhere.
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        attaching._make_mount_point(root, "/link/b", directory=directory)
    os.close(root)


def test_the_root_directory_itself_is_not_changed(sdbox: Sdbox, root: Path) -> None:
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    sdbox.run(f"--root={root}", "--private-tmp", "--", "touch", "/tmp/x", "/var/tmp/x")
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before


def test_a_job_in_a_root_starts_at_its_top(sdbox: Sdbox, root: Path, tmp_path: Path) -> None:
    assert sdbox.run(f"--root={root}", "--", "pwd", cwd=tmp_path).out == "/\n"
    assert sdbox.run(f"--root={root}", "--chdir=/etc", "--", "pwd").out == "/etc\n"


def test_a_program_is_looked_for_in_the_root(sdbox: Sdbox, root: Path) -> None:
    script = root / "bin/only-inside"
    script.write_text("#!/bin/sh\nexit 6\n")
    script.chmod(0o755)
    assert sdbox.run(f"--root={root}", "--", "only-inside").status == 6
    # It is outside only.
    assert sdbox.run(f"--root={root}", "--", "/usr/bin/env").status == 127


def test_a_root_and_all_the_rest(sdbox: Sdbox, root: Path) -> None:
    done = sdbox.sh(
        "echo $$; ls -A /tmp; cat /proc/net/dev | grep -c :",
        f"--root={root}",
        "--private-tmp",
        "--pid-namespace",
        "--private-ipc",
        "--network=none",
        "--capabilities=none",
        "--cpu-affinity=0",
        "-pLimitNOFILE=64",
    )
    pid, devices = done.out.split()
    assert pid in ("1", "2")
    assert devices == "1"


def test_a_root_that_is_a_file(sdbox: Sdbox, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = sdbox.run(f"--root={tmp_path / 'file'}", "--", "true")
    assert done.status == 125
    assert str(tmp_path / "file") in done.err


# --- binds


def test_binds_into_a_root(sdbox: Sdbox, root: Path, tmp_path: Path) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    done = sdbox.sh(
        "cat /mnt/new/rw/file /ro/file; echo changed > /mnt/new/rw/file; echo changed > /ro/file",
        f"--root={root}",
        f"--bind={tmp_path}/rw:/mnt/new/rw",
        f"--bind-ro={tmp_path}/ro:/ro",
    )
    assert done.out == "rwro"
    assert done.status != 0
    assert "Read-only file system" in done.err
    assert (tmp_path / "rw/file").read_text() == "changed\n"
    assert (tmp_path / "ro/file").read_text() == "ro"


def test_binds_without_a_root(sdbox: Sdbox, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/file").write_text("bound")
    (tmp_path / "to").mkdir()
    done = sdbox.run(f"--bind-ro={tmp_path}/from:{tmp_path}/to", "--", "cat", f"{tmp_path}/to/file")
    assert done.out == "bound"
    assert list((tmp_path / "to").iterdir()) == []


def test_a_file_can_be_bound(sdbox: Sdbox, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound")
    done = sdbox.run(
        f"--root={root}", f"--bind={tmp_path}/file:/mnt/deep/file", "--", "cat", "/mnt/deep/file"
    )
    assert done.out == "bound"


@pytest.mark.parametrize("odd", ["a b", "q\"u'o", "co:lon", "com,ma", "back\\slash", "nl\n", "ü"])
def test_odd_paths_can_be_bound(sdbox: Sdbox, root: Path, tmp_path: Path, odd: str) -> None:
    source = tmp_path / odd
    source.mkdir()
    (source / "file").write_text("bound")
    escaped = odd.replace("\\", "\\\\").replace(":", "\\:")
    bind = f"--bind-ro={tmp_path}/{escaped}:/mnt/{escaped}"
    done = sdbox.run(f"--root={root}", bind, "--", "cat", f"/mnt/{odd}/file")
    assert (done.out, done.err) == ("bound", "")


@pytest.mark.parametrize("target", ["/", "../../../../../..", "../../outside", "/proc/1/root"])
def test_a_symlink_does_not_lead_out_of_the_root(
    sdbox: Sdbox, root: Path, tmp_path: Path, target: str
) -> None:
    """The destination of a bind is what the link means inside, or the launch is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("bound")
    (root / "link").symlink_to(target)
    (root / "outside").mkdir()
    before = sorted(tmp_path.iterdir()), sorted(Path("/").iterdir())
    job = sdbox.start(
        f"--root={root}", f"--bind={source}:/link/place", "--", "sh", "-c", "echo up; read line"
    )
    job.send(b"\n")
    done = job.end()
    assert done.status in (0, 125)
    assert list(outside.iterdir()) == []
    assert (sorted(tmp_path.iterdir()), sorted(Path("/").iterdir())) == before


def test_a_symlink_destination_is_resolved_inside(sdbox: Sdbox, root: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("bound")
    (root / "link").symlink_to("/mnt/target")
    (root / "mnt/target").mkdir()
    done = sdbox.run(
        f"--root={root}", f"--bind={tmp_path}/source:/link", "--", "cat", "/mnt/target/file"
    )
    assert done.out == "bound"


# A script that makes a mount of its own, in a mount namespace that goes with it.
WITH_MOUNT = 'd=$1; shift; mount -t tmpfs -o size=64k sdbox-test "$d" && touch "$d/in" && exec "$@"'


def in_a_namespace_with_mount(
    sdbox: Sdbox, place: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    command = [*sdbox.command, "run", f"--id={sdbox.new_id()}", *words]
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITH_MOUNT, "sh", str(place), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd="/",
    )


def test_a_read_only_bind_covers_submounts(sdbox: Sdbox, tmp_path: Path) -> None:
    below = tmp_path / "from/below"
    below.mkdir(parents=True)
    (tmp_path / "to").mkdir()
    script = f"ls {tmp_path}/to/below; touch {tmp_path}/to/below/x {tmp_path}/to/y"
    bind = f"--bind-ro={tmp_path}/from:{tmp_path}/to"
    done = in_a_namespace_with_mount(sdbox, below, bind, "--", "sh", "-c", script)
    assert done.stdout == "in\n"
    assert done.stderr.count("Read-only file system") == 2


def test_a_job_sees_the_mounts_of_its_caller(sdbox: Sdbox, tmp_path: Path) -> None:
    done = in_a_namespace_with_mount(sdbox, tmp_path, "--private-tmp", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "here").mkdir()
    place = Path("/mnt") if Path("/mnt").is_dir() else tmp_path / "here"
    done = in_a_namespace_with_mount(sdbox, place, "--private-tmp", "--", "ls", str(place))
    assert done.stdout == "in\n"


def test_a_source_that_may_be_missing(sdbox: Sdbox) -> None:
    assert sdbox.run("-pBindPaths=-/nonexistent:/mnt", "--", "true").status == 0


# --- namespaces


def namespace(sdbox: Sdbox, kind: str, *options: str) -> str:
    return sdbox.run(*options, "--", "readlink", f"/proc/self/ns/{kind}").out.strip()


@pytest.mark.parametrize(("kind", "option"), [("ipc", "--private-ipc"), ("net", "--network=none")])
def test_a_namespace_of_its_own_if_asked_for(sdbox: Sdbox, kind: str, option: str) -> None:
    ours = os.readlink(f"/proc/self/ns/{kind}")
    assert namespace(sdbox, kind) == ours
    assert namespace(sdbox, kind, option) not in ("", ours)


def test_a_pid_namespace_of_its_own(sdbox: Sdbox) -> None:
    job = sdbox.start_sh(
        'echo $$; for p in /proc/[0-9]*; do echo "${p#/proc/}"; done; echo .; read line',
        "--pid-namespace",
    )
    own, *seen = job.until(".\n").split()[:-1]
    assert own in ("1", "2")
    assert set(seen) <= {"1", "2"}
    job.send(b"\n")
    job.end()


def test_processes_that_are_orphaned_are_reaped(sdbox: Sdbox) -> None:
    script = (
        "for i in 1 2 3 4 5; do (true & true) & done; wait; "
        # Each reaps its own; what is left is what init has to reap.
        'while grep -l "^State:.*Z" /proc/[0-9]*/status 2> /dev/null; do read line || exit 9; done'
    )
    assert sdbox.sh(script, "--pid-namespace", input=b"\n" * 200).status == 0


def test_only_lo_and_it_is_up(sdbox: Sdbox) -> None:
    program = (
        "import socket; print(*(name for _, name in socket.if_nameindex())); "
        "s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname(), timeout=5); print('up')"
    )
    done = sdbox.run("--network=none", "--", sys.executable, "-c", program)
    assert (done.out, done.err) == ("lo\nup\n", "")


def mounts_in_sys(text: str) -> dict[str, bool]:
    """What is mounted at and below /sys, by proc_pid_mountinfo(5), and whether it is read-only."""
    mounts = (line.split()[4:6] for line in text.splitlines())
    return {
        place: "ro" in options.split(",")
        for place, options in mounts
        if f"{place}/".startswith("/sys/")
    }


def test_sys_shows_the_boxes_own_network(sdbox: Sdbox) -> None:
    """And else what it has shown: with all that is mounted there, and no more to be written to."""
    script = "ls /sys/class/net; cat /proc/self/mountinfo"
    done = sdbox.sh(script, "--network=none")
    device, _, mounts = done.out.partition("\n")
    assert (done.status, device) == (0, "lo")
    assert mounts_in_sys(mounts) == mounts_in_sys(Path("/proc/self/mountinfo").read_text())


def test_the_network_is_the_machines_otherwise(sdbox: Sdbox) -> None:
    devices = sdbox.run("--network=host", "--", "cat", "/proc/net/dev").out
    ours = Path("/proc/net/dev").read_text()
    assert {line.split(":")[0] for line in devices.splitlines()} == {
        line.split(":")[0] for line in ours.splitlines()
    }


# --- credentials and limits


def identity(sdbox: Sdbox, *options: str, **popen: Any) -> dict[str, list[int]]:
    """Uid, Gid and Groups of a job's payload, by /proc."""
    status = sdbox.run(*options, "--", "cat", "/proc/self/status", **popen).out
    lines = (line.split(":") for line in status.splitlines())
    return {
        name: [int(word) for word in value.split()]
        for name, value in lines
        if name in ("Uid", "Gid", "Groups")
    }


def users() -> list[str]:
    """nobody, and somebody in several groups if there is one."""
    several = (
        entry.pw_name
        for entry in pwd.getpwall()
        if entry.pw_uid and len(os.getgrouplist(entry.pw_name, entry.pw_gid)) > 1
    )
    return ["nobody", *[name for name, _ in zip(several, range(1), strict=False)]]


@pytest.mark.parametrize("user", users())
def test_a_user_has_the_right_groups(sdbox: Sdbox, user: str) -> None:
    entry = pwd.getpwnam(user)
    # Groups of the caller, none of which may be left.
    seen = identity(sdbox, f"--user={user}", extra_groups=[0, 4, 6])
    assert seen["Uid"] == [entry.pw_uid] * 4
    assert seen["Gid"] == [entry.pw_gid] * 4
    assert set(seen["Groups"]) == set(os.getgrouplist(user, entry.pw_gid))


def test_a_user_by_number(sdbox: Sdbox) -> None:
    assert identity(sdbox, "--user=65534")["Uid"] == [65534] * 4


def test_a_group_instead_of_the_users(sdbox: Sdbox) -> None:
    gid = grp.getgrnam("daemon").gr_gid
    seen = identity(sdbox, "--user=nobody", "--group=daemon")
    assert seen["Gid"] == [gid] * 4
    assert set(seen["Groups"]) == set(os.getgrouplist("nobody", gid))


def test_a_group_alone(sdbox: Sdbox) -> None:
    gid = grp.getgrnam("daemon").gr_gid
    seen = identity(sdbox, "--group=daemon")
    assert (seen["Uid"], seen["Gid"]) == ([0] * 4, [gid] * 4)


def test_a_user_has_no_capabilities_left(sdbox: Sdbox) -> None:
    status = sdbox.run("--user=nobody", "--private-tmp", "--", "cat", "/proc/self/status").out
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def test_a_users_variables(sdbox: Sdbox) -> None:
    entry = pwd.getpwnam("nobody")
    done = sdbox.sh("echo $HOME $USER $LOGNAME $SHELL", "--user=nobody")
    assert done.out == f"{entry.pw_dir} nobody nobody {entry.pw_shell}\n"


def test_a_user_with_an_isolated_box(sdbox: Sdbox) -> None:
    """What init did as root is there, and the user can use it."""
    options = ("--user=nobody", "--private-tmp", "--pid-namespace", "--network=none")
    script = "touch /tmp/x /var/tmp/y && stat -c %U /tmp/x && cat /proc/self/comm"
    done = sdbox.sh(script, *options, "--chdir=/")
    assert (done.status, done.out, done.err) == (0, "nobody\ncat\n", "")


def test_a_user_can_not_reach_init(sdbox: Sdbox) -> None:
    """Neither by signals nor by ptrace, which would be the box's own privileges."""
    script = "kill -KILL $PPID 2> /dev/null; cat /proc/$PPID/environ 2> /dev/null || echo shut"
    done = sdbox.sh(script, "--user=nobody")
    assert (done.status, done.out) == (0, "shut\n")


def test_cpu_affinity(sdbox: Sdbox) -> None:
    cpu = min(os.sched_getaffinity(0))
    script = "grep Cpus_allowed_list /proc/self/status"
    assert sdbox.sh(script, f"--cpu-affinity={cpu}").out.split()[1] == str(cpu)


def test_cpu_affinity_to_a_cpu_that_is_not_there(sdbox: Sdbox) -> None:
    done = sdbox.run("--cpu-affinity=8191", "--", "true")
    assert done.status == 125
    assert "CPUAffinity" in done.err


def test_resource_limits(sdbox: Sdbox) -> None:
    done = sdbox.sh(
        "ulimit -S -n; ulimit -H -n; ulimit -S -c; ulimit -H -c",
        "-pLimitNOFILE=64:128",
        "-pLimitCORE=0",
    )
    assert done.out.split() == ["64", "128", "0", "0"]


def test_every_resource_limit_can_be_set(sdbox: Sdbox) -> None:
    """At what it is: the kernel has the limit's number, and takes the value."""
    import resource

    from sdbox.directives import DIRECTIVES

    names = [name for name in DIRECTIVES if name.startswith("Limit")]
    assert len(names) == 16
    options = []
    for name in names:
        number = getattr(resource, name.replace("Limit", "RLIMIT_"), 10)
        soft, hard = ("infinity" if n == -1 else n for n in resource.getrlimit(number))
        options.append(f"-p{name}={soft}:{hard}")
    before = Path("/proc/self/limits").read_text()
    assert sdbox.run(*options, "--", "cat", "/proc/self/limits").out == before


# --- the way out


def test_a_box_in_a_box_that_is_not_nestable_is_refused(sdbox: Sdbox) -> None:
    done = sdbox.run("--", *sdbox.command, "run", "--", "echo", "innermost")
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith("sdbox: ")
    assert "--nestable" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.needs_embedded
def test_the_managers_bus_is_not_in_the_jobs_sight(sdbox: Sdbox) -> None:
    script = "test -e /run/systemd/private || test -e /run/dbus/system_bus_socket || echo hidden"
    assert sdbox.sh(script).out == "hidden\n"


@pytest.mark.parametrize("pids", [[], ["--pid-namespace"]], ids=["", "PrivatePIDs"])
def test_a_job_without_any_device(sdbox: Sdbox, world: Path, pids: list[str]) -> None:
    """Not even the /dev/null that a process has on streams that it lets go of."""
    done = sdbox.sh("ls -A /dev; exit 7", f"--bind={world}:/dev", *pids)
    assert (done.status, done.out) == (7, "")
