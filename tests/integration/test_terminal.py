"""`sdbox run` at a terminal: a person's keys reach the payload as without sdbox."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Sdbox

SECONDS = seconds(30)
INTERRUPT, STOP, END, BACKSLASH = b"\x03", b"\x1a", b"\x04", b"\x1c"
PROMPT = "@box> "

# Counts SIGINT, and says the count for SIGUSR1: of two that are there, the lower comes first.
COUNTER = """
import signal, sys
numbers = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("up", flush=True)
count = 0
while signal.sigwait(numbers) == signal.SIGINT:
    count += 1
    print(f"INT {count}", flush=True)
print(f"total {count}", flush=True)
sys.exit(7)
"""


class Terminal:
    """A pseudo-terminal with a command as its session's leader."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            preexec_fn=lambda: os.login_tty(slave),
            pass_fds=(slave,),
            env={**os.environ, "TERM": "dumb", "PS1": PROMPT, **environment},
        )
        os.close(slave)
        self._seen = ""

    def type(self, keys: bytes | str) -> None:
        os.write(self._master, keys.encode() if isinstance(keys, str) else keys)

    def expect(self, text: str) -> str:
        """What is shown up to and including `text`."""
        end = time.monotonic() + SECONDS
        while text not in self._seen:
            assert self._more(end - time.monotonic()), f"{text!r} is not in {self._seen!r}"
        shown, _, self._seen = self._seen.partition(text)
        return shown + text

    def wait(self) -> int:
        """The command's status."""
        # What it writes must be read, or it may not come to its end.
        pidfd = os.pidfd_open(self.process.pid)
        try:
            end = time.monotonic() + SECONDS
            while not select.select([pidfd], [], [], 0)[0]:
                assert time.monotonic() < end, f"it does not end: {self._seen!r}"
                ready, _, _ = select.select([pidfd, self._master], [], [], SECONDS)
                if self._master in ready and not self._more(0):
                    break
        finally:
            os.close(pidfd)
        return self.process.wait(timeout=SECONDS)

    @property
    def foreground(self) -> int:
        return os.tcgetpgrp(self._master)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def hang_up(self) -> None:
        if self._master >= 0:
            os.close(self._master)
        self._master = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=SECONDS)
        self.hang_up()

    def _more(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # EIO: nobody has the terminal open any more.
            return False
        self._seen += data.decode()
        return bool(data)


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


@pytest.fixture
def terminal(sdbox: Sdbox) -> Iterator[Callable[..., Terminal]]:
    """Start a command on a terminal of its own. `{sdbox}` stands for `sdbox run --id=…`."""
    opened = []

    def start(*command: str) -> Terminal:
        job = sdbox.new_id()
        launch = [*sdbox.run_command, f"--id={job}"]
        words: list[str] = []
        for word in command:
            words += launch if word == "{sdbox}" else [word]
        opened.append(Terminal(words, {"SDBOX_TEST_JOB": job}))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


BOXES = pytest.mark.parametrize("options", [(), ("--pid-namespace",)], ids=["plain", "own-pids"])


@BOXES
def test_an_interactive_shell(terminal: Callable[..., Terminal], options: tuple[str, ...]) -> None:
    screen = terminal("{sdbox}", *options, "--", "bash", "--norc", "--noprofile", "-i")
    start = screen.expect(PROMPT)
    assert "job control" not in start
    assert "ioctl" not in start
    screen.type("tty; echo $((6 * 7))\n")
    assert "/dev/pts/" in screen.expect("42\r\n")
    screen.expect(PROMPT)
    screen.type("exit 5\n")
    assert screen.wait() == 5


@BOXES
def test_job_control_in_a_shell(
    terminal: Callable[..., Terminal], options: tuple[str, ...]
) -> None:
    screen = terminal("{sdbox}", *options, "--", "bash", "--norc", "--noprofile", "-i")
    screen.expect(PROMPT)
    # What is typed before the shell has its line could be lost in its change of the terminal.
    screen.type("echo be''gun; cat\n")
    screen.expect("begun\r\n")
    screen.type("line\n")
    screen.expect("line\r\nline\r\n")
    screen.type(STOP)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.type("fg\n")
    screen.expect("cat\r\n")
    screen.type("again\n")
    screen.expect("again\r\nagain\r\n")
    screen.type(INTERRUPT)
    screen.expect(PROMPT)
    screen.type("echo status $?\n")
    screen.expect("status 130\r\n")
    screen.expect(PROMPT)
    screen.type("exit\n")
    assert screen.wait() == 0


@BOXES
def test_an_interrupt_comes_once(
    terminal: Callable[..., Terminal], options: tuple[str, ...]
) -> None:
    screen = terminal("{sdbox}", *options, "--", sys.executable, "-ISc", COUNTER)
    screen.expect("up\r\n")
    for count in range(1, 4):
        screen.type(INTERRUPT)
        screen.expect(f"INT {count}\r\n")
    # It goes the way that a second SIGINT would have gone, and would not overtake it.
    screen.process.send_signal(signal.SIGUSR1)
    screen.expect("total 3\r\n")
    assert screen.wait() == 7


def test_an_interrupt_ends_what_does_not_mind_it(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("{sdbox}", "--", "sh", "-c", "echo up; exec sleep 600")
    screen.expect("up\r\n")
    screen.type(INTERRUPT)
    assert screen.wait() == -signal.SIGINT


def test_a_quit_ends_it_as_well(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("{sdbox}", "--", "sh", "-c", "ulimit -c 0; echo up; exec sleep 600")
    screen.expect("up\r\n")
    screen.type(BACKSLASH)
    assert screen.wait() == -signal.SIGQUIT


SIZES = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
while True:
    print(*os.get_terminal_size(0), flush=True)
    signal.sigwait({signal.SIGWINCH})
"""


@BOXES
def test_the_size_of_the_terminal(
    terminal: Callable[..., Terminal], options: tuple[str, ...]
) -> None:
    screen = terminal("{sdbox}", *options, "--", sys.executable, "-ISc", SIZES)
    screen.expect("\r\n")
    for rows, columns in ((30, 100), (10, 40)):
        screen.resize(rows, columns)
        screen.expect(f"{columns} {rows}\r\n")
    screen.type(BACKSLASH)
    assert screen.wait() == -signal.SIGQUIT


def test_the_end_of_input(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("{sdbox}", "--", "sh", "-c", "cat; exit 6")
    screen.type("text\n")
    screen.expect("text\r\ntext\r\n")
    screen.type(END)
    assert screen.wait() == 6


@pytest.fixture
def outer_shell(terminal: Callable[..., Terminal], sdbox: Sdbox) -> Callable[..., Terminal]:
    """An interactive shell, and a job in its foreground."""

    def start(*options: str) -> Terminal:
        screen = terminal("bash", "--norc", "--noprofile", "-i")
        screen.expect(PROMPT)
        # By a file, since a line with the whole command would be wrapped.
        script = Path(sdbox.directory, "job")
        words = [*sdbox.run_command, f"--id={sdbox.ids[-1]}", *options]
        script.write_text("#!/bin/sh\necho begun\nexec " + " ".join(map(_quoted, words)) + "\n")
        script.chmod(0o755)
        screen.type(f"{script}\n")
        screen.expect("begun\r\n")
        return screen

    return start


@BOXES
def test_a_stop_and_fg(outer_shell: Callable[..., Terminal], options: tuple[str, ...]) -> None:
    """Also where each key comes as soon as it can."""
    # What it answers can't be mistaken for what a terminal shows of what was typed.
    screen = outer_shell(*options, "--", "sed", "-u", "s/^/read /")
    screen.type("one\n")
    screen.expect("read one\r\n")
    for line in ("two", "three", "four"):
        screen.type(STOP)
        screen.expect("Stopped")
        screen.expect(PROMPT)
        screen.type("fg\n")
        screen.expect("/job\r\n")
        screen.type(f"{line}\n")
        screen.expect(f"read {line}\r\n")
    screen.type(END)
    screen.expect(PROMPT)
    screen.type("echo status $?; exit 0\n")
    screen.expect("status 0\r\n")
    assert screen.wait() == 0


def test_a_payload_that_stops_itself(outer_shell: Callable[..., Terminal]) -> None:
    """The shell sees sdbox stopped, as it would see the payload."""
    screen = outer_shell("--", "sh", "-c", "kill -STOP $$; echo con''tinued")
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.type("fg\n")
    screen.expect("continued\r\n")
    screen.expect(PROMPT)
    screen.type("exit 0\n")
    assert screen.wait() == 0


# No stop can come where it would not be seen, as in a shell's `trap` right before its `read`.
MINDS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
print("up", flush=True)
signal.sigwait([signal.SIGTSTP])
print("no", flush=True)
for line in sys.stdin:
    print(line, end="", flush=True)
"""


def test_a_payload_that_minds_a_stop(outer_shell: Callable[..., Terminal]) -> None:
    """It goes on, and sdbox as well."""
    screen = outer_shell("--", sys.executable, "-ISc", MINDS)
    screen.expect("up\r\n")
    screen.type(STOP)
    screen.expect("no\r\n")
    screen.type("text\n")
    screen.expect("text\r\ntext\r\n")
    screen.type(INTERRUPT)
    screen.expect(PROMPT)
    screen.type("exit 0\n")
    assert screen.wait() == 0


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


@BOXES
def test_the_terminal_is_given_back(
    terminal: Callable[..., Terminal], options: tuple[str, ...], unit_type: str
) -> None:
    """A shell takes the terminal for itself; its caller could read no more without sdbox's help."""
    script = '"$@"; echo status $?; read line; echo "got $line"'
    shell = ("bash", "--norc", "--noprofile", "-i")
    screen = terminal("sh", "-c", script, "sh", "{sdbox}", *options, "--", *shell)
    own = screen.process.pid
    screen.expect(PROMPT)
    # A service has a terminal of its own.
    assert (screen.foreground == own) == (unit_type == "service")
    screen.type("exit 9\n")
    screen.expect("status 9\r\n")
    assert screen.foreground == own
    screen.type("text\n")
    screen.expect("got text\r\n")
    assert screen.wait() == 0


def test_the_terminal_is_given_back_after_a_kill(
    terminal: Callable[..., Terminal], sdbox: Sdbox
) -> None:
    script = '"$@"; echo status $?; read line; echo "got $line"'
    screen = terminal("sh", "-c", script, "sh", "{sdbox}", "--", "bash", "--norc", "-i")
    screen.expect(PROMPT)
    screen.type("echo $$; kill -KILL $$\n")
    screen.expect("status 137\r\n")
    screen.type("text\n")
    screen.expect("got text\r\n")
    assert screen.wait() == 0


def test_a_job_in_the_background_leaves_the_terminal_alone(
    terminal: Callable[..., Terminal],
) -> None:
    script = '"$@" & wait; echo end'
    shell = ("bash", "--norc", "--noprofile", "-ic", script, "bash")
    screen = terminal(*shell, "{sdbox}", "--", "true")
    screen.expect("end\r\n")
    assert screen.wait() == 0


def test_a_hangup_ends_the_job(terminal: Callable[..., Terminal], sdbox: Sdbox) -> None:
    """The terminal's window is closed: SIGHUP comes, and the check after the test the rest."""
    screen = terminal("{sdbox}", "--", "sh", "-c", "echo up; exec sleep 600")
    screen.expect("up\r\n")
    screen.hang_up()
    assert screen.process.wait(timeout=SECONDS) == -signal.SIGHUP
