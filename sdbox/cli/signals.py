"""Signals that reach `sdbox run`, passed on to the payload.

They are read from a signalfd, since only that tells who sent one: what the terminal sends (^C)
has reached a scope's payload already, which is in the same process group, and must not come twice.
"""

from __future__ import annotations

import os
import signal
import struct

from sdbox.init.syscalls import signalfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

FORWARDED = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTSTP,
        signal.SIGCONT,
    }
)
# Sent by a terminal to all of its foreground process group.
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})
# si_code of a signal that the kernel made, from its asm-generic/siginfo.h.
_SI_KERNEL = 0x80
# struct signalfd_siginfo: signo and code are its first and third number of 128 bytes.
_SIZE = 128
_NUMBER_AND_CODE = struct.Struct("=Iii")
# What Python sets to be ignored at its start (signal(7) has them as deadly).
_IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})


class Signals:
    """Takes over the signals of this process. `ignored` are those that its caller ignores."""

    def __init__(self) -> None:
        # Not valid_signals(), which looks up a name for each one.
        self.ignored = tuple(
            number
            for number in range(1, signal.NSIG)
            if number not in _IGNORED_BY_PYTHON and signal.getsignal(number) == signal.SIG_IGN
        )
        # Whether the payload is in this process group.
        self.reach_payload = True
        wanted = FORWARDED - set(self.ignored)
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        self.fd = signalfd({int(number) for number in wanted})

    def forward(self, send: Callable[[int], None]) -> None:
        """Pass on what has arrived."""
        data = os.read(self.fd, 16 * _SIZE)
        for start in range(0, len(data), _SIZE):
            number, _, code = _NUMBER_AND_CODE.unpack_from(data, start)
            from_terminal = code == _SI_KERNEL and number in _FROM_TERMINAL
            if not (from_terminal and self.reach_payload):
                send(number)


def stop() -> None:
    """Stop this process, as the payload was, so that the shell sees its job stopped."""
    os.kill(os.getpid(), signal.SIGSTOP)


def end_by(number: int) -> NoReturn:
    """End this process by a signal, as the payload was, or another command that it stands for."""
    import resource  # here, since few jobs end so

    # That has dumped core where it should; this process is of no interest.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    # Not reached, unless this process is the first of a PID namespace, which signals spare.
    os._exit(128 + number)
