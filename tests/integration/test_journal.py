"""What the journal has of a job: sdbox's own entries and the job's output, really written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox import loop
from sdbox.box import Box
from sdbox.errors import SdboxError
from sdbox.host.facts import host_of
from sdbox.journal import events
from sdbox.journal.events import EVENTS
from sdbox.journal.output import Outlets, opened_through, parse
from sdbox.journal.writer import Journal
from sdbox.launch.beginning import begin
from sdbox.launch.dialler import Dialler, connect
from sdbox.launch.execution import execute
from sdbox.launch.helper import Helper
from sdbox.launch.planning import caller, plan_for
from sdbox.launcher import Launcher
from sdbox.systemd.endpoint import JOURNAL, SYSTEM_BUS, Endpoint
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from sdbox.job import Job
    from sdbox.launch.placing import Connection
    from tests.conftest import Sdbox
    from tests.integration.conftest import Inside, Site

    Entry = dict[str, Any]
    Runner = Callable[[Coroutine[Any, Any, None]], None]

SECONDS = seconds(30)
MIB = 1 << 20
CHECKOUT = Path(__file__).parent.parent.parent

both_unit_types = pytest.mark.parametrize("unit_type", ["scope", "service"])

IDS = {event.id: event.name for event in EVENTS.values()}
FINISHED = EVENTS["finished"].id
# syslog(3)
ERR, WARNING, INFO = "3", "4", "6"

# The command with another place for the journal's sockets: one where there is no journal.
WITHOUT_JOURNAL = """
import sys; sys.path.insert(0, sys.argv.pop(1))
from sdbox.systemd import endpoint; endpoint.JOURNAL = sys.argv.pop(1)
from sdbox.cli import main; sys.exit(main())
"""


def entries(sdbox: Sdbox, unit: str, *options: str) -> list[Entry]:
    """What `journalctl --unit` has of a unit, without systemd's own entries, oldest first."""
    assert sdbox.inside("journalctl", "--sync").status == 0
    done = sdbox.inside("journalctl", "--unit", unit, "--output=json", "--all", *options)
    assert done.status == 0, done.err
    lines = (json.loads(line) for line in done.out.splitlines())
    return [entry for entry in lines if entry.get("SYSLOG_IDENTIFIER") != "systemd"]


def told(entry: Entry) -> str:
    """An entry in one word: the event, or the line."""
    return str(IDS.get(entry.get("MESSAGE_ID", ""), entry["MESSAGE"]))


def report_of(entry: Entry) -> dict[str, float]:
    """The figures of an entry, by the report's names and in its units."""
    there = {name: float(entry[field]) for name, field in events.FIGURES.items() if field in entry}
    return {n: v / 1e6 if events.FIGURES[n].endswith("_USEC") else v for n, v in there.items()}


def figures_of(account: dict[str, Any]) -> dict[str, Any]:
    return {name: account[name] for name in events.FIGURES if account[name] is not None}


@both_unit_types
def test_a_job_from_its_start_to_its_end(sdbox: Sdbox) -> None:
    script = "echo out; echo err >&2; while :; do :; done"
    # Init takes some of it before the payload begins.
    limit_usec = round(seconds(300_000))
    options = (f"--cpu-time={limit_usec}us", "--output=journal", "--env=TOKEN=hush")
    done = sdbox.sh(script, *options, report=True)
    assert done.stdout == b""
    written = entries(sdbox, sdbox.unit(done.id))
    assert [told(entry) for entry in written] == [
        "job-started", "out", "err", "limit-passed", "finished",
    ]  # fmt: skip
    assert {entry.get("SDBOX_JOB", done.id) for entry in written} == {done.id}
    start, out, err, limit, end = written
    assert start["SDBOX_COMMAND"] == f"sh -c {script}"
    assert "CPUTimeMaxSec=" in " ".join(start["SDBOX_DIRECTIVE"])
    assert "hush" not in str(start["SDBOX_DIRECTIVE"])
    assert "CPUTimeMaxSec=watch" in start["SDBOX_ENFORCEMENT"]
    assert [entry["PRIORITY"] for entry in (out, err)] == [INFO, ERR]
    assert {entry["SYSLOG_IDENTIFIER"] for entry in (out, err)} == {"sh"}
    assert limit["SDBOX_REASON"] == end["SDBOX_REASON"] == done.account["reason"] == "cpu-time"
    assert int(limit["SDBOX_CPU_USEC"]) >= limit_usec
    assert done.account["message"] in end["MESSAGE"]


