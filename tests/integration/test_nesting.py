"""Boxes inside of a box: the outer one bounds them, freezes them and ends them."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.box import Box
from sdbox.init import wire
from sdbox.init.nest import DIRECTORY, SOCKET
from sdbox.launcher import Launcher
from tests.conftest import CHECKOUT, MARK, SECONDS, processes_with, wait_for_process
from tests.ordinary import need_user_namespaces
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Running, Sdbox

PLACE = "grep -o '/sdbox.slice.*' /proc/self/cgroup"
HOG = "b = bytearray(400 << 20); import time; time.sleep(1000)"


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """What holds for a nestable scope holds for a service."""
    kind: str = request.param
    return kind


def slice_of(job: str) -> str:
    return f"sdbox-{escaped(job)}.slice"


def escaped(job: str) -> str:
    """A dash is a level of slices."""
    return job.replace("-", "\\x2d")


def tree(sdbox: Sdbox, job: str) -> Path:
    return Path(sdbox.endpoint.cgroup_root, "sdbox.slice", slice_of(job))


def inner(sdbox: Sdbox, *words: str) -> list[str]:
    """The words of a call of sdbox itself, inside."""
    return [*sdbox.command, "run", *words]


def loaded(sdbox: Sdbox) -> list[str]:
    """The units of this test's jobs that systemd has."""
    listed = sdbox.inside("systemctl", "list-units", "--all", "--plain", "--no-legend", "sdbox-*")
    words = [line.split()[0] for line in listed.out.splitlines()]
    stems = tuple(f"sdbox-{name}" for job in sdbox.ids for name in (job, escaped(job)))
    return [word for word in words if word.startswith(stems)]


def started_three_deep(sdbox: Sdbox, *options: str) -> Running:
    """A job in a box in a box in a box, which says `up`."""
    deepest = inner(sdbox, "--id=c", "--pid-namespace", "--", "sh", "-c", "echo up; sleep 1000")
    middle = inner(sdbox, "--id=b", "--nestable", "--pid-namespace", "--", *deepest)
    running = sdbox.start("--nestable", "--pid-namespace", *options, "--", *middle)
    assert running.line() == "up"
    return running


def test_three_deep_with_pid_namespaces(sdbox: Sdbox) -> None:
    script = f"echo $$; {PLACE}; exit 7"
    deepest = inner(sdbox, "--id=c", "--pid-namespace", "--", "sh", "-c", script)
    middle = inner(sdbox, "--id=b", "--nestable", "--pid-namespace", "--", *deepest)
    done = sdbox.run("--nestable", "--pid-namespace", "--", *middle, report=True)
    assert (done.status, done.err) == (7, "")
    own = slice_of(done.id)
    assert done.out.splitlines() == [
        "2",
        f"/sdbox.slice/{own}/{own.removesuffix('.slice')}-b.slice/sdbox-{done.id}.b.c.scope",
    ]
    assert done.account["enforcement"]["Nestable"] == "kernel"
    assert loaded(sdbox) == []
    assert not tree(sdbox, done.id).exists()
    # What it was mounted on, for as long as boxes of others are not, too.
    wait_until(lambda: not os.path.exists(DIRECTORY))


def test_the_limits_are_the_slices(sdbox: Sdbox) -> None:
    job = sdbox.start(
        "--nestable", "--wall=1h", "--description=A box", "--", "sh", "-c", "echo; cat"
    )
    job.line()
    own, unit = slice_of(job.id), job.unit
    shown = sdbox.inside("systemctl", "show", "-p", "Slice,Description", unit).out.split("\n")
    assert set(shown) >= {f"Slice={own}", "Description=A box"}
    shown = sdbox.inside("systemctl", "show", "-p", "Slice,ActiveState", own).out.split("\n")
    assert set(shown) >= {"Slice=sdbox.slice", "ActiveState=active"}
    assert job.end().status == 0
    assert loaded(sdbox) == []


