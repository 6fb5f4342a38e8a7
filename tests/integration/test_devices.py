"""DevicePolicy=, DeviceAllow= and GPUs=: what a job can open and make, root's job included."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import stat
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.host import nodes
from sdbox.host.gpus import Machine
from sdbox.launcher import Launcher
from sdbox.values import GPURequest
from tests.conftest import MARK, SECONDS
from tests.ordinary import PYTHON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.launcher import Options
    from sdbox.properties import UnitType
    from tests.conftest import Sdbox

# Of no driver (Documentation/admin-guide/devices.txt: for local use). Who is allowed to open it is
# told that it is not there, by the driver's part of the kernel, and else before that.
ODD = (60, 1)

# What every program may count on (systemd.resource-control(5), DevicePolicy=closed).
USUAL = ("full", "null", "random", "urandom", "zero")

# Makes nodes of its own of these numbers, opens them, and says as JSON what came of it.
MAKE = """
import errno, json, os, sys
came = {}
for name, kind, major, minor in json.loads(sys.argv[2]):
    path = f"{sys.argv[1]}/{name}"
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.close(os.open(path, os.O_RDONLY))
        came[name] = ""
    except OSError as error:
        came[name] = "" if error.errno == errno.ENXIO else error.strerror
print(json.dumps(came))
"""

# Opens each for reading and for writing, and says as JSON what can be done with it.
OPEN = """
import errno, json, os, sys
can = {}
for path in sys.argv[1:]:
    can[path] = ""
    for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
            assert error.errno == errno.ENXIO, error
        can[path] += letter
print(json.dumps(can))
"""
# Opens all that is in a directory, if there is one, and names it.
OPEN_ALL = """
import os, sys
for name in sorted(os.listdir(sys.argv[1])) if os.path.exists(sys.argv[1]) else ():
    os.close(os.open(f"{sys.argv[1]}/{name}", os.O_RDWR))
    print(name)
"""
DENIED = "Operation not permitted"


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(sdbox: Sdbox, paths: list[str], *options: str) -> dict[str, str]:
    done = sdbox.run(*options, "--", PYTHON, "-ISc", OPEN, *paths)
    assert done.status == 0, done.err
    can: dict[str, str] = json.loads(done.out)
    return can


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory where nodes can be opened: many a /tmp is mounted so that they can't."""
    directory = Path(f"/var/tmp/sdbox-test-{tmp_path.name}-{os.getpid()}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def own(place: Path) -> dict[str, str]:
    """Nodes of our own, of devices that every kernel has, by the machine's names for them."""
    numbers = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "odd": ODD}
    places = {}
    for name, (major, minor) in numbers.items():
        places[name] = str(place / name)
        os.mknod(places[name], stat.S_IFCHR | 0o666, os.makedev(major, minor))
    return places


def test_without_a_word_all_can_be_opened(sdbox: Sdbox, own: dict[str, str]) -> None:
    can = opened(sdbox, list(own.values()))
    assert set(can.values()) == {"rw"}
    assert opened(sdbox, [own["odd"]], "-pDevicePolicy=auto") == {own["odd"]: "rw"}


@pytest.mark.parametrize("options", [["-pDevicePolicy=closed"], ["--gpus=none"]], ids=str)
def test_a_closed_box_has_what_is_usual(
    sdbox: Sdbox, own: dict[str, str], options: list[str]
) -> None:
    usual = [f"/dev/{name}" for name in USUAL]
    can = opened(sdbox, [*usual, "/dev/ptmx", own["odd"]], *options)
    assert can == {**dict.fromkeys((*usual, "/dev/ptmx"), "rw"), own["odd"]: ""}


def test_a_device_more(sdbox: Sdbox, own: dict[str, str]) -> None:
    odd, zero = own["odd"], own["zero"]
    options = ("-pDevicePolicy=closed", "-p", "DeviceAllow=/dev/char/60:1 r")
    assert opened(sdbox, [odd, zero], *options) == {odd: "r", zero: "rw"}
    # Rules alone close the box to all else, as with systemd.
    more = opened(sdbox, [odd, zero, "/dev/ptmx"], "-p", "DeviceAllow=/dev/zero r")
    assert more == {odd: "", zero: "rw", "/dev/ptmx": "rw"}
    group = opened(sdbox, [odd, zero], "-p", "DeviceAllow=char-60 w")
    assert group == {odd: "w", zero: "rw"}
    # What is said of one device twice, by whatever names, adds up.
    twice = ("-p", "DeviceAllow=/dev/char/60:1 w", "-p", "DeviceAllow=/dev/char/060:1 r")
    assert opened(sdbox, [odd], *twice) == {odd: "rw"}
    reset = ("-p", "DeviceAllow=/dev/char/60:1", "-p", "DeviceAllow=", "-pDevicePolicy=closed")
    assert opened(sdbox, [odd], *reset) == {odd: ""}


