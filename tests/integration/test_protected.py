"""What a job can't write to, see or reach. Where harmless, it succeeds without the box."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.init.nest import DIRECTORY
from sdbox.plan.protection import LOCKS
from sdbox.systemd.endpoint import booted
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Outcome, Running, Sdbox

SECONDS = seconds(60)
# Not one below /tmp or /root.
PYTHON = (os.path.realpath(sys.executable), "-I", "-S", "-c")


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody can reach, and that no private /tmp hides."""
    place = Path(f"/srv/sdbox-test-{tmp_path.name}-{os.getpid()}")
    place.mkdir(mode=0o755, parents=True)
    yield place
    shutil.rmtree(place)


# To be opened for appending, and not written to.
WRITABLE = 'for f in "$@"; do if (: >>"$f") 2>/dev/null; then echo "$f"; fi; done'


def writable(sdbox: Sdbox, paths: list[str], *options: str) -> list[str]:
    """Those of the paths that a job can open to write."""
    done = sdbox.run(*options, "--", "sh", "-c", WRITABLE, "sh", *paths)
    assert done.status == 0, done.err
    return done.out.splitlines()


@pytest.fixture
def places(world: Path) -> Iterator[list[str]]:
    """Files to be made, everywhere."""
    name = world.name
    found = [f"{above}/{name}.new" for above in ("/usr", "/etc", "/root", "/var/tmp", "/dev/shm")]
    yield [*found, str(world / "new")]
    for path in found:
        Path(path).unlink(missing_ok=True)


# By their numbers in `places`.
@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        (["--protect-system=yes"], [1, 2, 3, 4, 5]),
        (["--protect-system=full"], [2, 3, 4, 5]),
        (["--protect-system=strict"], [2, 4]),
        (["--protect-system=strict", "--private-tmp"], [2, 3, 4]),
        (["--protect-system=strict", "--protect-home=read-only"], [4]),
        (["--protect-system=strict", "--protect-home=tmpfs"], [4]),
        (["--protect-system=strict", "--read-only=/dev"], [2]),
        (["--protect-system=strict", "--read-write=/srv"], [2, 4, 5]),
        (["--protect-system=strict", "--read-write=/var", "--read-only=/var/tmp"], [2, 4]),
        (["-pReadOnlyPaths=/srv /etc", "-pReadOnlyPaths=", "--read-only=/usr"], [1, 2, 3, 4, 5]),
        (["--read-only=/", "-pReadWritePaths=-/nonexistent /etc"], [1]),
    ],
    ids=repr,
)
def test_what_is_protected_is_not_written_to(
    sdbox: Sdbox, places: list[str], options: list[str], left: list[int]
) -> None:
    assert writable(sdbox, places, *options) == [places[n] for n in left]


def test_what_is_bound_is_written_to_all_the_same(sdbox: Sdbox, world: Path) -> None:
    for name in ("from", "to", "ro"):
        (world / name).mkdir()
    options = (f"--bind={world}/from:{world}/to", f"--bind-ro={world}/from:{world}/ro")
    paths = [f"{world}/{name}/x" for name in ("to", "ro", "from")]
    assert writable(sdbox, paths, "--protect-system=strict", *options) == [paths[0]]
    assert (world / "from/x").exists()


