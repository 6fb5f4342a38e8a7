"""`sdbox run`: how it ends, what passes through it, and what it reports."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from tests.conftest import Sdbox, Site

SECONDS = seconds(30)

# Payloads that show their arguments and their whole environment, byte for byte.
ARGUMENTS = r'printf "%s\0" "$@"'
ENVIRONMENT = ("cat", "/proc/self/environ")


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


@pytest.mark.needs_embedded
def test_the_first_launch_boots_a_manager_and_says_so(job_site: Site) -> None:
    if job_site.first is None:
        pytest.skip("an embedded manager was running before the tests")
    assert job_site.first.returncode == 0
    notice = b"sdbox: systemd is not running here: booted the embedded manager\n"
    assert job_site.first.stderr == notice


def test_a_whole_job(sdbox: Sdbox, job_site: Site) -> None:
    done = sdbox.sh(
        "echo $$; ls -A /tmp /var/tmp; exit 7",
        "--memory=256M",
        "--private-tmp",
        "--pid-namespace",
        report=True,
    )
    assert done.status == 7
    pid, *listed = done.out.split()
    assert pid in ("1", "2")
    assert listed == ["/tmp:", "/var/tmp:"]
    if "memory" in job_site.controllers:
        assert done.stderr == b""
    else:
        # What is kept less well than by the kernel is said, and nothing else.
        assert done.err.startswith("sdbox: MemoryMax: ")
        assert done.err.count("\n") == 1
    account = done.account
    assert account["job"] == done.id
    assert account["unit"] == sdbox.unit(done.id)
    assert account["manager"] == job_site.endpoint.kind
    assert account["command"] == ["sh", "-c", "echo $$; ls -A /tmp /var/tmp; exit 7"]
    assert (account["reason"], account["exit_code"], account["signal"]) == ("exited", 7, None)
    assert account["message"]
    assert account["memory_limit_bytes"] == 256 << 20
    assert 0 < account["wall_seconds"] < SECONDS
    assert account["started_at"] + account["wall_seconds"] == pytest.approx(
        account["ended_at"], abs=0.1
    )
    assert account["cpu_user_seconds"] + account["cpu_system_seconds"] > 0
    assert account["box"] == {"MemoryMax": "256M", "PrivateTmp": "yes", "PrivatePIDs": "yes"}
    kept = "kernel" if "memory" in job_site.controllers else "watch"
    asked = {name: account["enforcement"][name] for name in account["box"]}
    assert asked == {"MemoryMax": kept, "PrivateTmp": "kernel", "PrivatePIDs": "kernel"}


def test_unknown_figures_are_null(sdbox: Sdbox, job_site: Site) -> None:
    account = sdbox.run("--", "true", report=True).account
    for figure, controller in {
        "memory_peak_bytes": "memory",
        "oom_kills": "memory",
        "tasks_peak": "pids",
        "io_read_bytes": "io",
        "io_write_bytes": "io",
    }.items():
        assert controller in job_site.controllers or account[figure] is None


@pytest.mark.parametrize("status", [0, 1, 42, 125, 126, 127, 255])
def test_the_status_is_the_payloads(sdbox: Sdbox, status: int) -> None:
    done = sdbox.sh(f"exit {status}", report=True)
    assert done.status == status
    assert (done.account["reason"], done.account["exit_code"]) == ("exited", status)
    assert done.stderr == b""


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGKILL", "SIGSEGV", "SIGHUP"])
def test_it_ends_by_the_payloads_signal(sdbox: Sdbox, name: str) -> None:
    number = signal.Signals[name]
    done = sdbox.sh(f"kill -{name.removeprefix('SIG')} $$", report=True)
    assert done.status == -number
    account = done.account
    assert (account["reason"], account["exit_code"], account["signal"]) == ("signal", None, number)
    assert name in account["message"]


def test_a_real_time_signal(sdbox: Sdbox) -> None:
    done = sdbox.sh(f"kill -{signal.SIGRTMAX} $$", report=True)
    assert done.status == -signal.SIGRTMAX
    assert done.account["signal"] == signal.SIGRTMAX


def test_a_pid_namespaces_first_process_can_end_by_a_signal(sdbox: Sdbox) -> None:
    done = sdbox.sh("kill -USR1 $$", "--pid-namespace")
    assert done.status == -signal.SIGUSR1


def test_a_program_that_is_not_there(sdbox: Sdbox) -> None:
    done = sdbox.run("--", "no-such-program", report=True)
    assert done.status == 127
    assert done.err.startswith("sdbox: 'no-such-program': No such file or directory. ")
    assert done.err.count("\n") == 1
    account = done.account
    assert (account["reason"], account["exit_code"], account["signal"]) == (
        "launch-failed",
        None,
        None,
    )
    assert "no-such-program" in account["message"]


@pytest.mark.parametrize(
    ("contents", "mode", "reason"),
    [
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("not a program", 0o755, "Exec format error"),
    ],
)
def test_what_can_not_be_executed(
    sdbox: Sdbox, tmp_path: Path, contents: str, mode: int, reason: str
) -> None:
    program = tmp_path / "program"
    program.write_text(contents)
    program.chmod(mode)
    done = sdbox.run("--", str(program), report=True)
    assert done.status == 126
    assert done.err.startswith(f"sdbox: '{program}': {reason}. ")
    assert done.account["reason"] == "launch-failed"


def test_a_directory_can_not_be_executed(sdbox: Sdbox) -> None:
    assert sdbox.run("--", "/etc").status == 126


def test_a_script_whose_interpreter_is_not_there(sdbox: Sdbox, tmp_path: Path) -> None:
    program = tmp_path / "script"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    assert sdbox.run("--", str(program)).status == 127


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--memory=12x", "12x"),
        ("--memory=0", "0"),
        ("--memory=", '""'),
        ("--memory=-1", "-1"),
        ("--memory=123bogus", "123bogus"),
        ("--memory=18446744073709551616", "18446744073709551616"),
        ("--tasks=0", "0"),
        ("--cpu-quota=0%", "0%"),
        ("--wall=0", "0"),
        ("--wall=soon", "soon"),
        ("--cpu-affinity=x", "x"),
        ("-pNonsense=1", "Nonsense"),
        ("-pMemoryMax", "MemoryMax"),
        ("--root=/nonexistent", "/nonexistent"),
        ("--root=/etc/passwd", "/etc/passwd"),
        ("--root=relative", "relative"),
        ("--chdir=/nonexistent", "/nonexistent"),
        ("--bind=/nonexistent", "/nonexistent"),
        ("--bind-ro=/etc:/mnt:bogus", "bogus"),
        ("--bind-ro=/etc:/proc/place", "/proc/place"),
        ("--user=no-such-user", "no-such-user"),
        ("--group=no-such-group", "no-such-group"),
        ("--slice=no-slice", "no-slice"),
        ("--network=some", "some"),
        ("--env=SDBOX_NOT_SET", "SDBOX_NOT_SET"),
        ("--box=no-such-box", "no-such-box"),
        ("--config=/nonexistent", "/nonexistent"),
        ("--report=/nonexistent/r.json", "/nonexistent/r.json"),
        ("--no-such-option", "--no-such-option"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(
    sdbox: Sdbox, tmp_path: Path, option: str, named: str
) -> None:
    trace = tmp_path / "trace"
    done = sdbox.run(option, "--", "touch", str(trace))
    assert done.status in (2, 125)
    assert done.stdout == b""
    assert done.err.startswith("sdbox: ")
    assert done.err.count("\n") == 1
    assert named in done.err
    # After what is wrong comes the remedy, a sentence of its own.
    assert re.search(r"[^.]\. [`\w]", done.err)
    assert not trace.exists()


@pytest.mark.parametrize("bad", ["a/b", "", "a b", "é", "x" * 300])
def test_an_id_that_no_unit_can_have(sdbox: Sdbox, bad: str) -> None:
    done = sdbox.call("run", *sdbox.options, f"--id={bad}", "--", "true")
    assert done.status in (2, 125)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("--",), ("--", "")])
def test_no_command(sdbox: Sdbox, words: tuple[str, ...]) -> None:
    done = sdbox.run(*words)
    assert done.status in (2, 125)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("other", [[], ["--service"]], ids=["by-a-scope", "by-a-service"])
def test_an_id_that_is_taken(sdbox: Sdbox, other: list[str]) -> None:
    first = sdbox.start_sh("echo up; read line; exit 3")
    first.line()
    second = sdbox.call("run", *other, f"--id={first.id}", "--private-tmp", "--", "true")
    assert second.status == 125
    assert second.err.count("\n") == 1
    assert first.unit in second.err
    first.send(b"\n")
    assert first.end().status == 3


def test_every_id_is_another(sdbox: Sdbox) -> None:
    script = "grep 0:: /proc/self/cgroup"
    units = {sdbox.call("run", *sdbox.options, "--", "sh", "-c", script).out for _ in range(2)}
    assert len(units) == 2
    assert all(
        "/sdbox.slice/sdbox-" in unit and unit.endswith(f".{sdbox.unit_type}\n") for unit in units
    )


def test_an_odd_name_is_a_program(sdbox: Sdbox, tmp_path: Path) -> None:
    program = tmp_path / "--memory=0"
    program.write_text("#!/bin/sh\necho odd\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert sdbox.run("--", "--memory=0", env=environment).stdout == b"odd\n"


def test_options_of_the_command_are_the_commands(sdbox: Sdbox) -> None:
    assert sdbox.run("echo", "--memory", "--", "-x").stdout == b"--memory -- -x\n"


def test_arguments_arrive_byte_for_byte(sdbox: Sdbox) -> None:
    odd = [
        b"",
        b" ",
        b"a  b",
        b"two\nlines\n",
        b"'\"`$(exit 1)\\",
        b"-x",
        b"--",
        b"--memory=0",
        "größe 😀".encode(),
        b"\xff\xfe\x80",
        b"%s%n",
        b"\x01\x1b[31m\x7f",
        b"*?[",
        b"x" * 100_000,
    ]
    done = sdbox.run("--", "sh", "-c", ARGUMENTS, "sh", *odd)
    assert done.stdout.split(b"\0")[:-1] == odd
    assert done.status == 0


def test_the_environment_arrives_byte_for_byte(sdbox: Sdbox) -> None:
    odd = {
        b"EMPTY": b"",
        b"SPACES": b" a  b ",
        b"LINES": b"one\ntwo\n",
        b"QUOTES": b"'\"`$x\\",
        b"EQUALS": b"=a=b=",
        b"BYTES": b"\xff\xfe",
        b"\xfcber": b"name",
        b"with-dash": b"1",
        b"PYTHONHOME": b"/nonexistent",
        b"PYTHONPATH": b"/nonexistent",
        b"PYTHONSTARTUP": b"/nonexistent",
        b"PYTHONWARNINGS": b"error",
        b"PYTHONOPTIMIZE": b"2",
        b"PYTHONIOENCODING": b"utf-16",
        b"LC_ALL": b"C",
        b"NOTIFY_SOCKET": b"/nonexistent",
        b"LISTEN_FDS": b"3",
        b"DBUS_SYSTEM_BUS_ADDRESS": b"unix:path=/nonexistent",
    }
    done = sdbox.run("--", *ENVIRONMENT, env=odd)
    assert done.err == ""
    seen = dict(line.split(b"=", 1) for line in done.stdout.split(b"\0")[:-1])
    del seen[b"SDBOX_TEST_JOB"]
    assert seen == odd


def test_no_environment_at_all(sdbox: Sdbox) -> None:
    done = sdbox.run("--", *ENVIRONMENT, env={})
    assert done.stdout == f"SDBOX_TEST_JOB={done.id}\0".encode()


def test_env_sets_and_takes_over(sdbox: Sdbox) -> None:
    done = sdbox.run(
        "--env=ONE=a b=c",
        "--env=TAKEN",
        "--env=ONE=last",
        "--",
        *ENVIRONMENT,
        env={"TAKEN": "over", "ONE": "first", "PATH": os.environ["PATH"]},
    )
    assert b"ONE=last\0" in done.stdout
    assert b"TAKEN=over\0" in done.stdout
    assert done.stdout.count(b"ONE=") == 1


@pytest.fixture
def hijacker(tmp_path: Path) -> Path:
    """A directory of modules that take the place of the standard library's."""
    for name in ("os", "socket", "asyncio", "site", "sitecustomize", "usercustomize", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    return tmp_path


def test_a_pythonpath_for_the_job_is_the_jobs_alone(sdbox: Sdbox, hijacker: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(hijacker)}
    done = sdbox.sh('echo "$PYTHONPATH"', "--private-tmp", env=environment, report=True)
    assert (done.status, done.out, done.err) == (0, f"{hijacker}\n", "")
    assert done.account["reason"] == "exited"


def test_modules_in_the_working_directory_are_not_taken(sdbox: Sdbox, hijacker: Path) -> None:
    assert sdbox.sh("pwd", cwd=hijacker).out == f"{hijacker}\n"


def test_a_preload_for_the_job_reaches_it(sdbox: Sdbox, tmp_path: Path) -> None:
    # The loader complains on stderr in every process that it can't load it for, and goes on.
    library = str(tmp_path / "missing.so")
    environment = {**os.environ, "LD_PRELOAD": library}
    done = sdbox.sh('echo "$LD_PRELOAD"', env=environment)
    assert (done.status, done.out) == (0, f"{library}\n")


def test_stdin_pipes_through(sdbox: Sdbox) -> None:
    data = os.urandom(1 << 20)
    assert sdbox.run("--", "cat", input=data).stdout == data


def test_stdin_may_be_closed(sdbox: Sdbox) -> None:
    done = sdbox.run("--", "cat", input=None, stdin=subprocess.DEVNULL)
    assert (done.status, done.stdout) == (0, b"")


def test_stdout_and_stderr_stay_apart(sdbox: Sdbox) -> None:
    done = sdbox.sh("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_streams_that_are_closed(sdbox: Sdbox) -> None:
    """Nothing of sdbox's lands in a descriptor that the payload takes for its own."""
    script = '"$0" "$@" <&- >&- 2>&-'
    target = "/proc/self/fd"
    command = [*sdbox.run_command, f"--id={sdbox.new_id()}", "--", "test", "-e", f"{target}/2"]
    done = subprocess.run(["sh", "-c", script, *command], check=False, timeout=SECONDS)
    assert done.returncode == 0


def test_help_without_a_stdout(sdbox: Sdbox) -> None:
    script = '"$0" "$@" >&-'
    command = ["sh", "-c", script, *sdbox.command, "run", "--help"]
    done = subprocess.run(command, check=False, timeout=SECONDS, capture_output=True)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("run", "--help"), ("--help",), ("list", "--help")])
