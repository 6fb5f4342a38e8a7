"""The API: many jobs from one program, and what is left of them afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import sdbox as api
from sdbox.errors import LaunchFailed, ManagerRefused, ManagerUnavailable, SdboxError
from sdbox.launch.helper import Helper
from sdbox.launch.placing import is_active
from tests.ids import SESSION
from tests.pace import seconds, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.manager import Manager
    from tests.conftest import Site

SECONDS = seconds(30)
# What is not to wait for systemd's TimeoutStopSec=, 90 s.
SOON = seconds(10)
AT_ONCE = 20
JOBS = times(200, least=AT_ONCE)


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def directories(jobs: list[str]) -> list[Path]:
    parents = (Path("/tmp"), Path("/var/tmp"))
    return [p for job in jobs for above in parents for p in above.glob(f"sdbox-private-{job}-*")]


@pytest.fixture(autouse=True)
def _nothing_stays(job_site: Site) -> Iterator[None]:
    """No descriptor and no child of this process outlives a test."""
    before = descriptors()
    yield
    assert descriptors() == before
    assert psutil.Process().children() == []


@pytest.fixture
def output() -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A pipe to write to, and what reads it up to its end, with the writing end closed."""
    reader, writer = os.pipe()
    ends = {writer}

    def read() -> bytes:
        ends.discard(writer)
        os.close(writer)
        with open(reader, "rb", closefd=False) as file:
            return file.read()

    yield writer, read
    for end in (reader, *ends):
        os.close(end)


async def test_two_hundred_jobs(new_id: Callable[[], str], job_manager: Manager) -> None:
    """20 at a time, through one launcher: every result right, nothing left."""
    gate = asyncio.Semaphore(AT_ONCE)
    ids = [new_id() for _ in range(JOBS)]
    # A third each ends by status, by signal, and not at all.
    scripts = ("exit {}", "kill -USR1 $$", "/no/such/program")
    box = api.Box(PrivateTmp=True, PrivatePIDs=True)

    async def one(launcher: api.Launcher, number: int) -> api.Result | None:
        command = ["sh", "-c", scripts[number % 3].format(number % 100)]
        if number % 3 == 2:
            command = [scripts[2]]
        async with gate:
            try:
                return await launcher.run(command, box=box, id=ids[number])
            except LaunchFailed:
                return None

    async with api.Launcher() as launcher:
        warm = await one(launcher, 0)
        assert warm is not None
        ids[0] = new_id()
        before = descriptors(), descriptors(_helper(launcher))
        results = await asyncio.gather(*(one(launcher, number) for number in range(JOBS)))
        await asyncio.wait_for(_forgotten(launcher), SECONDS)
        assert (descriptors(), descriptors(_helper(launcher))) == before
        # But for the init of the next one.
        assert len(psutil.Process(_helper(launcher)).children()) == 1
    for number, result in enumerate(results):
        if number % 3 == 2:
            assert result is None
            continue
        assert result is not None
        assert result.job == ids[number]
        expected = (number % 100, None) if number % 3 == 0 else (None, signal.SIGUSR1)
        assert (result.exit_code, result.signal) == expected
    assert await job_manager.list_units(f"sdbox-{ids[0].split('-')[0]}-*") == ()
    assert directories(ids) == []


def _helper(launcher: api.Launcher) -> int:
    return launcher._connected().helper.pid


async def _forgotten(launcher: api.Launcher) -> None:
    """Wait until the helper has cleaned up after the launches that failed: it serves in order."""
    result = await launcher.run(["true"])
    assert result.exit_code == 0


async def test_a_result(new_id: Callable[[], str], job_site: Site) -> None:
    job_id = new_id()
    box = api.Box(PrivateTmp=True, Description="A test")
    async with api.Launcher() as launcher:
        job = await launcher.start(["sh", "-c", "exit 3"], box=box, id=job_id)
        assert (job.id, job.unit) == (job_id, f"sdbox-{job_id}.scope")
        result = await job.wait()
        assert await job.wait() is result
    assert (result.reason, result.exit_code, result.signal) == ("exited", 3, None)
    assert result.manager == job_site.endpoint.kind
    assert result.command == ("sh", "-c", "exit 3")
    assert result.enforcement["PrivateTmp"] == "kernel"
    assert result.to_json()["unit"] == job.unit


async def test_streams_are_what_was_given(
    new_id: Callable[[], str], output: tuple[int, Callable[[], bytes]]
) -> None:
    writer, read = output
    reader, source = os.pipe()
    async with api.Launcher() as launcher:
        job = await launcher.start(
            ["sh", "-c", "cat; echo err >&2"],
            id=new_id(),
            stdin=reader,
            stdout=writer,
            stderr=writer,
        )
        os.close(reader)
        os.write(source, b"in\n")
        os.close(source)
        assert (await job.wait()).exit_code == 0
    assert read() == b"in\nerr\n"


