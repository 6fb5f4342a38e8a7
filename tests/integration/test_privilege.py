"""What a payload may do: it really tries. Where harmless, it succeeds without the box."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ordinary import PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

KILL, CHOWN, BIND = 1 << 5, 1, 1 << 10


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


def status_of(sdbox: Sdbox, *options: str) -> dict[str, int]:
    """The sets of capabilities and NoNewPrivs of a payload: inherited, permitted, …"""
    done = sdbox.run(*options, "--", "grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status")
    assert done.status == 0, done.err
    lines = (line.split(":") for line in done.out.splitlines())
    return {name.removeprefix("Cap"): int(value, 16) for name, value in lines}


def own_bounding_set() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("CapBnd:")[1].split()[0], 16)


# --- no_new_privs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 1),
        (["--no-new-privileges=yes"], 1),
        (["--no-new-privileges=no"], 0),
        (["-pNoNewPrivileges=no"], 0),
        (["--user=nobody"], 1),
    ],
    ids=repr,
)
def test_no_new_privileges_unless_asked_for(
    sdbox: Sdbox, options: list[str], expected: int
) -> None:
    assert status_of(sdbox, *options)["NoNewPrivs"] == expected


def test_a_set_user_id_program_is_as_any_other(sdbox: Sdbox, world: Path) -> None:
    program = world / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    words = ("--user=nobody", "--", str(program), "-un")
    assert sdbox.run(*words).out == "nobody\n"
    assert sdbox.run("--no-new-privileges=no", *words).out == "root\n"


# --- capabilities


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--capabilities=none"], 0),
        (["--capabilities=CAP_KILL CAP_CHOWN"], KILL | CHOWN),
        (["-pCapabilityBoundingSet=~CAP_KILL"], ~KILL),
        (["-pCapabilityBoundingSet=CAP_KILL", "-pCapabilityBoundingSet=CAP_CHOWN"], KILL | CHOWN),
        (["-pCapabilityBoundingSet=CAP_KILL", "-pCapabilityBoundingSet="], 0),
        ([], ~0),
    ],
    ids=repr,
)
def test_root_has_the_capabilities_of_its_bounding_set(
    sdbox: Sdbox, options: list[str], kept: int
) -> None:
    expected = own_bounding_set() & kept
    shown = status_of(sdbox, *options)
    assert (shown["Prm"], shown["Eff"], shown["Bnd"]) == (expected, expected, expected)
    assert (shown["Inh"], shown["Amb"]) == (0, 0)


def test_another_user_has_none_and_can_come_by_none(sdbox: Sdbox) -> None:
    shown = status_of(sdbox, "--user=nobody")
    del shown["NoNewPrivs"]
    assert set(shown.values()) == {0}
    assert status_of(sdbox, "--user=nobody", "--capabilities=~")["Bnd"] == own_bounding_set()


def test_another_user_has_those_that_are_ambient(sdbox: Sdbox) -> None:
    shown = status_of(sdbox, "--user=nobody", "-pAmbientCapabilities=CAP_NET_BIND_SERVICE")
    del shown["NoNewPrivs"]
    assert set(shown.values()) == {BIND}


def test_root_without_capabilities_is_stopped_by_modes_of_files(sdbox: Sdbox, world: Path) -> None:
    (world / "other").write_text("secret\n")
    (world / "other").chmod(0o600)
    os.chown(world / "other", 65534, 65534)
    read = ("--", "cat", str(world / "other"))
    assert sdbox.run(*read).out == "secret\n"
    assert sdbox.run("--capabilities=none", *read).status == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--capabilities=CAP_NOTHING",),
        ("--no-new-privileges=perhaps",),
        ("-pAmbientCapabilities=CAP_KILL", "--capabilities=none"),
    ],
    ids=repr,
)
def test_what_can_not_be_is_refused_in_one_line(sdbox: Sdbox, options: tuple[str, ...]) -> None:
    done = sdbox.run(*options, "--", "true")
    assert done.status in (2, 125)
    assert done.err.count("\n") == 1
    assert done.err.startswith("sdbox: ")


# --- system calls

MOUNT = "mount -t tmpfs x /mnt 2>/dev/null; echo $?"


def test_a_call_outside_of_the_filter_ends_the_process(sdbox: Sdbox) -> None:
    # In a mount namespace of its own, as every box with a directory of its own has.
    assert sdbox.sh(MOUNT, "--private-tmp").out == "0\n"
    done = sdbox.sh(MOUNT, "--system-calls=@system-service")
    assert done.out.split() == [str(128 + signal.SIGSYS)]
    whole = sdbox.run("--system-calls=@system-service", "--", "umount", "/mnt", report=True)
    assert whole.status == -signal.SIGSYS
    assert (whole.account["reason"], whole.account["signal"]) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(
    "options",
    [
        ("--system-calls=@system-service", "-pSystemCallErrorNumber=EPERM"),
        ("--system-calls=~@mount:EPERM",),
        ("-pSystemCallFilter=@system-service", "-pSystemCallFilter=~@mount:EPERM"),
        ("--system-calls=~mount fsopen", "-pSystemCallErrorNumber=1"),
    ],
    ids=repr,
)
def test_a_call_outside_of_the_filter_fails(sdbox: Sdbox, options: tuple[str, ...]) -> None:
    done = sdbox.sh(MOUNT, *options)
    assert done.status == 0
    assert done.out.split() == ["32"]


def test_what_a_service_needs_is_in_its_group(sdbox: Sdbox) -> None:
    program = (
        "import subprocess, threading, socket, tempfile;"
        "subprocess.run(['true'], check=True); threading.Thread(target=print).start();"
        "socket.socketpair(); tempfile.TemporaryFile(); print('done')"
    )
    words = ("--", PYTHON, "-I", "-S", "-c", program)
    for user in ((), ("--user=nobody", "--chdir=/")):
        done = sdbox.run("--system-calls=@system-service", *user, *words)
        assert (done.status, done.out.split()) == (0, ["done"]), done.err


def test_the_filter_is_for_all_that_it_starts(sdbox: Sdbox) -> None:
    script = "grep Seccomp: /proc/self/status; sh -c 'grep Seccomp: /proc/self/status'"
    assert sdbox.sh(script, "--system-calls=~@mount").out.split()[1::2] == ["2", "2"]
    assert sdbox.sh(script).out.split()[1::2] == ["0", "0"]


# getpid of x32 and of i386, which answer, or fail with ENOSYS where Linux has none of it.
X32 = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))"
I386 = (
    "import ctypes, mmap;"
    "code = mmap.mmap(-1, 4096, prot=7); code.write(bytes.fromhex('b814000000cd80c3'));"
    "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()"
)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="its calls are those of x86-64")
@pytest.mark.parametrize("program", [X32, I386], ids=["x32", "i386"])
def test_calls_of_other_architectures_are_denied(sdbox: Sdbox, program: str) -> None:
    words = ("--", PYTHON, "-I", "-S", "-c", program)
    if sdbox.run(*words).status != 0:
        pytest.skip("this kernel has no calls of that architecture")
    assert sdbox.run("--system-calls=~@mount", *words).status == -signal.SIGSYS
    assert sdbox.run("-pSystemCallArchitectures=native", *words).status == -signal.SIGSYS
    # Which is about them as well.
    assert sdbox.run("-pPrivateDevices=yes", "-pRestrictRealtime=yes", *words).status == 0
    allowed = f"-pSystemCallArchitectures={'x86' if program is I386 else 'x32'}"
    assert sdbox.run(allowed, "--system-calls=~@mount", *words).status == 0


# As if `x` had been typed; and how it fails.
TYPING = """
import ctypes, errno, os, pty, termios
reader, writer = os.pipe()
if pty.fork()[0] == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (termios.TIOCSTI, 0xFFFF00000000 | termios.TIOCSTI):
        ctypes.set_errno(0)
        libc.ioctl(0, ctypes.c_ulong(request), b"x")
        os.write(writer, b"%d " % ctypes.get_errno())
    os._exit(0)