def test_what_is_bound_below_what_is_bound_is_there(sdbox: Sdbox, world: Path) -> None:
    """Whichever of them is read-only."""
    for name in ("app/data", "data"):
        (world / name).mkdir(parents=True)
    there = [f"{world}/at/x", f"{world}/at/data/x"]
    (world / "at").mkdir()
    app, data = f"{world}/app:{world}/at", f"{world}/data:{world}/at/data"
    assert writable(sdbox, there, f"--bind-ro={app}", f"--bind={data}") == there[1:]
    assert (world / "data/x").exists()
    assert writable(sdbox, there, f"--bind-ro={data}", f"--bind={app}") == there[:1]
    # There has to be something to mount it on.
    done = sdbox.run(f"--bind-ro={app}", f"--tmpfs={world}/at/new", "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert done.err.startswith(f"sdbox: mount: '{world}/at/new': Read-only file system. What that")
    assert not (world / "app/new").exists()


def test_protection_is_of_the_root_directory(sdbox: Sdbox, world: Path) -> None:
    for name in ("usr", "etc", "bin", "proc", "sys", "dev", "run", "tmp"):
        (world / name).mkdir()
    shutil.copy("/bin/busybox", world / "bin/sh")
    root, paths = f"--root={world}", ["/usr/x", "/etc/x", "/tmp/x"]
    assert writable(sdbox, paths, root, "--protect-system=full") == ["/tmp/x"]
    assert writable(sdbox, paths, root, "--read-only=+/tmp") == ["/usr/x", "/etc/x"]
    assert writable(sdbox, paths, root, f"--read-only={world}/etc") == ["/usr/x", "/tmp/x"]
    outside = sdbox.run(root, "--read-only=/etc", "--", "true")
    assert outside.status == 125
    assert "+/etc" in outside.err


def test_no_link_leads_protection_astray(sdbox: Sdbox, world: Path) -> None:
    (world / "real").mkdir()
    (world / "link").symlink_to("real")
    (world / "usr").symlink_to("real")
    paths = [f"{world}/real/x"]
    assert writable(sdbox, paths, f"--read-only={world}/link") == []
    both = (f"--read-only={world}", f"--read-write={world}/link")
    assert writable(sdbox, paths, *both) == paths


def test_no_link_by_way_of_the_root_leads_protection_astray(sdbox: Sdbox, world: Path) -> None:
    """As /var/run, a link to ../run, is one."""
    (world / "above").mkdir()
    (world / "real").mkdir()
    (world / "real/secret").write_text("secret")
    (world / "above/link").symlink_to("../../../srv/" + world.name + "/real")
    place = f"{world}/above/link/secret"
    done = sdbox.run(f"--inaccessible=-{place}", "--", "cat", f"{world}/real/secret")
    assert (done.status, done.out) == (0, "")
    paths = [f"{world}/real/x"]
    hidden = (f"--inaccessible={world}/real/secret", f"--read-only=-{world}/above/link")
    assert writable(sdbox, paths, *hidden) == []


# --- out of sight


@pytest.mark.parametrize("mode", ["yes", "tmpfs"])
def test_homes_are_out_of_sight(sdbox: Sdbox, mode: str) -> None:
    with_file = Path("/root") / f".sdbox-test-{os.getpid()}"
    with_file.touch()
    try:
        assert with_file.name in sdbox.run("--", "ls", "-A", "/root").out
        done = sdbox.run(f"--protect-home={mode}", "--", "ls", "-A", "/root", "/home", cwd="/root")
        assert done.out == "/home:\n\n/root:\n"
        assert "ProtectHome" in done.err
        here = sdbox.run(f"--protect-home={mode}", "--user=nobody", "--", "pwd", cwd="/root")
        assert here.out == "/\n"
    finally:
        with_file.unlink()


def test_what_is_bound_below_an_empty_home_is_there(sdbox: Sdbox, world: Path) -> None:
    (world / "file").touch()
    bind = f"--bind={world}:/home/me/job"
    done = sdbox.sh("ls /home/me/job; touch /home/x", "--protect-home=tmpfs", bind)
    assert done.out == "file\n"
    assert "Read-only" in done.err
    refused = sdbox.run("--protect-home=yes", bind, "--", "true")
    assert refused.status == 125
    assert "ProtectHome=tmpfs" in refused.err


@pytest.mark.parametrize("box", ["--protect-home=tmpfs", "--box=strict"])
def test_what_is_bound_in_the_place_of_an_empty_home_is_written_to(
    sdbox: Sdbox, world: Path, box: str
) -> None:
    """As root's own home is, for who starts jobs there."""
    assert writable(sdbox, ["/root/x", "/home/x"], box, f"--bind={world}:/root") == ["/root/x"]
    assert (world / "x").exists()
    assert writable(sdbox, ["/root/x"], box, f"--bind-ro={world}:/root") == []


def test_inaccessible_paths(sdbox: Sdbox, world: Path) -> None:
    (world / "directory").mkdir()
    for name in ("directory/file", "secret"):
        (world / name).write_text("secret")
    options = [f"--inaccessible={world}/{name}" for name in ("directory", "secret")]
    script = f"cat {world}/secret; ls -A {world}/directory; echo x >{world}/secret; :"
    assert sdbox.sh(script, *options).out == ""
    assert (world / "secret").read_text() == "secret"
    as_nobody = sdbox.run(*options, "--user=nobody", "--", "cat", f"{world}/secret")
    assert "Permission denied" in as_nobody.err


@pytest.mark.parametrize("option", ["--read-only", "--read-write", "--inaccessible"])
def test_a_path_that_is_not_there_is_named(sdbox: Sdbox, option: str) -> None:
    done = sdbox.run(f"{option}=/no/such", "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert "/no/such" in done.err
    assert sdbox.run(f"{option}=-/no/such", "--", "true").status == 0


# --- the kernel


def test_kernel_tunables_are_read_only(sdbox: Sdbox) -> None:
    paths = ["/proc/sys/kernel/printk", "/sys/kernel/uevent_seqnum", "/proc/sysrq-trigger"]
    if not os.access(paths[0], os.W_OK):
        pytest.skip("/proc/sys is read-only on this machine")
    assert paths[0] in writable(sdbox, paths)
    assert writable(sdbox, paths, "-pProtectKernelTunables=yes") == []
    size = sdbox.run("-pProtectKernelTunables=yes", "--", "stat", "-c%s", "/proc/kcore")
    assert size.out in ("0\n", "")


def test_control_groups_are_read_only(sdbox: Sdbox) -> None:
    files = sorted(map(str, Path("/sys/fs/cgroup").rglob("cgroup.procs")))[:1]
    assert writable(sdbox, files) == files
    assert writable(sdbox, files, "-pProtectControlGroups=yes") == []
    tunables = "-pProtectKernelTunables=yes"
    assert writable(sdbox, files, tunables) == files
    assert writable(sdbox, files, tunables, "-pProtectControlGroups=yes") == []


# delete_module and init_module with what is none: ENOENT and EFAULT, or EPERM.
MODULES = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
c.delete_module(b"no-such-module", 0); print(ctypes.get_errno())
c.init_module(None, 16, None); print(ctypes.get_errno())
"""


def test_kernel_modules_are_not_loaded(sdbox: Sdbox) -> None:
    without = sdbox.run("--", *PYTHON, MODULES).out.split()
    assert sdbox.run("-pProtectKernelModules=yes", "--", *PYTHON, MODULES).out == "1\n1\n"
    # A kernel without modules has no such calls.
    if without != ["38", "38"]:
        assert without[0] == "2"
    bounding = sdbox.sh("grep CapBnd /proc/self/status", "-pProtectKernelModules=yes")
    assert int(bounding.out.split()[1], 16) & 1 << 16 == 0


def test_private_devices(sdbox: Sdbox) -> None:
    script = (
        "ls /dev; echo x >/dev/null; head -c2 /dev/zero | wc -c; touch /dev/x; mknod /tmp/n c 1 3"
    )
    done = sdbox.sh(script, "-pPrivateDevices=yes", "--private-tmp")
    *names, count = done.out.split()
    assert count == "2"
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"} <= set(names)
    assert {"kmsg", "mem", "loop0", "sda", "vda", "fuse", "kvm"}.isdisjoint(names)
    assert "Read-only" in done.err
    assert "Operation not permitted" in done.err
    pty = sdbox.run("-pPrivateDevices=yes", "--", *PYTHON, "import os; print(os.openpty())")
    assert pty.status == 0


def test_processes_of_others_are_invisible(sdbox: Sdbox) -> None:
    script = "ls -d /proc/1 2>/dev/null; ls -d /proc/self/"
    user = ("--user=nobody",)
    assert sdbox.sh(script, *user).out.splitlines() == ["/proc/1", "/proc/self/"]
    invisible = sdbox.sh(script, *user, "-pProtectProc=invisible")
    assert invisible.out.splitlines() == ["/proc/self/"]


# --- managers

# In a mount namespace of its own, sockets are made that lead to nothing; then the job is started.
STAGE = """
import os, socket, subprocess, sys
def mount(place):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    return place
# A /run of its own, with all that there is, where there can be more.
mount("/mnt")
for entry in os.scandir("/run"):
    place = f"/mnt/{entry.name}"
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), place)
        continue
    os.mkdir(place) if entry.is_dir() else os.close(os.open(place, os.O_CREAT))
    subprocess.run(["mount", "--rbind", entry.path, place], check=True)