@pytest.mark.parametrize("pids", [[], ["--pid-namespace"]], ids=["", "PrivatePIDs"])
def test_a_strict_box_has_only_what_is_said(
    sdbox: Sdbox, own: dict[str, str], pids: list[str]
) -> None:
    zero, null = own["zero"], own["null"]
    strict = ("-pDevicePolicy=strict", *pids)
    assert opened(sdbox, [zero, null], *strict) == {zero: "", null: ""}
    can = opened(sdbox, [zero, null], *strict, "-p", "DeviceAllow=/dev/zero r")
    assert can == {zero: "r", null: ""}
    can = opened(sdbox, [zero, null, own["odd"]], *strict, "-p", "DeviceAllow=char-mem w")
    assert can == {zero: "w", null: "w", own["odd"]: ""}


def test_a_node_of_its_own_making_helps_nobody(sdbox: Sdbox, place: Path) -> None:
    char, block = stat.S_IFCHR, stat.S_IFBLK
    wanted = json.dumps([("odd", char, *ODD), ("disk", block, 7, 0), ("null", char, 1, 3)])

    def made(name: str, *options: str) -> dict[str, str]:
        own = place / name
        own.mkdir()
        done = sdbox.run(*options, "--", PYTHON, "-ISc", MAKE, str(own), wanted)
        came: dict[str, str] = json.loads(done.out)
        return came

    closed = {"odd": DENIED, "disk": DENIED, "null": ""}
    assert made("closed", "-pDevicePolicy=closed") == closed
    # To open is not to make.
    rules = ("-pDevicePolicy=strict", "-p", "DeviceAllow=char-* rw")
    assert made("strict", *rules) == {"odd": DENIED, "disk": DENIED, "null": DENIED}
    assert made("open")["odd"] == ""