os.close(writer)
while more := os.read(reader, 100):
    print(more.decode(), end="")
"""


def test_nobody_types_into_a_terminal_from_behind_a_filter(sdbox: Sdbox) -> None:
    words = ("--", PYTHON, "-I", "-S", "-c", TYPING)
    allowed = sdbox.run(*words).out.split()
    # EIO where the kernel has it no more (dev.tty.legacy_tiocsti).
    assert set(allowed) <= {"0", str(errno.EIO)}
    assert len(allowed) == 2
    denied = sdbox.run("--system-calls=~@mount", *words).out.split()
    assert denied == [str(errno.EPERM)] * 2


def test_a_program_that_is_not_there_is_told_from_behind_a_filter(sdbox: Sdbox) -> None:
    assert sdbox.run("--system-calls=execve", "--", "/nonexistent").status == 127


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--system-calls=@nothing",), "@nothing"),
        (("--system-calls=nothing",), "nothing"),
        (("-pSystemCallErrorNumber=EPERM",), "SystemCallErrorNumber"),
        (("--user=nobody", "--no-new-privileges=no", "--system-calls=read"), "SystemCallFilter"),
        (("-pSystemCallArchitectures=vax",), "vax"),
    ],
    ids=repr,
)
def test_a_filter_that_can_not_be_is_refused_in_one_line(
    sdbox: Sdbox, options: tuple[str, ...], named: str
) -> None:
    done = sdbox.run(*options, "--", "true")
    assert done.status in (2, 125)
    assert done.err.count("\n") == 1
    assert named in done.err


# --- what is restricted by the arguments of system calls

# Does each deed, by its number or with an argument whose upper half the kernel does not look at,
# and prints what it fails with.
DEEDS = """
import ctypes, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
UP = 1 << 32
NUMBERS = {"x86_64": 0, "aarch64": 1}[platform.machine()]
def call(numbers, *arguments):
    ctypes.set_errno(0)
    number = numbers if isinstance(numbers, int) else numbers[NUMBERS]
    words = [a if isinstance(a, bytes) else ctypes.c_ulong(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return 0 if result >= 0 else ctypes.get_errno()
def child(flags):
    ctypes.set_errno(0)
    pid = libc.syscall(ctypes.c_long((56, 220)[NUMBERS]), ctypes.c_ulong(flags | 17), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return ctypes.get_errno() if pid < 0 else os.waitpid(pid, 0)[1]
UNSHARE, SETNS, SOCKET = (272, 97), (308, 268), (41, 198)
own = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("uts", "ipc")}
print(eval(sys.argv[1]))
"""


def deed(sdbox: Sdbox, what: str, *options: str) -> int:
    done = sdbox.run(*options, "--", PYTHON, "-I", "-S", "-c", DEEDS, what)
    assert done.status == 0, done.err
    return int(done.out)


def need_known_calls() -> None:
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the numbers of this machine's system calls are not in the table here")


UTS = "call(UNSHARE, 0x04000000)"
TIME = "call(UNSHARE, 0x80)"
ENTER, ENTER_ANY = "call(SETNS, own['uts'], 0x04000000)", "call(SETNS, own['uts'], UP)"
CLONE, CLONE3 = "child(0x04000000)", "call(435, 0, 0)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", {UTS: 0, TIME: 0, ENTER: 0, ENTER_ANY: 0, CLONE: 0, CLONE3: errno.EINVAL}),
        (
            "yes",
            {**dict.fromkeys((UTS, TIME, ENTER, ENTER_ANY, CLONE), errno.EPERM)}
            | {CLONE3: errno.ENOSYS, "child(0)": 0, "call(UNSHARE, 0x400)": 0},
        ),
        (
            "~uts",
            {UTS: errno.EPERM, ENTER: errno.EPERM, CLONE: errno.EPERM, ENTER_ANY: errno.EPERM}
            | {TIME: 0, "call(UNSHARE, 0x08000000)": 0}
            | {"call(SETNS, own['ipc'], 0x08000000)": 0, "child(0x08000000)": 0},
        ),
        ("uts", {UTS: 0, ENTER: 0, CLONE: 0, TIME: errno.EPERM, "child(0x08000000)": errno.EPERM}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_namespaces_are_restricted(sdbox: Sdbox, text: str, expected: dict[str, int]) -> None:
    need_known_calls()
    option = f"-pRestrictNamespaces={text}"
    assert {what: deed(sdbox, what, option) for what in expected} == expected


def test_a_box_has_namespaces_of_its_own_that_it_may_not_make(sdbox: Sdbox) -> None:
    options = ("-pRestrictNamespaces=yes", "--private-tmp", "--pid-namespace", "--private-ipc")
    script = "ls -A /tmp; unshare --uts true 2>/dev/null; echo $?; (true) & wait; echo done"
    for user in ((), ("--user=nobody",)):
        assert sdbox.sh(script, *options, *user).out.split() == ["1", "done"]


@pytest.mark.parametrize(
    ("option", "what", "expected"),
    [
        ("RestrictAddressFamilies=AF_UNIX", "call(SOCKET, 1, 1, 0)", 0),
        ("RestrictAddressFamilies=AF_UNIX", "call(SOCKET, 2, 1, 0)", errno.EAFNOSUPPORT),
        ("RestrictAddressFamilies=AF_UNIX", "call(SOCKET, 999, 1, 0)", errno.EAFNOSUPPORT),
        ("RestrictAddressFamilies=~AF_INET", "call(SOCKET, 2 | UP, 1, 0)", errno.EAFNOSUPPORT),
        ("RestrictAddressFamilies=~AF_INET", "call(SOCKET, 1, 1, 0)", 0),
        ("RestrictAddressFamilies=none", "call(SOCKET, 1, 1, 0)", errno.EAFNOSUPPORT),
        ("RestrictAddressFamilies=none", "call(425, 1, 0)", errno.ENOSYS),
        ("LockPersonality=yes", "call((135, 92), 0x0040000)", errno.EPERM),
        ("LockPersonality=yes", "call((135, 92), 0)", 0),
        ("MemoryDenyWriteExecute=yes", "call((9, 222), 0, 4096, 3, 34, -1, 0)", 0),
        ("MemoryDenyWriteExecute=yes", "call((9, 222), 0, 4096, 5, 34, -1, 0)", 0),
        ("MemoryDenyWriteExecute=yes", "call((9, 222), 0, 4096, 7, 34, -1, 0)", errno.EPERM),
        ("MemoryDenyWriteExecute=yes", "call((10, 226), 0, 4096, 4)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((268, 53), -100, b'/tmp', 0o4755)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((268, 53), -100, b'/tmp', 0o1777)", 0),
        ("RestrictSUIDSGID=yes", "call(452, -100, b'/tmp', 0o2777, 0)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((258, 34), -100, b'/tmp/d', 0o2755)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((257, 56), -100, b'/tmp/f', 0o101, 0o4755)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((257, 56), -100, b'/tmp', 0o20200001, 0o4755)", errno.EPERM),
        ("RestrictSUIDSGID=yes", "call((257, 56), -100, b'/tmp', 0o200000, 0o4755)", 0),
        ("RestrictSUIDSGID=yes", "call(437, -100, b'/tmp', 0, 0)", errno.ENOSYS),
        ("RestrictRealtime=yes", "call((144, 119), 0, 1 | UP, 0)", errno.EPERM),
        ("RestrictRealtime=yes", "call((144, 119), 0, 6, 0)", errno.EPERM),
        ("RestrictRealtime=yes", "call((144, 119), 0, 3, 0)", errno.EINVAL),
        ("RestrictRealtime=yes", "call((314, 274), 0, 0, 0)", errno.ENOSYS),
    ],
)
def test_arguments_are_restricted(sdbox: Sdbox, option: str, what: str, expected: int) -> None:
    need_known_calls()
    assert deed(sdbox, what, f"-p{option}", "--private-tmp") == expected


def test_what_is_restricted_works_otherwise(sdbox: Sdbox) -> None:
    """With all of it, and as another user: threads, processes, files and sockets."""
    program = (
        "import subprocess, threading, socket, tempfile;"
        "subprocess.run(['true'], check=True); threading.Thread(target=print).start();"
        "socket.socket(socket.AF_UNIX); tempfile.TemporaryFile(); print('done')"
    )
    options = [
        *("-pRestrictNamespaces=yes", "-pRestrictAddressFamilies=AF_UNIX", "-pLockPersonality=yes"),
        *("-pRestrictSUIDSGID=yes", "-pRestrictRealtime=yes", "-pMemoryDenyWriteExecute=yes"),
    ]
    for user in ((), ("--user=nobody", "--chdir=/")):
        done = sdbox.run(*options, *user, "--", PYTHON, "-I", "-S", "-c", program, report=True)
        assert (done.status, done.out.split()) == (0, ["done"]), done.err
        assert done.account["enforcement"]["RestrictNamespaces"] == "kernel"


def test_the_strict_box_makes_no_namespaces(sdbox: Sdbox) -> None:
    need_known_calls()
    # Of a user, which takes no right.
    assert deed(sdbox, "call(UNSHARE, 0x10000000)", "--user=nobody", "--private-tmp") == 0
    for user in ((), ("--user=nobody",)):
        assert deed(sdbox, "call(UNSHARE, 0x10000000)", "--box=strict", *user) == errno.EPERM
