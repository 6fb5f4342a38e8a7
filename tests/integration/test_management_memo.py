"""What is remembered of a job on its cgroup: by whom it is read, and who else may have written."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.management import memo
from sdbox.management.memo import ATTRIBUTE, RESULT_ATTRIBUTE, Memo, recall, result_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import Running, Sdbox

WAITS = "echo up; exec cat"
GOOD: dict[str, Any] = {
    "version": 1,
    "job": "x",
    "manager": "system",
    "command": ["true"],
    "box": {},
    "owner": 0,
    "supervisor": None,
    "started_at": 1.5,
}


def started(sdbox: Sdbox, *words: str) -> tuple[Running, Memo]:
    """A job, once it is written down: that is done while it starts."""
    job = sdbox.start(*words)
    job.line()
    wait_until(lambda: recall(str(sdbox.cgroup(job.id))) is not None)
    found = recall(str(sdbox.cgroup(job.id)))
    assert found is not None
    return job, found


@pytest.fixture
def job(sdbox: Sdbox) -> Running:
    return started(sdbox, "--", "sh", "-c", WAITS)[0]


def test_it_is_on_the_cgroup(sdbox: Sdbox, job: Running) -> None:
    found = recall(str(sdbox.cgroup(job.id)))
    assert isinstance(found, Memo)
    assert found.job == job.id
    assert found.command == ("sh", "-c", WAITS)
    assert found.supervisor is not None
    assert found.supervisor.pid == job.pid
    document = json.loads(os.getxattr(sdbox.cgroup(job.id), ATTRIBUTE))
    assert document["version"] == memo.VERSION
    job.end()


def test_long_ones_are_cut(sdbox: Sdbox) -> None:
    variable = "A=" + "x" * 90_000
    job, found = started(sdbox, "--env", variable, "--", "sh", "-c", WAITS, "y" * 100_000)
    assert found.command[:3] == ("sh", "-c", WAITS)
    assert found.command[3].endswith("y…")
    assert len("".join(found.command)) < 5000
    assert found.box == {"Environment": ["A=…"]}
    assert sdbox.call("list", job.id).status == 0
    job.end()


def test_a_box_that_is_too_long_is_not_kept(sdbox: Sdbox) -> None:
    variables = [f"--env=VARIABLE_{n:040}=1" for n in range(500)]
    job, found = started(sdbox, *variables, "--", "sh", "-c", WAITS)
    assert found.box is None
    assert job.id in sdbox.call("show", job.id).out
    job.end()


CHANGES: list[dict[str, Any]] = [
    {"job": 1},
    {"command": "true"},
    {"command": [1]},
    {"box": []},
    {"box": {"MemoryMax": 1}},
    {"owner": -1},
    {"owner": True},
    {"owner": 2**40},
    {"started_at": 1e300},
    {"started_at": float("nan")},
    {"started_at": -1},
    {"started_at": "now"},
    {"supervisor": {}},
    {"supervisor": {"pid": "1", "start_time": 1, "pid_namespace": 1}},
    {"supervisor": {"pid": 2**40, "start_time": 1, "pid_namespace": 1}},
]
UNTRUSTED = [
    b"",
    b"\0\xff\xfe",
    b"nonsense",
    b"[" * 60_000,
    b"[1]",
    b'"text"',
    b"1" * 10_000,
    *(json.dumps(GOOD | change).encode() for change in CHANGES),
    json.dumps({name: value for name, value in GOOD.items() if name != "owner"}).encode(),
]


@pytest.mark.parametrize("text", UNTRUSTED, ids=lambda text: text[:40].decode(errors="replace"))
def test_what_is_no_memo_is_none(sdbox: Sdbox, job: Running, text: bytes) -> None:
    os.setxattr(sdbox.cgroup(job.id), ATTRIBUTE, text)
    assert recall(str(sdbox.cgroup(job.id))) is None
    done = sdbox.call("list", "--json", job.id)
    assert done.status == 0
    (one,) = json.loads(done.out)
    assert one["command"] is None
    assert one["state"] == "running"
    assert sdbox.call("show", job.id).status == 0
    assert job.end().status == 0


def test_none_at_all(sdbox: Sdbox, job: Running) -> None:
    os.removexattr(sdbox.cgroup(job.id), ATTRIBUTE)
    assert "sh -c echo up" in sdbox.call("list", job.id).out
    assert sdbox.call("show", job.id).status == 0
    assert job.end().status == 0


def test_control_characters_are_not_printed(sdbox: Sdbox, job: Running) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\r\nroot\u202e"
    document = GOOD | {"command": ["true", evil], "job": evil, "box": {evil: evil, "A": [evil]}}
    os.setxattr(sdbox.cgroup(job.id), ATTRIBUTE, json.dumps(document).encode())
    for verb in ("list", "show", "usage"):
        done = sdbox.call(verb, job.id)
        assert done.status == 0
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(done.out)
        assert "\nroot" not in done.out
    assert json.loads(sdbox.call("list", "--json", job.id).out)[0]["command"][1] == evil
    assert job.end().status == 0


@pytest.mark.parametrize(
    "change",
    [{"exit_code": 1000}, {"exit_code": "0"}, {"signal": -1}, {"message": None}, {"more": 1}],
    ids=str,
)
def test_a_report_that_is_none(sdbox: Sdbox, job: Running, change: dict[str, Any]) -> None:
    fd = os.open(sdbox.cgroup(job.id), os.O_RDONLY)
    try:
        assert job.end().status == 0
        report = result_of(fd)
        assert report is not None
        assert report["message"] == "Job exited with status 0."
        os.setxattr(fd, RESULT_ATTRIBUTE, json.dumps(report | change).encode())
        assert result_of(fd) is None
    finally:
        os.close(fd)


def test_another_user_s_job_can_not_write_it(sdbox: Sdbox) -> None:
    write = "import os, sys; os.setxattr(sys.argv[1], 'user.sdbox', b'x')"
    script = 'echo up; read path; exec /usr/bin/python3 -c "$0" "$path"'
    job, before = started(sdbox, "--user=nobody", "--", "sh", "-c", script, write)
    place = str(sdbox.cgroup(job.id))
    fd = os.open(place, os.O_RDONLY)
    job.send(f"{place}\n".encode())
    done = job.end()
    assert done.status == 1
    assert b"Permission denied" in done.stderr
    assert recall(fd) == before
    os.close(fd)