subprocess.run(["mount", "--move", "/mnt", "/run"], check=True)
held = []
for place, names in (
    ("/run/systemd", ("private", "journal/socket", "userdb/io.systemd.DynamicUser")),
    ("/run/dbus", ("system_bus_socket",)),
    ("/run/user", ("0/bus", "0/systemd/private")),
    ("/run/docker", ("containerd/containerd.sock",)),
    ("/run/udev", ("control",)),
    ("/run/fail2ban", ("fail2ban.sock",)),
):
    os.makedirs(place, exist_ok=True)
    mount(place)
    for name in names:
        os.makedirs(os.path.dirname(f"{place}/{name}"), exist_ok=True)
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].bind(f"{place}/{name}")
        held[-1].listen()
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as sock:
        if sock.connect_ex(path) == 0:
            print(path)
"""
JOURNAL = "/run/systemd/journal/socket"
SOCKETS = [
    "/run/systemd/private",
    JOURNAL,
    "/run/systemd/userdb/io.systemd.DynamicUser",
    "/run/dbus/system_bus_socket",
    "/run/user/0/bus",
    "/run/user/0/systemd/private",
    "/run/docker/containerd/containerd.sock",
    *(OF_ROOT := ["/run/udev/control", "/run/fail2ban/fail2ban.sock"]),
]


def on_stage(sdbox: Sdbox, *options: str) -> list[str]:
    """The sockets that a job can reach, where there are all of them."""
    run = [*sdbox.command, "run", f"--id={sdbox.new_id()}", *sdbox.options, *options]
    done = subprocess.run(
        ["unshare", "--mount", *PYTHON, STAGE, *run, "--", *PYTHON, CONNECT, *SOCKETS],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.needs_embedded
def test_sockets_of_managers_are_out_of_reach(sdbox: Sdbox) -> None:
    assert on_stage(sdbox, "-pManagerAccess=yes") == SOCKETS
    assert on_stage(sdbox) == [JOURNAL, *OF_ROOT]
    assert on_stage(sdbox, "--box=strict") == [JOURNAL]
    engine = "/run/docker/containerd/containerd.sock"
    assert on_stage(sdbox, "--bind=/run/docker") == [JOURNAL, engine, *OF_ROOT]
    bound = [JOURNAL, "/run/dbus/system_bus_socket", *OF_ROOT]
    assert on_stage(sdbox, "--bind=/run/dbus") == bound


@pytest.fixture
def machine(sdbox: Sdbox) -> Sdbox:
    if not booted():
        pytest.skip("systemd does not run as this machine's PID 1")
    return sdbox


START = "systemd-run --quiet --unit=escaped-$$ true"
PRIVATE = "SYSTEMCTL_FORCE_BUS=0 systemctl show --property=Version"
USER = "XDG_RUNTIME_DIR=/run/user/0 systemd-run --quiet --user true"


@pytest.mark.parametrize("box", [(), ("--box=strict",)], ids=["usual", "strict"])
def test_no_unit_is_started_from_inside(machine: Sdbox, box: tuple[str, ...]) -> None:
    for script in (START, PRIVATE):
        assert machine.sh(script, "-pManagerAccess=yes").status == 0, script
        assert machine.sh(script, *box).status != 0, script
    # Whether or not there is one.
    assert machine.sh(USER, *box).status != 0


# --- a job of root, boxed as strictly as can be


@pytest.fixture
def victim(sdbox: Sdbox) -> Running:
    """Another user's job, which tells its PID and where in its memory it has a secret."""
    program = (
        "import ctypes, os, sys; secret = ctypes.create_string_buffer(b'secret');"
        "print(os.getpid(), ctypes.addressof(secret), flush=True); sys.stdin.read()"
    )
    return sdbox.start("--user=nobody", "--chdir=/", "--", *PYTHON, program)


