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