def test_a_terminal_job(sdbox: Sdbox) -> None:
    """It can have a pseudo-terminal, and open what it controls by its own and by its usual name."""
    script = """
import os, pty
pid, fd = pty.fork()
if pid == 0:
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    os.write(os.open("/dev/tty", os.O_RDWR), b"hello")
    os._exit(0)
print(os.read(fd, 100).decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = sdbox.run("-pDevicePolicy=closed", "--", PYTHON, "-ISc", script)
    assert (done.status, done.out) == (0, "hello 0\n")


def test_at_a_terminal(sdbox: Sdbox) -> None:
    """It can open its terminal anew, by both names."""
    leader, follower = pty.openpty()
    script = "echo one >/dev/tty; echo two >$(tty)"
    job = sdbox.new_id()
    process = subprocess.Popen(
        [*sdbox.run_command, f"--id={job}", "-pDevicePolicy=closed", "--", "sh", "-c", script],
        env={**os.environ, MARK: job},
        preexec_fn=lambda: os.login_tty(follower),
        pass_fds=(follower,),
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], SECONDS)[0]:
        with contextlib.suppress(OSError):
            shown += (more := os.read(leader, 4096))
            if more:
                continue
        # Nobody has it open any more.
        break
    os.close(leader)
    assert (process.wait(SECONDS), shown) == (0, b"one\r\ntwo\r\n")


def test_another_users_job(sdbox: Sdbox) -> None:
    can = opened(sdbox, ["/dev/null"], "-pDevicePolicy=closed", "--user=nobody")
    assert can == {"/dev/null": "rw"}


def test_it_is_told_who_keeps_it(sdbox: Sdbox) -> None:
    options = ("-pDevicePolicy=strict", "-p", "DeviceAllow=/dev/null rw")
    running = sdbox.start(*options, "--", "sh", "-c", "echo; read line")
    running.line()
    shown = sdbox.inside("systemctl", "show", running.unit, "-pDevicePolicy", "-pDeviceAllow")
    assert set(shown.out.splitlines()) == {"DevicePolicy=strict", "DeviceAllow=/dev/char/1:3 rw"}
    done = sdbox.run("--gpus=none", "--", "true", report=True)
    assert done.account["enforcement"] == {"GPUs": "kernel"}
    assert done.account["box"] == {"GPUs": "none"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "DeviceAllow=/dev/no-such r"], "DeviceAllow: /dev/no-such: No such file"),
        (["-p", "DeviceAllow=/dev/shm"], "DeviceAllow: /dev/shm: it is no device"),
        (["-p", "DeviceAllow=/dev/char/4096:0"], "DeviceAllow: /dev/char/4096:0: no device can"),
        (["-p", "DeviceAllow=/dev/block/7:1048576"], "DeviceAllow: /dev/block/7:1048576: no dev"),
        (["-p", "DeviceAllow=char-010"], "DeviceAllow: char-010: no such devices"),
        (["-p", "DeviceAllow=char-no-such"], "DeviceAllow: char-no-such: no such devices"),
        (["--gpus=1000"], "GPUs: there is no GPU 1000: this machine has "),
        (["--gpus="], "--gpus: "),
    ],
)
def test_what_is_not_there_starts_nothing(sdbox: Sdbox, options: list[str], message: str) -> None:
    done = sdbox.run(*options, "--", "true")
    assert (done.status, done.out, done.err.count("\n")) == (125, "", 1)
    assert done.err.startswith(f"sdbox: {message}")


class Gpus:
    """A machine of two GPUs, of nodes that stand for some of the kernel's own."""

    def __init__(self, place: Path) -> None:
        self.machine = Machine(dev=str(place), drm=str(place / "drm"), nvidia=str(place / "none"))
        for name, minor in (("nvidia0", 5), ("nvidia1", 9), ("nvidiactl", 7)):
            os.mknod(place / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))

    def rules(self, *gpus: int, allow: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
        return dict(nodes.resolve(allow, GPURequest(gpus=gpus), self.machine))


def test_rules_of_gpus(tmp_path: Path) -> None:
    two = Gpus(tmp_path)
    assert two.rules() == {}
    assert two.rules(0) == {"/dev/char/1:5": "rw", "/dev/char/1:7": "rw"}
    assert two.rules(1) == {"/dev/char/1:9": "rw", "/dev/char/1:7": "rw"}
    # With a device that is asked for besides.
    # A group is each of its numbers, so that systemd has nothing to look up.
    groups = two.rules(allow=(("char-pt[s]", "rw"), ("block-*", "r")))
    assert groups == {"char-136": "rw", "block-*": "r"}
    also = two.rules(0, allow=(("/dev/null", "r"), (str(tmp_path / "nvidia0"), "m")))
    assert also == {"/dev/char/1:3": "r", "/dev/char/1:5": "rwm", "/dev/char/1:7": "rw"}


@pytest.mark.parametrize("rule", ["/dev/char/1:9", "char-mem", "char-*", "char-m?m", "char-1"])
def test_a_rule_that_lets_another_gpu_in_is_refused(tmp_path: Path, rule: str) -> None:
    two = Gpus(tmp_path)
    with pytest.raises(InvalidDirective, match=r"GPUs: 0 is asked for, and DeviceAllow="):
        two.rules(0, allow=((rule, "r"),))
    with pytest.raises(InvalidDirective):
        two.rules(allow=((rule, "r"),))
    assert "/dev/char/1:9" in two.rules(0, 1, allow=((rule, "r"),))


def test_a_symbolic_link_stands_for_its_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    assert nodes.resolve(((str(tmp_path / "link"), "r"),), None) == (("/dev/char/1:3", "r"),)
    with pytest.raises(Unenforceable):
        nodes.resolve(((str(tmp_path), "r"),), None)


@pytest.mark.parametrize("gpus", [(), (0,), (1,), (0, 1)], ids=str)
async def test_a_job_on_some_of_the_gpus(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_id: Callable[[], str],
    unit_type: UnitType,
    gpus: tuple[int, ...],
) -> None:
    """The kernel keeps it from the others, and from nodes of its own that lead to them."""
    two = Gpus(place)
    monkeypatch.setattr(nodes, "resolve", partial(nodes.resolve, machine=two.machine))
    box, said = Box(GPUs=",".join(map(str, gpus)) or "none"), place / "said"
    paths = [str(place / name) for name in ("nvidia0", "nvidia1")]
    # The first stands for /dev/zero, which is in any closed box.
    box = box.merge(Box(DevicePolicy="strict"))
    async with Launcher() as launcher:
        with said.open("wb") as stdout:
            command = [PYTHON, "-ISc", OPEN, *paths]
            options: Options = {"box": box, "id": new_id(), "unit_type": unit_type}
            options["stdout"] = stdout.fileno()
            result = await launcher.run(command, **options)
    assert result.exit_code == 0
    can = json.loads(said.read_text())
    assert list(can.values()) == ["rw" if number in gpus else "" for number in (0, 1)]
    assert result.enforcement["GPUs"] == "kernel"


@pytest.fixture
def below_dev(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a private /dev would not have them; GPUs are looked for there alone."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-test-", dir="/dev"))
    try:
        place.chmod(0o755)
        two = Gpus(place)
        for name in ("resolve", "of_gpus"):
            monkeypatch.setattr(nodes, name, partial(getattr(nodes, name), machine=two.machine))
        yield place
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("gpus", [(), (1,), (0, 1)], ids=str)
async def test_a_private_dev_has_the_gpus_that_are_asked_for(
    place: Path,
    below_dev: Path,
    new_id: Callable[[], str],
    unit_type: UnitType,
    gpus: tuple[int, ...],
) -> None:
    box = Box(GPUs=",".join(map(str, gpus)) or "none", PrivateDevices=True, ProtectSystem="strict")
    said = place / "said"
    async with Launcher() as launcher:
        with said.open("wb") as stdout:
            options: Options = {"box": box, "id": new_id(), "unit_type": unit_type}
            options["stdout"] = stdout.fileno()
            result = await launcher.run([PYTHON, "-ISc", OPEN_ALL, str(below_dev)], **options)
    assert result.exit_code == 0
    own = [f"nvidia{number}" for number in gpus]
    assert said.read_text().split() == [*own, *(["nvidiactl"] if gpus else [])]
