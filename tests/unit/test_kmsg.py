"""The kernel's log of whom it killed for memory: texts as mm/oom_kill.c writes them."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from sdbox.kernel import kmsg
from sdbox.kernel.kmsg import Victim, last_victim, parse_killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CGROUP = "/sdbox.slice/sdbox-a.scope"
SIZES = "total-vm:318276kB, anon-rss:64512kB, file-rss:8704kB, shmem-rss:12kB"
TAIL = ", UID:0 pgtables:188kB oom_score_adj:0"
IN_CGROUP = "Memory cgroup out of memory: "
IN_MACHINE = "Out of memory: "
OWN_BYTES = (64512 + 12) * 1024


def choice(cgroup: str, task: str = "python3", pid: int = 4711) -> str:
    """Whom the kernel chose, and where."""
    return (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        f"oom_memcg={cgroup},task_memcg={cgroup},task={task},pid={pid},uid=0"
    )


def kill(name: str = "python3", pid: int = 4711) -> str:
    return f"{IN_CGROUP}Killed process {pid} ({name}) {SIZES}{TAIL}"


@pytest.mark.parametrize(
    "text",
    [
        f"{IN_CGROUP}Killed process 4711 (python3) {SIZES}{TAIL}",
        f"{IN_MACHINE}Killed process 4711 (python3) {SIZES}{TAIL}",
        # Linux 5.4 has the user's number at the end, 4.19 has no user.
        f"{IN_CGROUP}Killed process 4711 (python3) {SIZES}, UID:0",
        f"{IN_CGROUP}Killed process 4711 (python3) {SIZES}",
        f"Out of memory (oom_kill_allocating_task): Killed process 4711 (python3) {SIZES}{TAIL}",
    ],
)
def test_texts_of_several_kernels(text: str) -> None:
    assert parse_killed(text) == Victim(name="python3", pid=4711, own_bytes=OWN_BYTES)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "Web Content",
        "(sd-pam)",
        "a) (b",
        "a) b",
        ")",
        "a, b",
        "pid=1,uid=0",
        "anon-rss:1kB",
        "Killed process ",
        r"a\x0ab\x5cc",
        "CPU 11/KVM",
        "",
    ],
)
def test_names_are_whole(name: str) -> None:
    assert parse_killed(kill(name)) == Victim(name=name, pid=4711, own_bytes=OWN_BYTES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed process ",
        "Killed process 42",
        "Killed process 42 (python3)",
        "Killed process 42 (python3) total-vm:1kB, anon-rss:1kB",
        "Killed process 42 (python3) total-vm:1kB, anon-rss:xkB, file-rss:1kB, shmem-rss:1kB",
        f"Killed process some (python3) {SIZES}",
        "Memory cgroup out of memory: OOM victim 42 (python3) is already exiting.",
    ],
)
def test_what_says_nothing_is_nobody(text: str) -> None:
    assert parse_killed(text) is None


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A log to fill. A pipe of packets is read as /dev/kmsg is: a record at a time, then EAGAIN."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK | os.O_CLOEXEC)
    # A packet takes a page; what does not fit is a failure (EAGAIN).
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 64 * os.sysconf("SC_PAGE_SIZE"))
    monkeypatch.setattr(kmsg, "_KMSG", f"/proc/self/fd/{reader}")

    def fill(*texts: str) -> None:
        for number, text in enumerate(texts):
            os.write(writer, f"6,{number},5140900,-;{text}\n".encode())

    yield fill
    os.close(reader)
    os.close(writer)


def test_the_victim_of_a_cgroup(log: Callable[..., None]) -> None:
    log(
        "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "[   4711]     0  4711    79569    18304   192512        0             0 python3",
        choice(CGROUP),
        kill(),
        "oom_reaper: reaped process 4711 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
    )
    assert last_victim(CGROUP) == Victim(name="python3", pid=4711, own_bytes=OWN_BYTES)


@pytest.mark.parametrize(("since", "found"), [(0.0, True), (5.0, True), (9.0, False)])
def test_a_victim_of_an_earlier_job(log: Callable[..., None], since: float, found: bool) -> None:
    """The records are of 5.14 s after the machine's boot."""
    log(choice(CGROUP), kill())
    assert (last_victim(CGROUP, since=since) is not None) == found


@pytest.mark.parametrize(
    "cgroup",
    [
        f"{CGROUP}/below",
        # The machine's path of what the manager has at its root.
        f"/sdbox-embedded{CGROUP}",
    ],
)
def test_a_victim_below_or_seen_from_above(log: Callable[..., None], cgroup: str) -> None:
    log(choice(cgroup), kill())
    found = last_victim(CGROUP)
    assert found is not None
    assert found.pid == 4711


@pytest.mark.parametrize(
    "cgroup", ["/", "/sdbox.slice", f"{CGROUP}x", "/sdbox.slice/sdbox-aa.scope"]
)
def test_victims_of_others(log: Callable[..., None], cgroup: str) -> None:
    log(choice(cgroup), kill())
    assert last_victim(CGROUP) is None


def test_the_last_of_several(log: Callable[..., None]) -> None:
    log(
        choice(CGROUP, "first", 1),
        kill("first", 1),
        choice(CGROUP, "second", 2),
        kill("second", 2),
        choice("/other.slice", "third", 3),
        kill("third", 3),
    )
    found = last_victim(CGROUP)
    assert found is not None
    assert (found.name, found.pid) == ("second", 2)


def test_the_one_that_grew_is_told_and_not_those_that_go_with_it(log: Callable[..., None]) -> None:
    log(
        choice(CGROUP, "python3", 2),
        kill("python3", 2),
        f"Tasks in {CGROUP} are going to be killed due to memory.oom.group set",
        kill("python3", 2),
        kill("sh", 1),
    )
    found = last_victim(CGROUP)
    assert found is not None
    assert (found.name, found.pid) == ("python3", 2)


def test_a_machine_out_of_memory(log: Callable[..., None]) -> None:
    log(
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=0,2-3,cpuset=/,mems_allowed=0,2-3,global_oom,"
        f"task_memcg={CGROUP},task=python3,pid=7,uid=0",
        f"{IN_MACHINE}Killed process 7 (python3) {SIZES}{TAIL}",
    )
    found = last_victim(CGROUP)
    assert found is not None
    assert found.pid == 7


def test_a_name_can_not_point_elsewhere(log: Callable[..., None]) -> None:
    log(choice(CGROUP, task="a,task_memcg=/b"), kill("a,task_memcg=/b"))
    found = last_victim(CGROUP)
    assert found is not None
    assert found.name == "a,task_memcg=/b"


def test_records_that_others_wrote(log: Callable[..., None]) -> None:
    # Lines of further facts, and a text with what separates the fields.
    log("a;b\n SUBSYSTEM=acpi\n DEVICE=+acpi:1", choice(CGROUP), "in between; 1=2,3", kill())
    found = last_victim(CGROUP)
    assert found is not None


def test_a_log_without_a_word(log: Callable[..., None]) -> None:
    log()
    assert last_victim(CGROUP) is None


def test_a_log_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmsg, "_KMSG", "/proc/self/no-such-file")
    assert last_victim(CGROUP) is None


def test_no_descriptor_stays_open(log: Callable[..., None]) -> None:
    log(choice(CGROUP), kill())
    before = os.listdir("/proc/self/fd")
    last_victim(CGROUP)
    assert os.listdir("/proc/self/fd") == before