def test_the_end_has_the_figures_of_the_report(sdbox: Sdbox) -> None:
    done = sdbox.sh("exit 7", "--memory=64M", report=True)
    end = entries(sdbox, sdbox.unit(done.id))[-1]
    assert done.status == 7
    assert told(end) == "finished"
    assert figures_of(done.account) == pytest.approx(report_of(end), abs=1e-6)
    assert report_of(end)["exit_code"] == 7
    assert report_of(end)["memory_limit_bytes"] == 64 * MIB


def test_entries_of_sdbox_are_vouched_for_and_from_outside_of_the_unit(sdbox: Sdbox) -> None:
    done = sdbox.sh("echo mine", "--output=journal")
    written = entries(sdbox, sdbox.unit(done.id))
    assert len(written) == 3
    for entry in written:
        ours = entry["SYSLOG_IDENTIFIER"] == "sdbox"
        assert (entry.get("_SYSTEMD_UNIT") == sdbox.unit(done.id)) is not ours
        assert entry["_UID"] == "0"


def test_jobs_are_told_of_without_being_asked_for(sdbox: Sdbox) -> None:
    done = sdbox.sh("echo out; kill -9 $$", report=True)
    assert done.out == "out\n"
    start, end = entries(sdbox, sdbox.unit(done.id))
    assert (told(start), told(end)) == ("job-started", "finished")
    assert end["SDBOX_SIGNAL"] == str(int(signal.SIGKILL))
    assert "SDBOX_EXIT_CODE" not in end


def test_a_launch_that_fails_at_its_end_is_told_of(sdbox: Sdbox) -> None:
    done = sdbox.run("--", "/nonexistent")
    assert done.status == 127
    start, end = entries(sdbox, sdbox.unit(done.id))
    assert (told(start), told(end)) == ("job-started", "finished")
    assert end["SDBOX_REASON"] == "launch-failed"
    assert "/nonexistent" in end["MESSAGE"]


def test_every_writer_is_shown_however_short_its_life(sdbox: Sdbox) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9 10; do /bin/echo $n; done"
    done = sdbox.sh(script, "--output=journal")
    lines = [told(entry) for entry in entries(sdbox, sdbox.unit(done.id))]
    assert lines == ["job-started", *map(str, range(1, 11)), "finished"]


@both_unit_types
def test_all_of_a_long_output_comes_before_the_end(sdbox: Sdbox) -> None:
    line = "x" * 150
    script = f"for i in 1 2 3 4; do yes {line} | head -n 1000; done; printf unfinished"
    done = sdbox.sh(script, "--output=journal")
    lines = [told(entry) for entry in entries(sdbox, sdbox.unit(done.id))]
    assert lines == ["job-started", *[line] * 4000, "unfinished", "finished"]


def test_a_line_may_begin_with_its_priority(sdbox: Sdbox) -> None:
    done = sdbox.sh("echo '<4>careful'", "--output=journal")
    (entry,) = entries(sdbox, sdbox.unit(done.id), "--identifier=sh")
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("careful", WARNING)


def test_output_of_another_user_and_in_a_private_pid_namespace(sdbox: Sdbox) -> None:
    done = sdbox.sh("id -un", "--output=journal", "--user=nobody", "--pid-namespace")
    (entry,) = entries(sdbox, sdbox.unit(done.id), "--identifier=sh")
    assert (entry["MESSAGE"], entry["_UID"]) == ("nobody", "65534")