async def test_the_environment_is_what_was_given(
    new_id: Callable[[], str], output: tuple[int, Callable[[], bytes]]
) -> None:
    writer, read = output
    async with api.Launcher() as launcher:
        result = await launcher.run(
            ["/bin/cat", "/proc/self/environ"],
            id=new_id(),
            stdout=writer,
            environment={"A": "b c", "ODD": os.fsdecode(b"\xff")},
        )
        assert result.exit_code == 0
    assert sorted(read().split(b"\0")) == [b"", b"A=b c", b"ODD=\xff"]


async def test_a_program_that_is_not_there(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        with pytest.raises(LaunchFailed, match="no-such-program") as failure:
            await launcher.run(["no-such-program"], box=api.Box(PrivateTmp=True), id=new_id())
        assert failure.value.exit_status == 127
        # And the launcher is none the worse.
        assert (await launcher.run(["true"], id=new_id())).exit_code == 0


async def test_an_id_that_is_taken(new_id: Callable[[], str]) -> None:
    job_id = new_id()
    async with api.Launcher() as launcher, api.Launcher() as other:
        job = await launcher.start(["sleep", "600"], id=job_id)
        for second in (launcher, other):
            with pytest.raises(SdboxError, match=job_id):
                await second.start(["true"], id=job_id)
        job.send_signal(signal.SIGTERM)
        assert (await job.wait()).signal == signal.SIGTERM


async def test_an_init_is_forked_ahead(new_id: Callable[[], str], job_manager: Manager) -> None:
    async with api.Launcher() as launcher:
        await launcher.run(["true"], id=new_id())
        before = spare_of(launcher)
        job = await launcher.start(["sleep", "600"], id=new_id())
        assert set(job._inits) == before
        after = spare_of(launcher)
        assert len(after) == 1
        assert not after & before
        await job.kill()
        await job.wait()
        # What is made before there is an init takes one of its own.
        job = await launcher.start(
            ["sleep", "600"], box=api.Box(PrivateTmp=True, PrivatePIDs=True), id=new_id()
        )
        assert not set(job._inits) & after
        assert spare_of(launcher) == after


async def test_a_spare_init_that_somebody_kills(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        await launcher.run(["true"], id=new_id())
        (pid,) = spare_of(launcher)
        spare = psutil.Process(pid)
        spare.kill()
        spare.wait(SECONDS)
        result = await launcher.run(["sh", "-c", "exit 3"], id=new_id())
        assert result.exit_code == 3
        assert spare_of(launcher) != {pid}


def spare_of(launcher: api.Launcher) -> set[int]:
    """The helper's children that are in no unit."""
    helper = psutil.Process(launcher._connected().helper.pid)
    jobs = {pid for job in launcher._jobs for pid in job._inits}
    return {child.pid for child in helper.children()} - jobs


async def test_what_systemd_says_of_a_unit_without_being_asked(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        connection = launcher._connected()
        job = await launcher.start(["sleep", "600"], id=new_id())
        assert connection.endpoint.has_link(job.unit)
        assert await is_active(connection, job.plan)
        await job.kill()
        await job.wait()
        assert not connection.endpoint.has_link(job.unit)
        assert not await is_active(connection, job.plan)


async def test_a_unit_that_systemd_gives_up_while_its_payload_starts(
    new_id: Callable[[], str], job_manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its issue 36781, which no systemd can be made to show: only its answers are put in here."""
    answers = iter((True, False))

    async def answer(*_: object) -> bool:
        return next(answers)

    async with api.Launcher() as launcher:
        await launcher.run(["true"], id=new_id())
        helper = _helper(launcher)
        before = descriptors(), descriptors(helper)
        job = new_id()
        with monkeypatch.context() as patch:
            patch.setattr("sdbox.launch.placing.is_active", answer)
            with pytest.raises(LaunchFailed, match="takes it for ended"):
                await launcher.start(["sleep", "600"], id=job)
        await asyncio.wait_for(_forgotten(launcher), SECONDS)
        assert (descriptors(), descriptors(helper)) == before
        assert not await job_manager.exists(f"sdbox-{job}.scope")


async def test_kill(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        job = await launcher.start(["sh", "-c", "trap '' TERM; sleep 600 & wait"], id=new_id())
        # Less than it would take to stop it, which it ignores.
        async with asyncio.timeout(SOON):
            await asyncio.gather(job.kill(), job.kill())
            result = await job.wait()
        await job.kill()
    assert (result.reason, result.signal) == ("killed", signal.SIGKILL)


async def test_kill_of_a_frozen_job(new_id: Callable[[], str], job_manager: Manager) -> None:
    async with api.Launcher() as launcher:
        job = await launcher.start(["sleep", "600"], id=new_id())
        for _ in range(2):
            await job_manager.freeze(job.unit)
        await asyncio.wait_for(job.kill(), SOON)
        assert (await job.wait()).reason == "killed"


async def test_a_frozen_job_goes_on_when_it_is_thawed(
    new_id: Callable[[], str], job_manager: Manager
) -> None:
    async with api.Launcher() as launcher:
        job = await launcher.start(["sleep", "600"], id=new_id())
        for verb in (job_manager.freeze, job_manager.freeze, job_manager.thaw, job_manager.thaw):
            await verb(job.unit)
        job.send_signal(signal.SIGUSR1)
        assert (await asyncio.wait_for(job.wait(), SECONDS)).signal == signal.SIGUSR1


async def test_a_signal_after_the_end_is_nobodys(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        job = await launcher.start(["true"], id=new_id())
        await job.wait()
        job.send_signal(signal.SIGKILL)


async def test_cancelling_a_run_kills_the_job(
    new_id: Callable[[], str], job_manager: Manager
) -> None:
    job_id = new_id()
    reader, writer = os.pipe()
    async with api.Launcher() as launcher:
        run = asyncio.create_task(
            launcher.run(["sh", "-c", "echo; exec sleep 600"], id=job_id, stdout=writer)
        )
        await asyncio.to_thread(os.read, reader, 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not await job_manager.exists(f"sdbox-{job_id}.scope")
    os.close(reader)
    os.close(writer)
    # The thread that has read ends with the loop; its executor has no descriptors.


async def test_cancelling_a_launch_at_any_moment(
    new_id: Callable[[], str], job_manager: Manager
) -> None:
    ids = [new_id() for _ in range(20)]
    box = api.Box(PrivateTmp=True)
    async with api.Launcher() as launcher:
        for number, job_id in enumerate(ids):
            run = asyncio.create_task(launcher.run(["sleep", "600"], box=box, id=job_id))
            await asyncio.wait([run], timeout=number * 0.003)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        assert (await launcher.run(["true"], id=new_id())).exit_code == 0
        for job_id in ids:
            await job_manager.wait_removed(f"sdbox-{job_id}.scope", timeout=SECONDS)
    assert directories(ids) == []


async def test_cancelling_a_wait_lets_the_job_run(new_id: Callable[[], str]) -> None:
    async with api.Launcher() as launcher:
        job = await launcher.start(["sleep", "600"], id=new_id())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job.wait(), 0.01)
        job.send_signal(signal.SIGHUP)
        assert (await job.wait()).signal == signal.SIGHUP


async def test_closing_kills_what_runs(new_id: Callable[[], str], job_manager: Manager) -> None:
    async with api.Launcher() as launcher:
        jobs = [await launcher.start(["sleep", "600"], id=new_id()) for _ in range(3)]
    for job in jobs:
        assert (await job.wait()).reason == "killed"
        assert not await job_manager.exists(job.unit)


async def test_a_launcher_that_is_not_connected() -> None:
    with pytest.raises(ManagerUnavailable, match="not connected"):
        await api.Launcher().start(["true"])


@pytest.mark.parametrize("command", [[], [""], ["true", "nul\0"]])
async def test_a_command_that_can_not_be_one(command: list[str]) -> None:
    async with api.Launcher() as launcher:
        with pytest.raises(SdboxError):
            await launcher.start(command)


async def test_the_helpers_death_ends_the_jobs(
    new_id: Callable[[], str], job_manager: Manager
) -> None:
    job_id = new_id()
    launcher = api.Launcher()
    await launcher.connect()
    job = await launcher.start(["sleep", "600"], box=api.Box(PrivateTmp=True), id=job_id)
    os.kill(_helper(launcher), signal.SIGKILL)
    result = await asyncio.wait_for(job.wait(), SECONDS)
    assert (result.reason, result.signal) == ("killed", signal.SIGKILL)
    with pytest.raises(ManagerUnavailable):
        await launcher.start(["true"], id=new_id())
    await launcher.close()
    assert not await job_manager.exists(job.unit)
    assert directories([job_id]) == []


async def test_a_helper_that_was_killed_at_once(new_id: Callable[[], str]) -> None:
    launcher = api.Launcher()
    await launcher.connect()
    os.kill(_helper(launcher), signal.SIGKILL)
    with pytest.raises(ManagerUnavailable):
        await asyncio.wait_for(launcher.start(["true"], id=new_id()), SECONDS)
    await launcher.close()


async def test_the_manager_may_reexecute(new_id: Callable[[], str], job_site: Site) -> None:
    """`systemctl daemon-reexec` in the middle of a job costs nothing."""
    async with api.Launcher() as launcher:
        job = await launcher.start(["sleep", "600"], box=api.Box(PrivateTmp=True), id=new_id())
        await asyncio.to_thread(_inside, job_site, "systemctl", "daemon-reexec")
        job.send_signal(signal.SIGUSR2)
        result = await asyncio.wait_for(job.wait(), SECONDS)
        assert result.signal == signal.SIGUSR2
        again = await launcher.run(["sh", "-c", "exit 4"], id=new_id())
        assert again.exit_code == 4


def _inside(job_site: Site, *command: str) -> None:
    if job_site.endpoint.kind == "embedded":
        from sdbox import embedded

        manager = embedded.find()
        assert manager is not None
        command = ("nsenter", f"--target={manager.pid}", "--all", "--", *command)
    subprocess.run(command, check=True, timeout=SECONDS)


async def test_an_error_names_what_it_is_about(new_id: Callable[[], str]) -> None:
    box = api.Box(BindReadOnlyPaths=["/nonexistent:/mnt"])
    async with api.Launcher() as launcher:
        with pytest.raises(LaunchFailed, match="/nonexistent") as failure:
            await launcher.start(["true"], box=box, id=new_id())
        assert failure.value.exit_status == 125
        with pytest.raises(SdboxError, match="no-such-user"):
            await launcher.start(["true"], box=api.Box(User="no-such-user"), id=new_id())


def test_a_launcher_in_a_thread(new_id: Callable[[], str]) -> None:
    """Of a program with more of them, none of which is in a fork."""
    results: list[api.Result] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(api.run(["sh", "-c", "exit 5"], id=new_id()))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [result.exit_code for result in results] == [5] * 4


def test_run(new_id: Callable[[], str]) -> None:
    result = api.run(["sh", "-c", "kill -HUP $$"], box=api.Box(PrivateTmp=True), id=new_id())
    assert (result.reason, result.signal) == ("signal", signal.SIGHUP)


INTERRUPTED = """
import sys
sys.path.insert(0, sys.argv[1])
import sdbox
try:
    sdbox.run(["sh", "-c", "trap '' INT; echo up; sleep 600"], id=sys.argv[2])
except KeyboardInterrupt:
    print("interrupted")
"""


async def test_an_interrupted_run_kills_the_job(
    new_id: Callable[[], str], job_manager: Manager
) -> None:
    job_id = new_id()
    assert await asyncio.to_thread(_interrupt, job_id) == "interrupted\n"
    assert not await job_manager.exists(f"sdbox-{job_id}.scope")


def _interrupt(job_id: str) -> str:
    checkout = str(Path(__file__).parent.parent.parent)
    command = [sys.executable, "-c", INTERRUPTED, checkout, job_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGINT)
            return process.communicate(timeout=SECONDS)[0]
        finally:
            process.kill()


async def test_a_slice(new_id: Callable[[], str], job_manager: Manager) -> None:
    slice_name = f"sdbox-{SESSION}plain.slice"
    try:
        async with api.Launcher() as launcher:
            job = await launcher.start(["sleep", "600"], box=api.Box(Slice=slice_name), id=new_id())
            group = await job_manager.unit_property(job.unit, "Scope", "ControlGroup")
            assert group == f"/sdbox.slice/{slice_name}/{job.unit}"
            job.send_signal(signal.SIGTERM)
            await job.wait()
    finally:
        await job_manager.stop(slice_name)


async def test_a_frozen_slice_takes_no_job(new_id: Callable[[], str], job_manager: Manager) -> None:
    """facts: since systemd 256 the job ends as `frozen`; before that it is attempted."""
    slice_name = f"sdbox-{SESSION}frozen.slice"
    try:
        async with api.Launcher() as launcher:
            job = await launcher.start(["sleep", "600"], box=api.Box(Slice=slice_name), id=new_id())
            await job_manager.freeze(slice_name)
            if launcher.systemd_version >= 256:
                with pytest.raises((LaunchFailed, ManagerRefused)):
                    await launcher.start(["true"], box=api.Box(Slice=slice_name), id=new_id())
            await asyncio.wait_for(job.kill(), SOON)
            assert (await job.wait()).reason == "killed"
    finally:
        # It thaws what it stops.
        await job_manager.stop(slice_name)


async def test_a_helper_that_is_gone_is_waited_for_by_nobody() -> None:
    helper = Helper.spawn()
    helper.attach()
    os.kill(helper.pid, signal.SIGKILL)
    # Who asks before its end is known, and who asks after.
    for _ in range(2):
        with pytest.raises(ManagerUnavailable):
            await asyncio.wait_for(helper.answer("nothing"), SECONDS)
    await helper.close()