def test_help_that_can_not_be_written(sdbox: Sdbox, words: tuple[str, ...]) -> None:
    script = '"$0" "$@" >/dev/full'
    command = ["sh", "-c", script, *sdbox.command, *words]
    done = subprocess.run(command, check=False, timeout=SECONDS, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"sdbox: stdout: No space left on device\n")


@pytest.mark.parametrize("words", [("run", "--help"), ("--version",), ("doctor",), ("list", "-h")])
def test_a_reader_that_has_gone_is_nothing_to_talk_about(
    sdbox: Sdbox, words: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*sdbox.command, *words]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=SECONDS
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_a_stream_ends_when_the_payload_closes_it(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("exec >&-; read line; exit 5")
    assert job.at_end_of_output()
    assert job.process.poll() is None
    job.send(b"\n")
    assert job.end().status == 5


def test_stdin_is_held_by_the_payload_alone(sdbox: Sdbox) -> None:
    reader, writer = os.pipe()
    job = sdbox.start_sh("exec <&-; echo closed; sleep 600", stdin=reader)
    os.close(reader)
    assert job.line() == "closed"
    # poll(2): a pipe that nobody can read any more is POLLERR to its writer.
    poll = select.poll()
    poll.register(writer, 0)
    assert poll.poll(SECONDS * 1000) == [(writer, select.POLLERR)]
    os.close(writer)


def test_a_reader_that_goes_ends_the_payload_by_sigpipe(sdbox: Sdbox) -> None:
    job = sdbox.start("--", "yes")
    assert job.line() == "y"
    assert job.process.stdout is not None
    job.process.stdout.close()
    assert job.process.wait(timeout=SECONDS) == -signal.SIGPIPE


def test_the_payload_has_no_descriptor_of_ours(sdbox: Sdbox) -> None:
    done = sdbox.run("--private-tmp", "--", "ls", "/proc/self/fd")
    assert done.out.split() == ["0", "1", "2", "3"], "3 is of ls itself"


def test_descriptors_of_the_caller_are_not_handed_on(sdbox: Sdbox, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        done = sdbox.run("--", "ls", "/proc/self/fd", pass_fds=(file.fileno(),))
    assert done.out.split() == ["0", "1", "2", "3"]


def test_signal_dispositions_are_the_default(sdbox: Sdbox) -> None:
    assert signals(sdbox.run("--", "cat", "/proc/self/status").out) == {
        "SigBlk": 0,
        "SigIgn": 0,
        "SigCgt": 0,
    }


def test_what_the_caller_ignores_stays_ignored(sdbox: Sdbox) -> None:
    command = [*sdbox.run_command, f"--id={sdbox.new_id()}", "--", "cat", "/proc/self/status"]
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP USR1; exec "$0" "$@"', *command],
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    ignored = 1 << signal.SIGHUP - 1 | 1 << signal.SIGUSR1 - 1
    assert signals(done.stdout.decode())["SigIgn"] == ignored


def signals(status: str) -> dict[str, int]:
    """The masks in a /proc/PID/status. `cat` sets none of its own."""
    lines = (line.split(":") for line in status.splitlines())
    return {name: int(value, 16) for name, value in lines if name in ("SigBlk", "SigIgn", "SigCgt")}


def test_the_payload_keeps_what_a_child_keeps(sdbox: Sdbox, tmp_path: Path) -> None:
    """Working directory, umask, nice value, resource limits and process group."""
    script = "pwd; umask; nice; ulimit -S -n; ulimit -S -c; ulimit -H -c"
    expect = 'umask 027; ulimit -S -n 100; ulimit -c 0; exec nice -n 3 "$0" "$@"'
    command = [*sdbox.run_command, f"--id={sdbox.new_id()}", "--", "sh", "-c", script]
    done = subprocess.run(
        ["sh", "-c", expect, *command],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        timeout=SECONDS,
    )
    nice = os.nice(0) + 3
    assert done.stdout.decode().split() == [str(tmp_path), "0027", str(nice), "100", "0", "0"]


def test_whose_process_group_and_session_the_payload_is_in(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("echo up; read line")
    job.line()
    init, payload = sdbox.members(job.id)
    if sdbox.unit_type == "scope":
        assert os.getpgid(payload) == os.getpgid(job.pid)
        assert os.getsid(payload) == os.getsid(job.pid)
    else:
        assert os.getpgid(payload) == payload
        assert os.getsid(payload) == init
    job.send(b"\n")
    job.end()


def test_a_working_directory_that_was_removed(sdbox: Sdbox, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [*sdbox.run_command, f"--id={sdbox.new_id()}", "--", "pwd"]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$0" "$@"', *command],
        capture_output=True,
        check=True,
        cwd=gone,
        timeout=SECONDS,
    )
    assert done.stdout == b"/\n"
    assert done.stderr.startswith(b"sdbox: the working directory ")
    assert done.stderr.count(b"\n") == 1


def test_chdir(sdbox: Sdbox, tmp_path: Path) -> None:
    odd = tmp_path / 'a b"\n:é'
    odd.mkdir()
    assert sdbox.sh("pwd; echo .", f"--chdir={odd}").out == f"{odd}\n.\n"


def test_a_report_that_is_there_is_replaced(sdbox: Sdbox, tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    place.write_text("x" * 10_000)
    done = sdbox.run(f"--report={place}", "--", "true")
    assert done.status == 0
    assert place.read_text().startswith("{")
    assert place.read_text().endswith("}\n")


def test_a_report_of_bytes_that_are_no_text(sdbox: Sdbox) -> None:
    done = sdbox.run("--", "sh", "-c", "exit 4", b"\xff", report=True)
    assert done.status == 4
    assert [os.fsencode(word) for word in done.account["command"]][-1] == b"\xff"


def test_boxes_of_the_configuration(sdbox: Sdbox, tmp_path: Path) -> None:
    file = tmp_path / "sdbox.toml"
    file.write_text(
        '[defaults]\nEnvironment = { A = "default", B = "default" }\n'
        '[box.small]\nEnvironment = { B = "small" }\nPrivateTmp = true\n'
    )
    config = f"--config={file}"
    assert sdbox.sh("echo $A $B", config).out == "default default\n"
    done = sdbox.sh("echo $A $B $C; ls -A /tmp", config, "--box=small", "--env=C=line", report=True)
    assert done.out == "default small line\n"
    assert done.account["box"]["PrivateTmp"] == "yes"


def test_help_lists_every_directive(sdbox: Sdbox) -> None:
    from sdbox.directives import DIRECTIVES, OPTIONS

    shown = sdbox.call("run", "--help").out
    assert [name for name in (*DIRECTIVES, *OPTIONS) if name not in shown] == []


def test_it_is_what_python_m_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdbox", "--version"],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
        timeout=SECONDS,
    )
    assert done.stdout.startswith(b"sdbox ")


def test_stderr_that_nobody_reads(sdbox: Sdbox) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*sdbox.run_command, f"--id={sdbox.new_id()}", "--", "no-such-program"],
            stderr=full,
            check=False,
            timeout=SECONDS,
        )
    assert done.returncode == 127


@pytest.mark.parametrize("words", [("run", "--nope", "true"), ("list", "--nope")])
def test_what_a_verb_does_not_know_is_for_its_own_help(
    sdbox: Sdbox, words: tuple[str, ...]
) -> None:
    done = sdbox.call(*words)
    told = f"sdbox: unrecognized arguments: --nope. See sdbox {words[0]} --help\n"
    assert (done.status, done.out, done.err) == (2, "", told)