ATTACK = """
import ctypes, os, sys
pid, address = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
mine = ctypes.create_string_buffer(6)
here, there = Vector(ctypes.addressof(mine), 6), Vector(address, 6)
libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
print("read", mine.raw == b"secret")
try:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(address)
        print("mem", file.read(6) == b"secret")
except OSError:
    print("mem", False)
try:
    os.kill(pid, 0)
    print("kill", True)
except OSError:
    print("kill", False)
print("ptrace", libc.ptrace(16, pid, None, None) == 0)
"""
DEEDS = ("read", "mem", "kill", "ptrace")


def attack(sdbox: Sdbox, victim: tuple[str, str], *options: str) -> dict[str, str]:
    done = sdbox.run(*options, "--", *PYTHON, ATTACK, *victim)
    assert done.status == 0, done.err
    words = done.out.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_a_strict_box_keeps_root_from_the_processes_of_others(
    sdbox: Sdbox, victim: Running
) -> None:
    pid, address = victim.line().split()
    assert attack(sdbox, (pid, address)) == dict.fromkeys(DEEDS, "True")
    assert attack(sdbox, (pid, address), "--box=strict") == dict.fromkeys(DEEDS, "False")
    # Each by itself, too.
    bare = attack(sdbox, (pid, address), "--capabilities=none")
    assert bare == dict.fromkeys(DEEDS, "False")
    hidden = attack(sdbox, (pid, address), "--pid-namespace")
    assert hidden == dict.fromkeys(DEEDS, "False")