@pytest.mark.needs_controller("memory")
def test_a_limit_that_the_kernel_keeps_is_told_of(sdbox: Sdbox) -> None:
    hog = "b = bytearray(300 << 20)"
    done = sdbox.run("--memory=64M", "--", sys.executable, "-c", hog, report=True)
    written = entries(sdbox, sdbox.unit(done.id))
    assert [told(entry) for entry in written] == ["job-started", "limit-passed", "finished"]
    assert [entry.get("SDBOX_REASON") for entry in written[1:]] == ["memory", "memory"]
    assert int(written[1]["SDBOX_MEMORY_PEAK"]) == done.account["memory_peak_bytes"]


def test_a_limit_that_the_manager_keeps_is_told_of(sdbox: Sdbox) -> None:
    done = sdbox.run("--wall=300ms", "--", "sleep", "60")
    written = entries(sdbox, sdbox.unit(done.id))
    assert [told(entry) for entry in written] == ["job-started", "limit-passed", "finished"]
    assert [entry.get("SDBOX_REASON") for entry in written[1:]] == ["wall-time", "wall-time"]


# --- output to files ------------------------------------------------------------------------------


def test_output_to_a_file_that_is_emptied(sdbox: Sdbox, tmp_path: Path) -> None:
    place = tmp_path / "out.log"
    place.write_text("what was there before, and is longer than what comes\n")
    done = sdbox.sh("echo out; echo err >&2", "--output=out.log", cwd=tmp_path)
    assert done.stdout == b""
    assert place.read_text() == "out\nerr\n"


def test_output_in_the_words_of_systemd(sdbox: Sdbox, tmp_path: Path) -> None:
    place = tmp_path / "out.log"
    place.write_text("0123456789\n")
    sdbox.sh("echo more", f"--output=append:{place}")
    assert place.read_text() == "0123456789\nmore\n"
    sdbox.sh("echo less", f"--output=file:{place}")
    assert place.read_text() == "less\n56789\nmore\n"
    sdbox.sh("echo new", f"--output=truncate:{place}")
    assert place.read_text() == "new\n"