def test_the_box_around_is_what_verbs_are_about(sdbox: Sdbox) -> None:
    job = started_three_deep(sdbox)
    deepest = f"{job.id}.b.c"
    events = tree(sdbox, job.id) / "cgroup.events"
    listed = json.loads(sdbox.call("list", "--json", job.id).stdout)
    assert [one["cgroup"] for one in listed] == [f"/sdbox.slice/{slice_of(job.id)}"]
    # Supervisors, inits and payloads of all three.
    assert listed[0]["tasks"] >= 7
    names = {one["job"] for one in json.loads(sdbox.call("list", "--json").stdout)}
    assert names >= {job.id, f"{job.id}.b", deepest}

    assert sdbox.call("freeze", job.id).status == 0
    assert "frozen 1" in events.read_text()
    shown = json.loads(sdbox.call("list", "--json", deepest).stdout)
    assert [(one["state"], one["frozen_by"]) for one in shown] == [
        ("frozen-by-parent", slice_of(job.id))
    ]
    own = json.loads(sdbox.call("list", "--json", job.id).stdout)
    assert [(one["state"], one["frozen_by"]) for one in own] == [("frozen", None)]
    assert sdbox.call("thaw", job.id).status == 0
    assert "frozen 0" in events.read_text()

    assert sdbox.call("freeze", f"{job.id}.b").status == 0
    assert sdbox.call("kill", job.id).status == 0
    assert job.end().status == -signal.SIGKILL
    assert loaded(sdbox) == []


def test_stopping_the_one_around_stops_what_is_frozen_inside(sdbox: Sdbox) -> None:
    job = started_three_deep(sdbox, "--stop-timeout=20")
    assert sdbox.call("freeze", f"{job.id}.b").status == 0
    assert sdbox.call("stop", job.id).status == 0
    job.end()
    assert loaded(sdbox) == []


def test_the_end_of_the_one_around_is_the_end_of_all(sdbox: Sdbox) -> None:
    again = inner(sdbox, "--", "sh", "-c", "echo runs; sleep 1000")
    script = f"setsid {' '.join(map(quoted, again))} & read line; exit 3"
    job = sdbox.start_sh(script, "--nestable")
    assert job.line() == "runs"
    mark = f"{MARK}={job.id}\0".encode()
    assert processes_with([mark])
    job.send(b"\n")
    done = job.end()
    assert done.status == 3
    assert processes_with([mark]) == []
    assert loaded(sdbox) == []


def quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_sigkill_of_any_supervisor_takes_what_is_inside(sdbox: Sdbox, depth: int) -> None:
    job = started_three_deep(sdbox)
    supervisor = [job.pid, *supervisors(sdbox, job)][depth]
    os.kill(supervisor, signal.SIGKILL)
    job.end()
    wait_until(lambda: not tree(sdbox, job.id).exists())
    wait_until(lambda: loaded(sdbox) == [])
    wait_until(lambda: not os.path.exists(DIRECTORY))