MOUNTING = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
print(c.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None) == 0)
print(c.umount2(b"/proc", 2) == 0)
print(c.syscall(428, -100, b"/", 1) >= 0)
print(c.unshare(0x00020000) == 0)
print(c.chroot(b"/mnt") == 0)
"""


def test_a_strict_box_keeps_root_from_the_terminals_of_others(sdbox: Sdbox) -> None:
    master, slave = os.openpty()
    try:
        script = f"(echo typed >{os.ttyname(slave)}) 2>/dev/null; echo $?"
        assert sdbox.sh(script).out.split() == ["0"]
        assert os.read(master, 100).split() == [b"typed"]
        for user in ((), ("--user=nobody",)):
            assert sdbox.sh(script, "--box=strict", *user).out.split() != ["0"]
        # It can have its own.
        program = (
            "import os, pty; pid, fd = pty.fork(); pid or os._exit(7); print(os.waitpid(pid, 0)[1])"
        )
        assert sdbox.run("--box=strict", "--", *PYTHON, program).out.split() == [str(7 << 8)]
    finally:
        os.close(master)
        os.close(slave)


def test_a_strict_box_lets_nothing_be_mounted(sdbox: Sdbox) -> None:
    # In a mount namespace of its own, as --private-tmp has it.
    without = sdbox.run("--private-tmp", "--", *PYTHON, MOUNTING)
    assert without.out.split() == ["True"] * 5, without.err
    assert sdbox.run("--box=strict", "--", *PYTHON, MOUNTING).out.split() == ["False"] * 5


OPENING = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.open(path, os.O_RDONLY)
        print(path)
    except OSError:
        pass
"""


def test_a_strict_box_can_not_lock_what_others_launches_lock(sdbox: Sdbox) -> None:
    nestable = sdbox.start("--nestable", "--", "sh", "-c", "echo; cat")
    nestable.line()
    assert sdbox.run("--cpus=1", "--wait-cpus=20", "--", "true").status == 0
    words = ("--", *PYTHON, OPENING, DIRECTORY, *LOCKS)
    assert sdbox.run(*words).out.split() == [DIRECTORY, *LOCKS]
    assert sdbox.run("--box=strict", *words).out.split() == []
    assert nestable.end().status == 0


def test_a_strict_box_is_not_left_by_way_of_its_init(sdbox: Sdbox) -> None:
    # It has all capabilities, and has the namespace around the box open.
    script = "ls /proc/1/root/ /proc/1/task/1/cwd/; readlink /proc/1/fd/*; kill -KILL 1; echo alive"
    without = sdbox.sh(script, "--pid-namespace").out
    assert {"etc", "alive"} <= set(without.split())
    assert "anon_inode:" in without
    done = sdbox.sh(script, "--box=strict")
    assert done.out == "alive\n", done.err


# Of what a user namespace would give: rights over what is in it, and no way to it.
USER_NAMESPACE = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs x /mnt && echo in'"


def test_a_strict_box_gives_no_rights_by_a_user_namespace(sdbox: Sdbox) -> None:
    assert sdbox.sh(USER_NAMESPACE, "--box=strict").out == ""


def test_a_strict_box_is_not_left_by_way_of_files(sdbox: Sdbox) -> None:
    files = sorted(map(str, Path("/sys/fs/cgroup").rglob("cgroup.procs")))[:1]
    paths = [
        *("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd", *files),
        *("/etc/x", "/usr/x", "/x", "/root/x", "/home/x", "/dev/x", "/run/x", "/var/x"),
    ]
    assert writable(sdbox, ["/tmp/x", "/var/tmp/x", *paths], "--box=strict") == [
        *("/tmp/x", "/var/tmp/x"),
    ]


def test_a_strict_box_is_one_to_work_in(sdbox: Sdbox, world: Path) -> None:
    done = sdbox.run("--box=strict", f"--bind={world}", "--", "sh", "-c", f"id -u >{world}/out")
    assert done.status == 0, done.err
    assert (world / "out").read_text() == "0\n"


def test_a_box_of_the_name_in_the_configuration_comes_first(sdbox: Sdbox, tmp_path: Path) -> None:
    file = tmp_path / "sdbox.toml"
    file.write_text("[box.strict]\nLimitNOFILE = 77\n")
    own: Outcome = sdbox.sh("ulimit -n; ls /root >/dev/null", f"--config={file}", "--box=strict")
    assert own.out == "77\n"