def test_no_output(sdbox: Sdbox) -> None:
    done = sdbox.sh("readlink /proc/self/fd/1; echo err >&2", "--output=null")
    assert (done.status, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("place", ["/nonexistent/out.log", "/", "append:", ""])
def test_a_place_that_takes_no_output_refuses_the_launch(
    sdbox: Sdbox, tmp_path: Path, place: str
) -> None:
    ran = tmp_path / "ran"
    done = sdbox.run(f"--output={place}", "--", "touch", str(ran))
    assert done.status == 125
    assert done.err.startswith("sdbox: --output: ")
    assert done.err.count("\n") == 1
    assert not ran.exists()


# --- the API --------------------------------------------------------------------------------------


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    async with Launcher() as launcher:
        yield launcher


async def test_output_of_the_api(
    sdbox: Sdbox, launcher: Launcher, new_id: Callable[[], str], tmp_path: Path
) -> None:
    job, place = new_id(), tmp_path / "out"
    await launcher.run(["echo", "to a file"], id=job, output=f"append:{place}")
    assert place.read_text() == "to a file\n"
    job = new_id()
    await launcher.run(["echo", "to the journal"], id=job, output="journal")
    lines = [told(entry) for entry in entries(sdbox, f"sdbox-{job}.scope")]
    assert lines == ["job-started", "to the journal", "finished"]
    with pytest.raises(SdboxError, match="no place for output"):
        await launcher.start(["true"], output="append:")


async def test_a_job_that_is_killed(
    sdbox: Sdbox, launcher: Launcher, new_id: Callable[[], str]
) -> None:
    job = await launcher.start(["sleep", "60"], id=new_id(), box=Box(MemoryMax="1G"))
    await job.kill()
    assert (await job.wait()).reason == "killed"
    written = entries(sdbox, job.unit)
    assert [told(entry) for entry in written] == ["job-started", "killed", "finished"]


@both_unit_types
def test_what_others_do_to_a_job(sdbox: Sdbox) -> None:
    running = sdbox.start_sh("echo ready; exec sleep 600")
    assert running.line() == "ready"
    for verb in ("freeze", "freeze", "thaw", "freeze", "kill"):
        assert sdbox.call(verb, running.id).status == 0
    assert running.end().status == -signal.SIGKILL
    asked = [told(entry) for entry in entries(sdbox, running.unit)]
    assert asked == ["job-started", "frozen", "thawed", "frozen", "killed", "finished"]


async def test_many_jobs_at_once(
    sdbox: Sdbox, launcher: Launcher, new_id: Callable[[], str]
) -> None:
    ids = [new_id() for _ in range(40)]
    await asyncio.gather(*(launcher.run(["true"], id=job) for job in ids))
    for job in ids[::8]:
        lines = [told(entry) for entry in entries(sdbox, f"sdbox-{job}.scope")]
        assert lines == ["job-started", "finished"]
    assert sdbox.inside("journalctl", "--sync").status == 0
    ended = sdbox.inside(
        "journalctl", "--output=cat", "--output-fields=SDBOX_JOB", f"MESSAGE_ID={FINISHED}"
    )
    assert set(ids) <= set(ended.out.split())


# --- where there is no journal, or a busy one -----------------------------------------------------


def without_journal(sdbox: Sdbox, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    job = sdbox.new_id()
    packages = CHECKOUT if len(sdbox.command) > 1 else Path(events.__file__).parent.parent
    start = [sys.executable, "-I", "-c", WITHOUT_JOURNAL, str(packages), "/nonexistent/journal"]
    return subprocess.run(
        [*start, "run", f"--id={job}", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def test_a_job_runs_without_a_journal(sdbox: Sdbox, tmp_path: Path) -> None:
    done = without_journal(sdbox, tmp_path, "--", "sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "")


def test_output_to_a_journal_that_is_not_there_refuses_the_launch(
    sdbox: Sdbox, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    done = without_journal(sdbox, tmp_path, "--output=journal", "--", "touch", str(ran))
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "the journal can't be reached" in done.stderr
    assert "give --output a file" in done.stderr
    assert not ran.exists()


@contextlib.contextmanager
def listener(directory: Path) -> Iterator[socket.socket]:
    """A socket in the journal's place, which is read when the test says so."""
    place = directory / "socket"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(place))
        sock.settimeout(SECONDS)
        yield sock


# Both of the event loops that there are.
@pytest.fixture(params=[asyncio.run, loop.run], ids=["asyncio", "small"])
def run(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.param
    return runner


def entry_number(number: int) -> list[tuple[str, str | bytes]]:
    return [("MESSAGE", f"entry {number}"), ("PAD", "x" * 500)]


def test_entries_wait_for_a_busy_journal_in_their_order(tmp_path: Path, run: Runner) -> None:
    count = 3000

    async def write(sock: socket.socket) -> None:
        journal = Journal(str(tmp_path))
        for number in range(count):
            journal.send(entry_number(number))
        taken = 0
        # Nobody has read until now.
        while taken < count:
            assert select.select([sock], [], [], SECONDS)[0]
            while select.select([sock], [], [], 0)[0]:
                assert sock.recv(4096).startswith(b"MESSAGE=entry %d\n" % taken)
                taken += 1
            await loop.turn()
        assert await journal.received()
        await journal.close()

    with listener(tmp_path) as sock:
        run(write(sock))


def test_many_may_wait_for_a_busy_journal(tmp_path: Path, run: Runner) -> None:
    async def write(sock: socket.socket) -> None:
        journal = Journal(str(tmp_path))
        for number in range(400):
            journal.send(entry_number(number))
        waiters = [loop.running().create_task(journal.received()) for _ in range(3)]
        # One that gives up leaves the others their wait.
        impatient = loop.running().create_task(journal.received())
        await loop.turn()
        impatient.cancel()
        taken = 0
        while taken < 400:
            while select.select([sock], [], [], 0)[0]:
                sock.recv(4096)
                taken += 1
            await loop.turn()
        assert await loop.gather(*waiters) == [True, True, True]
        await journal.close()

    with listener(tmp_path) as sock:
        run(write(sock))


def test_a_journal_that_hangs_holds_nobody_up(tmp_path: Path, run: Runner) -> None:
    async def write() -> None:
        journal = Journal(str(tmp_path))
        # More than may wait.
        for number in range(5000):
            journal.send(entry_number(number))
        assert not await journal.received()
        started = time.monotonic()
        await journal.close()
        assert time.monotonic() - started < seconds(5)

    with listener(tmp_path):
        run(write())


def test_a_journal_that_is_made_anew_is_found_again(tmp_path: Path, run: Runner) -> None:
    async def write() -> None:
        journal = Journal(str(tmp_path))
        journal.send(entry_number(0))
        for number in (1, 2):
            with listener(tmp_path) as sock:
                journal.send(entry_number(number))
                assert sock.recv(4096).startswith(b"MESSAGE=entry %d\n" % number)
            journal.send(entry_number(0))
        await journal.close()

    run(write())


def test_a_large_entry_goes_in_memory_that_is_sealed(tmp_path: Path, run: Runner) -> None:
    text = "long " * MIB

    async def write() -> None:
        journal = Journal(str(tmp_path))
        journal.send([("MESSAGE", text)])
        await journal.close()

    with listener(tmp_path) as sock:
        run(write())
        data, fds, _, _ = socket.recv_fds(sock, 4096, 2)
        assert data == b""
        (fd,) = fds
        with open(fd, "rb"):
            assert os.pread(fd, 8 * MIB, 0) == f"MESSAGE={text}\n".encode()
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)


# --- the real journal -----------------------------------------------------------------------------


@pytest.fixture
def directory(site: Site) -> str:
    return JOURNAL if site.pid is None else f"/proc/{site.pid}/root{JOURNAL}"


def journalctl(site: Site, *options: str) -> str:
    command = [*site.enter("--mount", "--pid"), "journalctl", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=SECONDS
    ).stdout


@pytest.mark.parametrize("length", [10, 2 * MIB])
def test_an_entry_arrives_whole(
    site: Site, directory: str, spawn: Callable[..., Inside], run: Runner, length: int
) -> None:
    text = os.urandom(length // 2).hex() + "\nand a second line"
    unit = f"sdbox-whole-{length}-{os.urandom(4).hex()}.scope"
    process = spawn()

    async def write() -> None:
        journal = Journal(directory, None if site.pid is None else process.pid)
        journal.send([*events.frozen("j", unit, "system"), ("SDBOX_TEXT", text)])
        assert await journal.received()
        await journal.close()

    run(write())
    journalctl(site, "--sync")
    (entry,) = map(json.loads, journalctl(site, "-u", unit, "-o", "json", "--all").splitlines())
    assert entry["SDBOX_TEXT"] == text
    assert entry["_UID"] == "0"


def systemctl(site: Site, *words: str) -> None:
    command = [*site.enter("--mount", "--pid"), "systemctl", *words]
    subprocess.run(command, check=True, timeout=SECONDS)


@pytest.fixture
async def connection(site: Site, directory: str) -> AsyncIterator[Connection]:
    """A connection to the manager of these tests alone, whose journal may be ill-treated."""
    assert site.pid is not None
    endpoint = Endpoint(
        kind="embedded",
        bus_socket=f"/proc/{site.pid}/root{SYSTEM_BUS}",
        cgroup_root=site.cgroup_root,
        journal=directory,
        pid_namespace=os.pidfd_open(site.pid),
        launch_cgroup=site.launch_cgroup,
    )
    helper = Helper.spawn(pid_namespace=endpoint.pid_namespace, cgroup=endpoint.launch_cgroup)
    helper.attach()
    connection = await connect(Dialler(endpoint, helper))
    yield connection
    await connection.close()
    endpoint.close()


async def start(connection: Connection, job: str, where: str, *command: str, stdin: int = 0) -> Job:
    """Start a job, as a Launcher does."""
    plan = plan_for(host_of(connection.endpoint), command, Box(), job=job, caller=caller())
    journal, inherited = connection.endpoint.journal, Outlets(stdout=1, stderr=2)
    outlets = await opened_through(connection.helper, parse(where), journal, plan, inherited)
    streams = (stdin, outlets.stdout, outlets.stderr)
    launch = begin(connection.helper, plan, streams, to_journal=outlets.to_journal)
    return await execute(connection, launch)


def lines_of(site: Site, job: str) -> list[str]:
    journalctl(site, "--sync")
    shown = journalctl(site, "-u", f"sdbox-{job}.scope", "-o", "json", "--all")
    return [
        told(e)
        for e in map(json.loads, shown.splitlines())
        if e.get("SYSLOG_IDENTIFIER") != "systemd"
    ]


@pytest.mark.needs_embedded
@pytest.mark.parametrize("where", ["null", "journal"])
async def test_a_journal_that_stops_holds_no_job_up(
    site: Site, connection: Connection, new_id: Callable[[], str], where: str
) -> None:
    job = new_id()
    systemctl(site, "kill", "--signal=STOP", "systemd-journald")
    try:
        async with loop.within(seconds(10), "the job"):
            running = await start(connection, job, where, "sh", "-c", "echo out; exit 7")
            assert (await running.wait()).exit_code == 7
    finally:
        systemctl(site, "kill", "--signal=CONT", "systemd-journald")
    out = ["out"] if where == "journal" else []
    # Which of them comes first is the journal's affair, as it was too late.
    assert sorted(lines_of(site, job)) == sorted(["job-started", *out, "finished"])


@pytest.mark.needs_embedded
async def test_a_journal_that_starts_anew_loses_nothing(
    site: Site, connection: Connection, new_id: Callable[[], str]
) -> None:
    job, (reader, writer) = new_id(), os.pipe()
    running = await start(
        connection, job, "journal", "sh", "-c", "echo before; read line; echo $line", stdin=reader
    )
    systemctl(site, "restart", "systemd-journald")
    os.write(writer, b"after\n")
    await running.wait()
    os.close(reader)
    os.close(writer)
    assert lines_of(site, job) == ["job-started", "before", "after", "finished"]


# As packaging/install does it, in mounts of its own: the machine keeps the catalogue it has.
INSTALL_CATALOG = f"""
mount -t tmpfs tmpfs /usr/local/lib
mount -t tmpfs tmpfs /var/lib/systemd/catalog
install -D {CHECKOUT}/packaging/sdbox.catalog /usr/local/lib/systemd/catalog/sdbox.catalog
journalctl --update-catalog
"""


def explained(site: Site, *options: str) -> str:
    """What `journalctl --catalog` shows."""
    if site.pid is None:
        script = f'set -e; {INSTALL_CATALOG} exec journalctl --catalog "$@"'
        command = ["unshare", "--mount", "--", "sh", "-c", script, "sh", *options]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SECONDS
        ).stdout
    wait = [
        *site.enter("--mount", "--pid"),
        "systemctl",
        "start",
        "systemd-journal-catalog-update.service",
    ]
    subprocess.run(wait, check=True, timeout=SECONDS)
    return journalctl(site, "--catalog", *options)


def test_journalctl_explains(site: Site, directory: str, spawn: Callable[..., Inside]) -> None:
    unit = f"sdbox-explained-{os.getpid()}.scope"
    process = spawn()

    async def write() -> None:
        journal = Journal(directory, None if site.pid is None else process.pid)
        journal.send(events.thawed("explained", unit, "system"))
        await journal.close()

    asyncio.run(write())
    journalctl(site, "--sync")
    shown = explained(site, "--unit", unit)
    assert "Subject: Job explained is thawed" in shown
    assert f"The processes of {unit}, which were frozen, run again." in shown
    # What systemd's own catalogue has is there as well.
    assert "systemd: " in explained(site, "--list-catalog")


@pytest.mark.needs_embedded
def test_the_machines_catalogue_is_left_alone(site: Site) -> None:
    place = Path("/var/lib/systemd/catalog")
    before = [(path.name, path.stat().st_mtime_ns) for path in place.glob("*")]
    subprocess.run(
        [*site.enter("--mount", "--pid"), "journalctl", "--update-catalog"],
        check=True,
        timeout=SECONDS,
    )
    assert [(path.name, path.stat().st_mtime_ns) for path in place.glob("*")] == before