def supervisors(sdbox: Sdbox, job: Running) -> list[int]:
    """The supervisors of the boxes inside, from the outside in: each was told of an id."""
    found: dict[bytes, list[int]] = {}
    for group in tree(sdbox, job.id).rglob("cgroup.procs"):
        for pid in map(int, group.read_text().split()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            own = [word for word in words if word.startswith(b"--id=")]
            # A helper, and an init, are forks of it in the same box or another.
            if own and own[0] in (b"--id=b", b"--id=c"):
                found.setdefault(own[0], []).append(pid)
    return [first_of(found[name]) for name in (b"--id=b", b"--id=c")]


def first_of(pids: list[int]) -> int:
    """The one that is none of the others' child."""
    (first,) = [pid for pid in pids if parent(pid) not in pids]
    return first


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.needs_no_controller("memory")
def test_what_counts_is_the_limit_of_the_box_around(sdbox: Sdbox) -> None:
    deepest = inner(sdbox, "--id=c", "--memory=1G", "--", sys.executable, "-c", HOG)
    middle = inner(sdbox, "--id=b", "--nestable", "--memory=2G", "--", *deepest)
    done = sdbox.run("--nestable", "--memory=100M", "--", *middle, report=True)
    assert done.status == -signal.SIGKILL
    account = done.account
    assert account["reason"] == "memory"
    assert account["memory_limit_bytes"] == 100 << 20
    assert account["memory_peak_bytes"] > 100 << 20
    assert "Job has gone over memory limit of 100 megabytes." in account["message"]
    assert loaded(sdbox) == []


@pytest.mark.needs_no_controller("memory")
def test_the_limit_of_a_box_inside_is_its_own(sdbox: Sdbox) -> None:
    deepest = inner(sdbox, "--id=c", "--memory=1G", "--", sys.executable, "-c", HOG)
    words = ["--report=/dev/stdout", "--nestable", "--memory=100M", "--", *deepest]
    middle = " ".join(map(quoted, inner(sdbox, "--id=b", *words)))
    done = sdbox.sh(f"{middle}; echo $?", "--nestable", report=True)
    text, _, status = done.out.strip().rpartition("\n")
    report = json.loads(text)
    assert status == str(128 + signal.SIGKILL)
    assert (report["job"], report["reason"]) == (f"{done.id}.b", "memory")
    assert report["manager"] == "nested"
    assert done.account["reason"] == "exited"


def test_a_job_that_was_killed_from_outside_says_so(sdbox: Sdbox) -> None:
    report = sdbox.directory / "inner.json"
    words = inner(sdbox, "--id=b", f"--report={report}", "--", "sh", "-c", "echo up; sleep 99")
    job = sdbox.start_sh(f"{' '.join(map(quoted, words))}; echo $?", "--nestable")
    job.until("up\n")
    assert sdbox.call("kill", f"{job.id}.b").status == 0
    assert job.end().out.strip() == str(128 + signal.SIGKILL)
    assert json.loads(report.read_text())["reason"] == "killed"


def test_verbs_work_inside_for_what_is_inside(sdbox: Sdbox) -> None:
    me = " ".join(map(quoted, sdbox.command))
    script = f"""
        {me} run --id=x -- sleep 1000 2>/dev/null &
        while ! {me} list --json x | grep -q running; do :; done
        {me} freeze '*.x' && {me} list '*.x' | grep -o frozen && {me} thaw '*.x'
        {me} list --json | grep -c '"job"'
        {me} kill '*.x'; wait; {me} list --json
    """
    script = script.replace("list --json x", "list --json '*.x'")
    done = sdbox.sh(script, "--nestable")
    assert done.out.split() == ["frozen", "1", "[]"], done.err


def test_long_descriptions_do_not_keep_jobs_from_being_listed(sdbox: Sdbox) -> None:
    me = " ".join(map(quoted, sdbox.command))
    start = f"{me} run --description={'é' * 1000} -- sh -c 'echo up; exec sleep 1000' >$up &"
    script = f"""
        up={sdbox.directory}/up; mkfifo $up; exec 3<>$up
        {start} {start} {start} read -r line <&3; read -r line <&3; read -r line <&3
        {me} list --json; {me} kill '*.*'; wait
    """
    done = sdbox.sh(script, "--nestable")
    assert len(json.loads(done.out)) == 3, done.err


def test_inside_of_the_strict_box(sdbox: Sdbox) -> None:
    """Whose jobs have no right to make namespaces: a box without them is to be had."""
    seen = [f"--bind-ro={place}" for place in (CHECKOUT, sys.prefix)]
    words = inner(sdbox, "--", "sh", "-c", f"id -u; {PLACE}")
    done = sdbox.run("--box=strict", *seen, "--nestable", "--", *words)
    assert done.status == 0, done.err
    assert f"/{slice_of(done.id)}/sdbox-{done.id}." in done.out
    denied = inner(sdbox, "--pid-namespace", "--", "true")
    done = sdbox.run("--box=strict", *seen, "--nestable", "--", *denied)
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert "Operation not permitted" in done.err


def test_a_root_directory_inside(sdbox: Sdbox, tmp_path: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "etc", "usr", "bin", "lib", "lib64", "tmp"):
        (tmp_path / "root" / name).mkdir(parents=True)
    seen = [f"--bind-ro={place}" for place in ("/usr", "/bin", "/lib", "/lib64", "/etc")]
    seen += [f"--bind-ro={place}" for place in (CHECKOUT, sys.prefix)]
    # What is bound has its directory made in there.
    outside = "/srv" if str(CHECKOUT).startswith("/root") else "/root"
    words = inner(sdbox, "--pid-namespace", "--", "sh", "-c", f"ls -d {outside} /tmp; {PLACE}")
    root = f"--root={tmp_path / 'root'}"
    done = sdbox.run(root, *seen, "--nestable", "--", *words)
    assert done.out.startswith("/tmp\n"), done.err
    assert f"/{slice_of(done.id)}/sdbox-{done.id}." in done.out


def test_who_is_in_no_nestable_box_is_refused(sdbox: Sdbox) -> None:
    done = sdbox.run("--", *inner(sdbox, "--", "true"))
    assert done.status == 125
    assert done.err.count("\n") == 1
    assert "in a box itself" in done.err
    assert "--nestable" in done.err


def test_a_box_inside_that_is_not_nestable_is_none(sdbox: Sdbox) -> None:
    deepest = inner(sdbox, "--", "true")
    done = sdbox.run("--nestable", "--", *inner(sdbox, "--id=b", "--", *deepest))
    assert done.status == 125
    assert f"in a box itself, sdbox-{done.id}.b.scope" in done.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--service"], "systemd would start it outside"),
        (["--detach"], "systemd would start it outside"),
        (["--slice=other.slice"], "not the slice of the box"),
        (["--cpus=1"], "no others to have"),
        (["--allow-ip=localhost"], "not for a box inside"),
        (["--manager=system"], "Leave out --manager"),
        (["--manager=embedded"], "Leave out --manager"),
    ],
)
def test_what_a_box_inside_can_not_have(sdbox: Sdbox, options: list[str], text: str) -> None:
    done = sdbox.run("--nestable", "--", *inner(sdbox, *options, "--", "echo", "ran"))
    assert (done.status, done.out) == (125, "")
    assert text in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "nodes"),
    [(["-pDevicePolicy=closed"], "full"), (["-pDevicePolicy=strict"], ""), ([], "full loop-like")],
    ids=str,
)
def test_devices_are_the_outer_boxes(sdbox: Sdbox, options: list[str], nodes: str) -> None:
    """And one inside has no others: of the two, one has no driver (see test_devices)."""
    place = Path(f"/var/tmp/sdbox-test-nodes-{os.getpid()}")
    place.mkdir()
    try:
        os.mknod(place / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
        os.mknod(place / "loop-like", stat.S_IFCHR | 0o666, os.makedev(60, 1))
        script = f"""
for node in full loop-like; do
    case $(head -c0 {place}/$node 2>&1) in *permitted*) ;; *) echo $node; esac
done"""
        words = inner(sdbox, "--", "sh", "-c", script)
        done = sdbox.run("--nestable", *options, "--", *words)
    finally:
        shutil.rmtree(place)
    assert (done.status, done.out.split()) == (0, nodes.split()), done.err


def test_an_id_is_taken_once(sdbox: Sdbox) -> None:
    again = " ".join(map(quoted, inner(sdbox, "--id=b", "--", "true")))
    job = inner(sdbox, "--id=b", "--", "sh", "-c", "echo up; sleep 1000")
    script = f"{' '.join(map(quoted, job))} & read go; {again}; echo $?"
    running = sdbox.start_sh(script, "--nestable")
    assert running.line() == "up"
    running.send(b"\n")
    done = running.end()
    assert done.out.strip() == "125"
    assert "Choose another id" in done.err


def test_another_user_inside(sdbox: Sdbox) -> None:
    place = "/tmp" if os.access("/tmp", os.X_OK) else "/"
    words = inner(sdbox, "--", "sh", "-c", f"id -u; {PLACE}")
    done = sdbox.run("--nestable", "--user=nobody", "--", *words, cwd=place)
    if "No module named" in done.err or "Permission denied" in done.err:
        pytest.skip("nobody can't read this sdbox")
    uid, where = done.out.split()
    assert uid == "65534"
    assert where.startswith(f"/sdbox.slice/{slice_of(done.id)}/sdbox-{done.id}.")


def test_another_users_boxes_inside(sdbox: Sdbox) -> None:
    need_user_namespaces()
    place = "/tmp" if os.access("/tmp", os.X_OK) else "/"
    words = inner(sdbox, "--id=b", "--nestable", "--", *inner(sdbox, "--id=c", "--", "id", "-u"))
    done = sdbox.run("--nestable", "--user=nobody", "--", *words, cwd=place)
    if "No module named" in done.err or "Permission denied" in done.err:
        pytest.skip("nobody can't read this sdbox")
    assert (done.out, done.err) == ("65534\n", "")


def test_other_programs_of_the_api_work_inside(sdbox: Sdbox) -> None:
    script = """
        import asyncio, sys, sdbox
        async def main():
            async with sdbox.Launcher() as launcher:
                jobs = [launcher.run(["sh", "-c", f"exit {n}"]) for n in range(12)]
                return [result.exit_code for result in await asyncio.gather(*jobs)]
        print(asyncio.run(main()))
    """
    program = "\n".join(line[8:] for line in script.splitlines())
    path = [place for place in sys.path if place]
    done = sdbox.run(
        "--nestable", "--", sys.executable, "-c", f"import sys; sys.path += {path!r}\n{program}"
    )
    assert done.out == f"{list(range(12))}\n", done.err


async def test_a_program_has_nestable_jobs(sdbox: Sdbox, new_id: Callable[[], str]) -> None:
    async with Launcher() as launcher:
        box, words = Box(Nestable=True), inner(sdbox, "--", "sh", "-c", "exit 7")
        kind: Any = sdbox.unit_type
        ids = [new_id() for _ in range(4)]
        sdbox.ids += ids
        jobs = [launcher.run(words, box=box, id=job, unit_type=kind) for job in ids]
        assert [result.exit_code for result in await asyncio.gather(*jobs)] == [7] * 4
    assert loaded(sdbox) == []


def test_properties_of_its_unit_and_of_its_slice_change(sdbox: Sdbox) -> None:
    job = sdbox.start("--nestable", "--", "sh", "-c", "echo; cat")
    job.line()
    assert sdbox.call("set-property", job.id, "Description=Second try").status == 0
    shown = sdbox.inside("systemctl", "show", "--value", "-p", "Description", job.unit)
    assert shown.out == "Second try\n"
    assert job.end().status == 0


def test_killed_while_it_is_frozen_nothing_runs_on(sdbox: Sdbox) -> None:
    job = started_three_deep(sdbox)
    members = [
        int(pid)
        for group in tree(sdbox, job.id).rglob("cgroup.procs")
        for pid in group.read_text().split()
    ]
    assert sdbox.call("freeze", job.id).status == 0
    job.process.kill()
    job.end()
    assert all(wait_for_process(pid, SECONDS) for pid in members)
    # systemd since 256 does not stop a slice that is frozen, though it is empty.
    sdbox.inside("systemctl", "thaw", slice_of(job.id))
    wait_until(lambda: loaded(sdbox) == [])


# What a payload might send instead of what sdbox does. Each is an answer, an error or the end.
KNOCKS = """
import json, os, socket, sys
sys.path += {path!r}
from sdbox.init import wire

def said(*fields, fds=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.connect({socket!r})
        try:
            wire.send(sock, *fields, fds=fds)
            answer, got = wire.receive(sock)
        except OSError as error:
            return "hung up"
        if not answer:
            return "hung up"
        return json.loads(answer[1]).get("error", "done")

def asked(verb, *arguments, fds=()):
    return said(1, verb, json.dumps(arguments), fds=fds)

outer, own = {job!r}, {own!r}
unit = f"sdbox-{{outer}}.x.scope"
place = [["Slice", own]]
me, init = os.pidfd_open(os.getpid()), os.pidfd_open(os.getppid())
print(json.dumps({{
    "foreign unit": asked("stop", {foreign!r}, None),
    "outer itself": asked("destroy", f"sdbox-{{outer}}.scope", None),
    "outer slice": asked("kill", own, 9, None),
    "foreign start": asked("start", {foreign!r}, place, None, fds=(me,)),
    "foreign slice": asked("start", unit, [["Slice", "sdbox.slice"]], None, fds=(me,)),
    "foreign property": asked("start", unit, [*place, ["Delegate", True]], None, fds=(me,)),
    "no process": asked("start", unit, place, None),
    "two processes": asked("start", unit, place, None, fds=(me, me)),
    "no process descriptor": asked("start", unit, place, None, fds=(0,)),
    "init": asked("start", unit, place, None, fds=(init,)),
    "no verb": asked("reboot"),
    "own method": asked("_serve"),
    "no json": said(1, "list", "["),
    "deep json": said(1, "list", "[" * 9000),
    "fewer words": said(1, "list"),
    "nothing known": asked("thaw", unit, None),
    "manager's own": asked("property", unit, "Manager", "Version"),
    "hello": asked("hello"),
}}))
"""


def test_what_a_payload_might_ask_for_instead(sdbox: Sdbox) -> None:
    victim = sdbox.start("--", "sh", "-c", "echo up; cat")
    victim.line()
    job = sdbox.new_id()
    knocks = KNOCKS.format(
        path=[place for place in sys.path if place],
        socket=SOCKET,
        job=job,
        own=slice_of(job),
        foreign=victim.unit.replace(".service", ".scope"),
    )
    done = sdbox.call(
        "run", f"--id={job}", "--nestable", *sdbox.options, "--", sys.executable, "-c", knocks
    )
    answers = json.loads(done.out)
    assert answers.pop("hello") == "done", done.err
    hung_up = {name for name, answer in answers.items() if answer == "hung up"}
    assert hung_up == {"two processes", "no process descriptor", "fewer words"}
    refused = {name: answer for name, answer in answers.items() if name not in hung_up}
    assert set(refused.values()) <= {"ManagerRefused", "InvalidDirective"}, refused
    victim.send(b"still there\n")
    assert victim.line() == "still there"
    assert victim.end().status == 0


# Root has a box in the box; another user asks for a place in that, and for one of his own.
TRESPASS = """
import json, os, socket, subprocess, sys
sys.path += {path!r}
from sdbox.init import wire

roots = subprocess.Popen({roots!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert roots.stdout.readline() == b"up\\n"
os.setgroups([]), os.setgid(65534), os.setuid(65534)

def asked(name, slice):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.connect({socket!r})
        given = [f"sdbox-{job}.{{name}}.scope", [["Slice", slice]], None]
        child = subprocess.Popen(["sleep", "1000"])
        wire.send(sock, 1, "start", json.dumps(given), fds=(os.pidfd_open(child.pid),))
        return json.loads(wire.receive(sock)[0][1]).get("error", "done")

print(asked("x", {inner!r}), asked("y", {own!r}))
"""


def test_nobody_has_a_place_in_the_box_of_another_user(sdbox: Sdbox) -> None:
    job = sdbox.new_id()
    roots = inner(sdbox, "--id=b", "--nestable", "--", "sh", "-c", "echo up; cat")
    trespass = TRESPASS.format(
        path=[place for place in sys.path if place],
        socket=SOCKET,
        job=job,
        roots=roots,
        own=slice_of(job),
        inner=slice_of(job).replace(".slice", "-b.slice"),
    )
    words = [f"--id={job}", "--nestable", *sdbox.options, "--", sys.executable, "-c", trespass]
    done = sdbox.call("run", *words)
    assert done.out.split() == ["ManagerRefused", "done"], done.err


# As many connections as are to be had, each with as many requests that wait and descriptors.
FLOOD = """
import json, os, socket, sys
sys.path += {path!r}
from sdbox.init import wire

def door():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(30)
    sock.connect({socket!r})
    return sock

def asks(sock, verb, *arguments, fds=()):
    try:
        wire.send(sock, 1, verb, json.dumps(arguments), fds=fds)
    except OSError:
        pass

child = os.fork()
if child == 0:
    os.execvp("sleep", ["sleep", "1000"])
process = os.pidfd_open(child)
unit, place = "sdbox-{job}.x.scope", [["Slice", {own!r}]]
first = door()
asks(first, "start", unit, place, None, fds=(process,))
assert b"value" in wire.receive(first)[0][1]
waiting = [door() for _ in range(3)]
for sock in waiting:
    for _ in range(50):
        asks(sock, "removed", unit, 1e6)
        asks(sock, "freeze", unit, 1e6)
socks = []
for n in range(400):
    try:
        socks.append(door())
    except OSError:
        break
for sock in socks:
    for _ in range(50):
        asks(sock, "start", unit, place, None, fds=(process,))
print("flooded", flush=True)
sys.stdin.readline()
"""


def test_a_flood_of_requests_does_not_keep_a_supervisor_from_its_work(sdbox: Sdbox) -> None:
    job, most = sdbox.new_id(), 256
    flood = FLOOD.format(
        path=[place for place in sys.path if place], socket=SOCKET, job=job, own=slice_of(job)
    )
    words = [f"--id={job}", "--nestable", "--", sys.executable, "-c", flood]

    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    running = sdbox.start(*words, preexec_fn=few_descriptors)
    assert running.line() == "flooded"
    assert len(os.listdir(f"/proc/{running.pid}/fd")) < most // 2
    assert sdbox.call("kill", job).status == 0
    done = running.end()
    assert (done.status, done.err) == (-signal.SIGKILL, "sdbox: Job was killed.\n")


# To close these takes as long as who has sent them likes.
LINGERING = """
import array, json, os, socket, struct, sys
sys.path += {path!r}
from sdbox.init import wire

server, kept = socket.create_server(("127.0.0.1", 0)), []

def lingering():
    sock = socket.create_connection(server.getsockname())
    kept.append(server.accept()[0])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1 << 16))
    except BlockingIOError:
        return sock

def door():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout({seconds})
    sock.connect({socket!r})
    return sock

def sent(sock, *fields, others=()):
    with lingering() as last:
        wire.send(sock, *fields, fds=(*others, last.fileno()))

me = os.pidfd_open(os.getpid())
sys.stdin.readline()
visitors = [door() for _ in range(5)]
sent(visitors[0], 1, "start", "[]")
sent(visitors[1], 1, "start", "[]", others=(me,))
sent(visitors[2], 1, "start", "[]", others=(me,) * 40)
wire.send(visitors[3], "no request")
sent(visitors[3], 1, "start", "[]")
sent(visitors[4], 1, "start", "[]")
visitors[4].close()
asking = door()
wire.send(asking, 1, "hello", "[]")
print("sent", flush=True)
try:
    print("value" in json.loads(wire.receive(asking)[0][1]), flush=True)
except TimeoutError:
    print("no answer", flush=True)
sys.stdin.readline()
"""


def test_what_is_not_to_be_closed_does_not_keep_a_supervisor_from_its_work(sdbox: Sdbox) -> None:
    path = [place for place in sys.path if place]
    script = LINGERING.format(path=path, socket=SOCKET, seconds=SECONDS / 2)
    job = sdbox.start("--nestable", "--", sys.executable, "-c", "print()\n" + script)
    job.line()
    # It finds all at once.
    job.signal(signal.SIGSTOP)
    job.send(b"\n")
    assert job.line() == "sent"
    job.signal(signal.SIGCONT)
    assert job.line() == "True"
    assert sdbox.call("kill", job.id).status == 0
    assert job.end().status == -signal.SIGKILL


def test_a_process_from_outside_is_not_let_in(sdbox: Sdbox, tmp_path: Path) -> None:
    """Who has the socket by way of /proc, as root outside has it, is not in the box's unit."""
    job = sdbox.start("--nestable", "--", "sh", "-c", "echo $$; cat")
    job.line()
    members = [
        int(p) for p in (tree(sdbox, job.id) / job.unit / "cgroup.procs").read_text().split()
    ]
    path = f"/proc/{members[-1]}/root{SOCKET}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(SECONDS)
        sock.connect(path)
        assert hung_up_on(sock)
    assert job.end().status == 0


def hung_up_on(sock: socket.socket) -> bool:
    try:
        wire.send(sock, 1, "hello", "[]")
        return wire.receive(sock)[0] == []
    except OSError:
        return True


def test_a_detached_box_is_nestable(sdbox: Sdbox) -> None:
    job = sdbox.new_id()
    output = sdbox.directory / "output"
    words = inner(sdbox, "--id=b", "--", "sh", "-c", PLACE)
    options = ["--detach", f"--id={job}", "--nestable", f"--output={output}"]
    sdbox.ids[-1] = job
    assert sdbox.call("run", *options, "--", *words).status == 0
    assert sdbox.call("wait", job).status in (0, 4)
    own = slice_of(job)
    wait_until(lambda: not tree(sdbox, job).exists())
    assert output.read_text().strip() == f"/sdbox.slice/{own}/sdbox-{job}.b.scope"
